"""``shadow retrain train``: what `make retrain` runs. Recorded labelled traffic in, a challenger out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.cli.train import shown_on, train_challenger
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.features.seam import FeatureStore
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.serving import read_serving
from shadow_mlops.processes.settings import Settings, load_settings
from shadow_mlops.telemetry.logs import configure_logs

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


def train(  # noqa: PLR0917 - one parameter per option
    since: Annotated[str, typer.Option(help="Events from that time on, or 30d back. [default: all]")] = "",
    until: Annotated[str, typer.Option(help="Before that time. [default: now]")] = "",
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
    event's time. Nothing is changed unless all went well.

    Exit codes: 0 done, 75 the data must not be trained on, 2 wrong arguments, 3 no champion or version taken, 4
    registry, 5 store or serving not available.

    Example: shadow retrain train --since 30d
    """
    from shadow_mlops.retraining.dataset import ENTITY, TARGET, Checks, training_set  # noqa: PLC0415 - DuckDB, Arrow

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    configure_logs("retrain", level=settings.log_level)  # on standard error: standard output is for the result
    named = load_deployment(settings.deployment_file)
    step = shown_on(Console(stderr=True))
    with step("reading recorded events and labels"):
        made = training_set(
            settings.data_dir / "lake",
            _signature(settings),
            task=named.task,
            store=_store(settings, named),
            since=moment(since, "--since") if since else None,
            until=moment(until, "--until") if until else None,
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
        card = train_challenger(
            registry, split(data, seed=seed), name=named.name, seed=seed, version=version, step=step
        )
        told = msgspec.structs.replace(told, version=card.version, metrics=dict(card.metrics))
    print(msgspec.json.encode(told).decode())


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
