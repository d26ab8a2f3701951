"""A replay: recorded traffic of a data directory through one registered version, in the foreground."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from shadow_mlops.challenger.replay import OnProgress, Replay, Replayed
from shadow_mlops.challenger.scorer import LOADER, Limits
from shadow_mlops.challenger.steady import SteadyScorer
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ModelNotFoundError, ModelRefusedError, SettingsError
from shadow_mlops.domain.events import replays_stream
from shadow_mlops.models.loading import load_elsewhere
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.processes.filling import stored_fill
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.pyfuncs import permit_pyfuncs
from shadow_mlops.processes.resolver import recent_rows
from shadow_mlops.processes.settings import Settings

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>.+)|@(?P<alias>[^/@]+))")
_LOAD_SECONDS = 60.0


def run(
    settings: Settings,
    model: str,
    *,
    since: datetime,
    until: datetime,
    stopping: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda _passed, _all, _scored: None,
    loader: str = LOADER,
) -> Replayed:
    """Score the events of a span of time that have no result of a version yet.

    Parameters
    ----------
    model
        ``models:/NAME/VERSION`` with a human version, or ``models:/NAME@ALIAS``.
    since, until
        Aware; the second one is excluded.
    stopping
        True once the replay has been asked to end.
    loader
        ``module:function`` that loads a prepared directory in the scorer's process.

    Raises
    ------
    ConflictError
        If this version is being replayed.
    SettingsError
        If the model is not written as it should be, or the span is empty.
    DeploymentError
        If the deployment file is wrong.
    ModelNotFoundError, ModelRefusedError, RegistryError
        If there is no such version, or it cannot be had or loaded.
    LogError, LakeError
        If log or lake cannot be read, or the log takes no results.
    """
    permit_pyfuncs(settings)
    if since >= until:
        raise SettingsError(f"the span is empty: it begins at {since.isoformat()} and ends at {until.isoformat()}")
    deployment = load_deployment(settings.deployment_file)
    registry = Registry(settings.tracking_uri, settings.artifact_root)
    version = find_version(registry, deployment, model)
    lock = replays_stream(version.human).replace("/", "-")
    with only_one(settings.data_dir / "run" / f"{lock}.lock", f"a replay of {version.name} {version.human}"):
        events = open_log(settings, deployment)
        directory = prepare(
            registry,
            version,
            data_dir=settings.data_dir,
            allow_pickle=settings.allow_pickle,
            recent_rows=lambda signature: recent_rows(events, signature),
        )
        load_elsewhere(directory)
        scorer = SteadyScorer(
            directory,
            limits=Limits(
                batch_seconds=deployment.shadow.timeout_ms / 1000,
                load_seconds=_LOAD_SECONDS,
                memory_bytes=settings.challenger_memory_mb * 2**20,
            ),
            stopping=stopping,
            loader=loader,
        )
        try:
            if scorer.card.task != deployment.task:
                raise ModelRefusedError(
                    f"{version.name} {version.human} is a {scorer.card.task} model, the deployment's task is"
                    f" {deployment.task}"
                )
            replay = Replay(
                events,
                settings.data_dir / "lake",
                card=scorer.card,
                deployment=deployment.name,
                since_us=_microseconds(since),
                until_us=_microseconds(until),
                score=scorer.score,
                batch_rows=settings.challenger_batch_rows,
                stopping=stopping,
                on_progress=on_progress,
                fill=stored_fill(settings, deployment),
            )
            if scorer.load():
                return replay.run()
            replay.done.interrupted = True
            return replay.done
        finally:
            scorer.close()


def find_version(registry: Registry, deployment: Deployment, model: str) -> RegisteredVersion:
    """The version that ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` means.

    Raises
    ------
    SettingsError
        If it is written otherwise, or names another model than the deployment's.
    ModelNotFoundError
        If there is none.
    RegistryError
        If the registry does not answer.
    """
    match = _MODEL.fullmatch(model)
    if match is None:
        raise SettingsError(f"write --model as models:/{deployment.name}/VERSION, not {model!r}")
    name, alias = match["name"], match["alias"]
    if name != deployment.name:
        raise SettingsError(
            f"this deployment's model is {deployment.name!r}, not {name!r}: choose another with --deployment"
        )
    if alias is None:
        return registry.version(name, match["version"])
    number = registry.aliases(name).get(alias)
    if number is None:
        raise ModelNotFoundError(f"model {name!r} has no alias {alias!r}; see: shadow models list")
    return registry.numbered(name, number)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)
