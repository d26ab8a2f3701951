"""``scripts/train_model.py``: train a pair of models, register them, write the deployment file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.cli.options import DataDirOption
from shadow_mlops.cli.steps import Step, quiet, shown_on
from shadow_mlops.deployment import load_deployment, parse_deployment
from shadow_mlops.domain.errors import ConflictError, ModelNotFoundError, SettingsError, TrainingError
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.registration import register
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.processes.settings import load_settings

if TYPE_CHECKING:  # pandas and scikit-learn take seconds to import: only who trains pays for them
    from shadow_mlops.training import Dataset, Split
    from shadow_mlops.training.deployment_file import Default
    from shadow_mlops.training.pipelines import ModelKind

EXAMPLE_NAME = "churn"
EXAMPLE_VERSIONS = {"champion": "2.1.0", "challenger": "3.0.0-beta"}
EXAMPLE_SEED = 1
EXAMPLE_ROWS = 40_000
EXAMPLE_HELD_OUT = 10_000
_ROLES: dict[str, ModelKind] = {"champion": "linear", "challenger": "boosting"}
_FIRST_VERSION = (1, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training left behind.

    Attributes
    ----------
    cards
        Alias -> version that was registered under it.
    deployment_file
        Where the deployment stands.
    notes
        What a person should know of it, one sentence each.
    """

    cards: dict[str, ModelCard]
    deployment_file: Path
    notes: tuple[str, ...]


def train_example(
    registry: Registry, directory: Path, *, feature_repo: Path | None = None, step: Step = quiet
) -> Outcome:
    """Train and register the example's two models, as far as they are not, and write its deployment file.

    Parameters
    ----------
    directory
        Where ``shadow.yaml`` is written; ``<data-dir>/example``.
    feature_repo
        Feast repository that the deployment names; None: it has no feature store.

    Raises
    ------
    RegistryError
        If the registry does not answer.
    """
    rows = _example_split(EXAMPLE_ROWS, EXAMPLE_SEED, step)
    absent: dict[str, str] = {}
    for alias, human in EXAMPLE_VERSIONS.items():
        found = _tagged(registry, EXAMPLE_NAME, human)
        if found is None:
            absent[alias] = human
        elif alias not in registry.aliases(EXAMPLE_NAME):  # an earlier run ended between the two
            registry.set_alias(EXAMPLE_NAME, alias, found.number)
    cards = _fit_and_register(registry, EXAMPLE_NAME, rows, absent, seed=EXAMPLE_SEED, step=step)
    path = directory / "shadow.yaml"
    _write(path, _text(EXAMPLE_NAME, rows.data, _typical(rows.data), feature_repo))
    return Outcome(cards=cards, deployment_file=path, notes=())


def train_and_register(
    registry: Registry,
    rows: Split,
    *,
    name: str,
    output: Path,
    text: str,
    seed: int,
    version: str | None = None,
    challenger_version: str | None = None,
    overwrite: bool = False,
    step: Step = quiet,
) -> Outcome:
    """Train on a split, register what is new under the name, and write ``output/shadow.yaml``.

    A name without champion gets both models. One with a champion gets a challenger only: who answers clients
    is decided by promotion, not by training.

    Parameters
    ----------
    text
        The deployment file.
    version, challenger_version
        Human versions; None takes 1.0.0, or the next minor version.
    overwrite
        Replace a deployment file that stands there already.

    Raises
    ------
    ConflictError
        If a version is taken, or the file is that of another deployment. Nothing has been trained then.
    """
    path = output / "shadow.yaml"
    parse_deployment(text, path=str(path))
    kept = _stands_already(path, name, overwrite=overwrite)
    versions = _versions(registry, name, version, challenger_version)
    cards = _fit_and_register(registry, name, rows, versions, seed=seed, step=step)
    notes = [f"{column!r} is not a feature: {reason}" for column, reason in rows.data.dropped.items()]
    if "champion" not in cards:
        notes.append(f"the champion of {name} was left alone; to switch: shadow models promote VERSION")
    if kept:
        notes.append(f"{path} stood there and was left as it is; --overwrite replaces it")
    else:
        _write(path, text)
    return Outcome(cards=cards, deployment_file=path, notes=tuple(notes))


def train_challenger(
    registry: Registry,
    rows: Split,
    *,
    name: str,
    seed: int,
    version: str | None = None,
    first: Callable[[ModelCard], None] | None = None,
    step: Step = quiet,
) -> ModelCard:
    """Train the boosted model on a split and register it as the challenger; who answers clients stays as it is.

    Parameters
    ----------
    version
        Human version; None takes the next minor one.
    first
        Called with the registered version before it becomes the challenger.

    Raises
    ------
    ConflictError
        If the name has no champion, or the version is taken. Nothing has been trained then.
    """
    versions = _versions(registry, name, None, version)
    if "champion" in versions:
        raise ConflictError(f"{name} has no champion to challenge: scripts/train_model.py trains a first one")
    card = _fit_and_register(registry, name, rows, versions, seed=seed, aliased=False, step=step)["challenger"]
    if first is not None:
        first(card)
    registry.set_alias(name, "challenger", registry.version(name, card.version).number)
    return card


def train(  # noqa: PLR0917 - one parameter per option
    name: Annotated[str, typer.Option(help="Name to register the models under.")],
    output: Annotated[Path, typer.Option(help="Folder that shadow.yaml is written to.")] = Path(),
    data: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file. [default: customers of the bundled generator]")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to learn.")] = None,
    entity: Annotated[str | None, typer.Option("--id", help="Column that says whom a row is about.")] = None,
    task: Annotated[
        str | None, typer.Option(help="binary, multiclass or regression. [default: by the target's values]")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Class to predict. [default: 1, Yes, or the rarer of two]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of split, models and generator.")] = EXAMPLE_SEED,
    rows: Annotated[int, typer.Option(min=1000, help="Customers to generate without --data.")] = EXAMPLE_ROWS,
    version: Annotated[str | None, typer.Option(help="Champion's version. [default: 1.0.0]")] = None,
    challenger_version: Annotated[
        str | None, typer.Option(help="Challenger's version. [default: the next minor version]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing shadow.yaml.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Train a linear champion and a boosted challenger, register both, write shadow.yaml.

    Exit code: 0 done, 2 wrong data or arguments, 3 version taken, 4 registry.

    Example: python scripts/train_model.py --data telco.csv --target Churn --id customerID --name telco
    --output telco
    """
    settings = load_settings(data_dir=data_dir)
    step = shown_on(Console(stderr=True))
    registry = Registry(settings.tracking_uri, settings.artifact_root)
    split_rows, defaults = _load(
        data,
        target=target,
        entity=entity,
        task=_task(task),
        positive=positive,
        seed=seed,
        rows=rows,
        step=step,
    )
    outcome = train_and_register(
        registry,
        split_rows,
        name=name,
        output=output,
        text=_text(name, split_rows.data, defaults),
        seed=seed,
        version=version,
        challenger_version=challenger_version,
        overwrite=overwrite,
        step=step,
    )
    _report(Console(), name, split_rows, outcome)


def _load(
    path: Path | None,
    *,
    target: str | None,
    entity: str | None,
    task: Task | None,
    positive: str | None,
    seed: int,
    rows: int,
    step: Step,
) -> tuple[Split, Mapping[str, Default]]:
    if path is None:
        if target or entity or task or positive:
            raise SettingsError("--target, --id, --task and --positive describe a file: give --data FILE")
        made = _example_split(rows, seed, step)
        return made, _typical(made.data)
    if target is None:
        raise SettingsError("--data needs --target COL, the column to learn")
    with step(f"reading {path}"):
        from shadow_mlops.training import prepare, read_table, split  # noqa: PLC0415 - seconds to import

        data = prepare(read_table(path), target=target, entity=entity, task=task, positive=positive, where=str(path))
        # A column with gaps in training may have gaps in requests; nothing else is invented.
        return split(data, seed=seed), dict.fromkeys(data.missing)


def _task(text: str | None) -> Task | None:
    known: dict[str, Task] = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
    if text is not None and text not in known:
        raise SettingsError(f"--task is one of {', '.join(known)}, not {text!r}")
    return known[text] if text is not None else None


def _example_split(rows: int, seed: int, step: Step) -> Split:
    with step(f"generating {rows:,} customers"):
        import pyarrow as pa  # noqa: PLC0415

        from shadow_mlops.example import ENTITY, TARGET, generate  # noqa: PLC0415
        from shadow_mlops.training import prepare, split  # noqa: PLC0415

        customers = generate(rows, seed=seed)
        data = prepare(pa.table(customers.columns()), target=TARGET, entity=ENTITY)
        return split(data, seed=seed, held_out=EXAMPLE_HELD_OUT if rows >= 2 * EXAMPLE_HELD_OUT else 0.25)


def _typical(data: Dataset) -> Mapping[str, Default]:
    from shadow_mlops.training import typical_values  # noqa: PLC0415

    return typical_values(data)


def _text(name: str, data: Dataset, defaults: Mapping[str, Default], feature_repo: Path | None = None) -> str:
    from shadow_mlops.training import deployment_text  # noqa: PLC0415

    return deployment_text(name, data, defaults=defaults, feature_repo=feature_repo)


def _fit_and_register(
    registry: Registry,
    name: str,
    rows: Split,
    versions: Mapping[str, str],
    *,
    seed: int,
    aliased: bool = True,
    step: Step,
) -> dict[str, ModelCard]:
    """Alias -> card, for each alias -> version that is wanted."""
    from shadow_mlops.training import fit  # noqa: PLC0415

    cards: dict[str, ModelCard] = {}
    for alias, human in versions.items():
        with step(f"training {alias} {human} on {len(rows.train):,} rows"):
            model = fit(rows, kind=_ROLES[alias], seed=seed)
        with step(f"registering {name} {human}"):
            cards[alias] = register(
                registry,
                name=name,
                version=human,
                estimator=model.estimator,
                signature=model.signature,
                task=model.task,
                classes=model.classes,
                metrics=model.metrics,
                reference=model.reference,
                data_hash=model.data_hash,
                params=model.params,
                aliases=(alias,) if aliased else (),
                tags={"kind": model.kind},
            )
    return cards


def _versions(registry: Registry, name: str, version: str | None, challenger_version: str | None) -> dict[str, str]:
    try:
        taken = [each.human for each in registry.versions(name)]
        has_champion = "champion" in registry.aliases(name)
    except ModelNotFoundError:
        taken, has_champion = [], False
    if has_champion and version is not None:
        raise ConflictError(f"{name} has a champion, only a challenger is trained: use --challenger-version")
    wanted: dict[str, str] = {}
    if not has_champion:
        wanted["champion"] = version or _next_minor(taken)
    wanted["challenger"] = challenger_version or _next_minor([*taken, *wanted.values()])
    for alias, human in wanted.items():
        if human in taken or list(wanted.values()).count(human) > 1:
            raise ConflictError(f"{name} has a version {human!r} already; give the {alias} another one")
    return wanted


def _next_minor(taken: Sequence[str]) -> str:
    """The minor version after the highest; versions that are no x.y.z count for nothing.

    >>> _next_minor([]), _next_minor(["1.0.0", "1.10.2", "latest"]), _next_minor(["3.0.0-beta"])
    ('1.0.0', '1.11.0', '3.1.0')
    """
    matches = (re.match(r"(\d+)\.(\d+)\.(\d+)", text) for text in taken)
    found = [tuple(map(int, match.groups())) for match in matches if match]
    if not found:
        return ".".join(map(str, _FIRST_VERSION))
    major, minor, _ = max(found)
    return f"{major}.{minor + 1}.0"


def _tagged(registry: Registry, name: str, human: str) -> RegisteredVersion | None:
    try:
        return next(iter(registry.tagged(name, human)), None)
    except ModelNotFoundError:
        return None


def _stands_already(path: Path, name: str, *, overwrite: bool) -> bool:
    if overwrite or not path.exists():
        return False
    other = load_deployment(path).name
    if other != name:
        raise ConflictError(f"{path} is the deployment of {other!r}; choose another --output, or --overwrite")
    return True


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".yaml.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)  # whoever watches the file never reads half of it
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error


def _report(console: Console, name: str, rows: Split, outcome: Outcome) -> None:
    data = rows.data
    learned = data.target if data.positive is None else f"{data.target} = {data.positive}"
    cards = outcome.cards
    table = Table(title=f"{name}: {data.task}, {learned}; on {len(rows.held_out):,} held-out rows")
    table.add_column("role")
    table.add_column("version")
    table.add_column("serves as")
    names = next(iter(cards.values())).metrics
    for metric in names:
        table.add_column(metric, justify="right")
    for alias, card in cards.items():
        table.add_row(alias, card.version, card.runtime, *(f"{card.metrics[metric]:.4f}" for metric in names))
    console.print(table)
    for note in outcome.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"deployment: {outcome.deployment_file}", highlight=False, markup=False, soft_wrap=True)
