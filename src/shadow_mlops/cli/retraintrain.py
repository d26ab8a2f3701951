"""``shadow retrain train``: what `make retrain` runs. Recorded labelled traffic in, a challenger out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
from rich.console import Console

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.cli.steps import shown_on
from shadow_mlops.cli.train import train_challenger
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment, Duration
from shadow_mlops.domain.errors import DataRefusedError, SettingsError, ShadowError, UnavailableError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.features.seam import FeatureStore
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.serving import read_serving
from shadow_mlops.processes.settings import Settings, load_settings
from shadow_mlops.telemetry.logs import configure_logs

log = structlog.get_logger()

_SEED = 1


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--format json`` prints."""

    model: str
    version: str | None
    """None: a dry run."""
    rows: int
    joined: dict[str, int]
    """Feature -> rows whose value the store's history gave."""
    metrics: dict[str, float]
    replayed_since: str | None = None
    """RFC 3339: from then on, what was replayed and not trained on; None: nothing was replayed."""
    replayed: int = 0
    """Events that the replay has scored."""
    replay_problem: str = ""
    """Why not all of them were; the version is registered all the same."""


def train(  # noqa: PLR0917 - one parameter per option
    since: Annotated[str, typer.Option(help="Events from that time on, or 30d back. [default: all]")] = "",
    until: Annotated[str, typer.Option(help="Before that time. [default: now]")] = "",
    replay: Annotated[
        str,
        typer.Option(
            help="Leave out the newest span, such as 7d or 25% of what is labelled; the new version scores it."
        ),
    ] = "",
    min_rows: Annotated[int, typer.Option(min=50, help="Fewer labelled events are refused.")] = 1000,
    max_rows: Annotated[int, typer.Option(min=50, help="Take the newest so many.")] = 200_000,
    version: Annotated[str | None, typer.Option(help="Of the challenger. [default: the next minor version]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make and check the training set, train nothing.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the training set there, as Parquet.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of split and model.")] = _SEED,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Train a challenger on recorded traffic and its final labels, and register it under the alias `challenger`.

    What clients sent is taken as it was; what came from the feature store, or stood in for it, is joined as of each
    event's time. Nothing is changed unless all went well. With --replay the new version first scores rows that it has
    not been trained on, for `shadow compare` and `shadow gate evaluate`; then it is shadowed.

    Exit codes: 0 done, 75 the data must not be trained on, 2 wrong arguments, 3 no champion or version taken, 4
    registry, 5 store or serving not available.

    Example: shadow retrain train --since 30d
    """
    from shadow_mlops.retraining.dataset import ENTITY, TARGET, Checks, training_set  # noqa: PLC0415 - DuckDB, Arrow

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    configure_logs("retrain", level=settings.log_level)  # on standard error: standard output is for the result
    named = load_deployment(settings.deployment_file)
    step = shown_on(Console(stderr=True))
    with _refusal_told(), step("reading recorded events and labels"):
        begin, end, cut = _spans(settings, since, until, replay)
        made = training_set(
            settings.data_dir / "lake",
            _signature(settings),
            task=named.task,
            store=_store(settings, named),
            since=begin,
            until=cut or end,
            most_rows=max_rows,
            checks=Checks(rows=min_rows),
        )
    if output is not None:
        import pyarrow.parquet as pq  # noqa: PLC0415

        pq.write_table(made.table, output)
    told = Trained(model=named.name, version=None, rows=made.table.num_rows, joined=made.joined, metrics={})
    if not dry_run:
        from shadow_mlops.training import prepare, split  # noqa: PLC0415 - seconds to import

        entity = ENTITY if ENTITY in made.table.column_names else None
        positive = str(named.positive) if named.task == "binary" else None
        data = prepare(
            made.table, target=TARGET, entity=entity, task=named.task, positive=positive, where="the traffic"
        )
        registry = Registry(settings.tracking_uri, settings.artifact_root)

        def replayed(card: ModelCard) -> None:
            nonlocal told
            if cut is not None:
                with step(f"replaying what came since {cut:%H:%M:%S} UTC"):
                    told = _replayed(told, settings, card, cut, end or datetime.now(UTC))

        rows = split(data, seed=seed)
        card = train_challenger(registry, rows, name=named.name, seed=seed, version=version, first=replayed, step=step)
        told = msgspec.structs.replace(told, version=card.version, metrics=dict(card.metrics))
    print(msgspec.json.encode(told).decode())


@contextmanager
def _refusal_told() -> Iterator[None]:
    """Leave the reason of a refusal where the trigger looks for it: ``make`` turns every exit code into 2."""
    from shadow_mlops.retraining.records import REFUSED_VARIABLE  # noqa: PLC0415 - as above

    try:
        yield
    except DataRefusedError as error:
        if path := os.environ.get(REFUSED_VARIABLE):
            Path(path).write_text(str(error), encoding="utf-8")
        raise


def _spans(
    settings: Settings, since: str, until: str, replay: str
) -> tuple[datetime | None, datetime | None, datetime | None]:
    """What to train on, [begin, end), and from when on it is replayed instead."""
    begin, end = moment(since, "--since") if since else None, moment(until, "--until") if until else None
    if not replay:
        return begin, end, None
    try:
        cut = (
            _share(settings, begin, end, float(replay[:-1]) / 100)
            if replay.endswith("%")
            else (end or datetime.now(UTC)) - timedelta(seconds=Duration.parse(replay))
        )
    except (ValueError, OverflowError):
        raise SettingsError(
            f"--replay takes a span such as 7d, 12h or 30m, or a share such as 25%, not {replay!r}"
        ) from None
    if begin is not None and begin >= cut:
        raise SettingsError(f"--replay {replay} leaves nothing to train on: the span begins at {begin.isoformat()}")
    return begin, end, cut


def _share(settings: Settings, begin: datetime | None, end: datetime | None, share: float) -> datetime:
    from shadow_mlops.retraining.dataset import newest_share  # noqa: PLC0415 - DuckDB, Arrow

    if not 0 < share < 1:
        raise ValueError
    return newest_share(settings.data_dir / "lake", share, since=begin, until=end)


def _replayed(told: Trained, settings: Settings, card: ModelCard, cut: datetime, end: datetime) -> Trained:
    """A version that is registered and good stays so whatever becomes of its replay: it can be run again."""
    from shadow_mlops.processes.replay import run  # noqa: PLC0415 - seconds to import

    model = f"models:/{told.model}/{card.version}"
    try:
        done = run(settings, model, since=cut, until=end)
    except ShadowError as error:
        problem = f"{error} (again: shadow replay --model {model} --since {cut.isoformat()})"
        log.error("the replay failed; the new version is shadowed without", problem=problem)
        return msgspec.structs.replace(told, replay_problem=problem)
    return msgspec.structs.replace(told, replayed_since=cut.isoformat(), replayed=done.scored)


def _signature(settings: Settings) -> Signature:
    """What the champion takes, then what challengers take beside."""
    serving = read_serving(settings.data_dir / "serving.json")
    if serving is None:
        raise UnavailableError(f"nothing has been served from {settings.data_dir} yet: start `shadow up` first")
    features: dict[str, Feature] = {}
    for directory in (serving.champion, *serving.challengers.values()):
        for feature in read_card(settings.data_dir / directory).signature.features:
            features.setdefault(feature.name, feature)
    return Signature(tuple(features.values()))


def _store(settings: Settings, deployment: Deployment) -> Callable[[], FeatureStore] | None:
    if deployment.feature_store is None:
        return None
    from shadow_mlops.processes.features import open_store  # noqa: PLC0415 - other commands need none of it

    return lambda: open_store(deployment, settings.deployment_file)
