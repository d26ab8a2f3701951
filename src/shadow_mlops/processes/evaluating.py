"""One look at a version by the gate's rule, with the settings of this process."""

from __future__ import annotations

import time
from datetime import datetime

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ConflictError, ModelNotFoundError, SettingsError, UnavailableError
from shadow_mlops.domain.events import replays_stream
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.resolver import CHAMPION
from shadow_mlops.processes.gating import roles_of
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.settings import Settings
from shadow_mlops.rollout.evaluating import Evaluation, evaluate
from shadow_mlops.rollout.spec import spec_of

_LOOK_SECONDS = 0.2


def run(
    settings: Settings, version: str, *, since: datetime, until: datetime, archive_seconds: float = 60.0
) -> Evaluation:
    """Judge a registered version against the champion of now, on the recorded pairs of a span.

    Where no monitor runs, what the log holds is archived first.

    Parameters
    ----------
    version
        Human version, or the registry's number of an untagged one.
    archive_seconds
        How long a running monitor may take to archive what was replayed.

    Raises
    ------
    ConflictError
        If the version is the champion, there are no pairs, or the deployment has no gate.
    ModelNotFoundError, RegistryError
        If there is no such version, or no champion.
    SettingsError
        If the span is empty.
    UnavailableError
        If the monitor has not archived the replay in time.
    LakeError
        If log or lake cannot be read.
    """
    if since >= until:
        raise SettingsError(f"the span is empty: it begins at {since.isoformat()} and ends at {until.isoformat()}")
    deployment = load_deployment(settings.deployment_file)
    spec = spec_of(deployment)
    if spec is None:
        raise ConflictError("this deployment has no gate: name `gate.metric` and `gate.bound` in its file")
    registry = Registry(settings.tracking_uri, settings.artifact_root)
    human = registry.version(deployment.name, version).human
    champion = _champion(settings, deployment, registry)
    if human == champion:
        raise ConflictError(f"version {human} is the champion: name another to compare with it")
    _bring_up(settings, deployment, human, archive_seconds)
    return evaluate(
        settings.data_dir / "lake",
        spec,
        model=deployment.name,
        champion=champion,
        version=human,
        since=since,
        until=until,
    )


def _champion(settings: Settings, deployment: Deployment, registry: Registry) -> str:
    """Who serves on this host; before anybody has, whom the registry names."""
    roles = roles_of(settings.data_dir, deployment)
    if roles is not None:
        return roles.champion
    number = registry.aliases(deployment.name).get(CHAMPION)
    if number is None:
        raise ModelNotFoundError(f"model {deployment.name!r} has no champion: set the alias `champion` on a version")
    return registry.numbered(deployment.name, number).human


def _bring_up(settings: Settings, deployment: Deployment, version: str, seconds: float) -> None:
    """Have the lake hold what was replayed: the monitor archives it; where none runs, this does."""
    log, lake = SegmentLog(settings.data_dir / "log"), settings.data_dir / "lake"
    try:
        with only_one(settings.data_dir / "run" / "monitor.lock", "the monitor"):
            archiver = Archiver(log, lake, labels=deployment.labels, retain_days=deployment.lake.retain_days)
            try:
                while archiver.round():
                    pass
            finally:
                archiver.close()
    except ConflictError:
        _await_monitor(log, settings, version, seconds)


def _await_monitor(log: SegmentLog, settings: Settings, version: str, seconds: float) -> None:
    stream, deadline = replays_stream(version), time.monotonic() + seconds
    if stream not in log.streams():
        return
    while True:
        tail = log.tail(stream, read_manifest(settings.data_dir / "lake").positions.get(stream))
        try:
            left = tail.backlog()
        finally:
            tail.close()
        if not left:
            return
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the monitor has not archived {left:,} results of version {version} within {seconds:g} s: look at its"
                " log, or ask again later"
            )
        time.sleep(_LOOK_SECONDS)
