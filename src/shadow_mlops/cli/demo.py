"""``shadow demo``: the bundled example at work, on real processes and real HTTP."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.cli.demoplan import Plan, Result
from shadow_mlops.cli.options import DataDirOption
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.settings import load_settings

if TYPE_CHECKING:  # SQLAlchemy, DuckDB and Arrow take a second to import: only who asks pays for them
    from shadow_mlops.cli.demosystem import Site

app = typer.Typer(no_args_is_help=True, help="The bundled example at work, on real processes.")
FeatureRepoOption = Annotated[
    Path | None, typer.Option(help="Feast repository of the example. [default: requests carry all features]")
]
_CHECK_SECONDS = 10


@app.command()
def loop(  # noqa: PLR0917 - one parameter per option
    feature_repo: FeatureRepoOption = None,
    rate: Annotated[float, typer.Option(min=50, max=5000, help="Requests per second, to each of two gateways.")] = 150,
    before: Annotated[int, typer.Option(min=2000, help="Rows before the drift.")] = 6000,
    after: Annotated[int, typer.Option(min=2000, help="Rows to count after the promotion.")] = 6000,
    drift: Annotated[float, typer.Option(min=0, max=5, help="Size of the covariate drift.")] = 2.0,
    concept_drift: Annotated[float, typer.Option(min=0, max=1, help="Size of the concept drift.")] = 1.0,
    customers: Annotated[int, typer.Option(min=1000, help="Customers; they come back.")] = 20_000,
    kills: Annotated[int, typer.Option(min=0, help="Times that the monitor is killed with -9 meanwhile.")] = 0,
    seed: Annotated[int, typer.Option(help="Of customers, labels and kills.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Keep everything there. [default: a temporary folder, removed at the end]")
    ] = None,
    most_seconds: Annotated[float, typer.Option("--timeout", min=30, help="Seconds after which to give up.")] = 900,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of the result.")] = "text",
) -> None:
    """Stable traffic, then drift: retraining is triggered, trained, replayed, shadowed, promoted; nobody helps.

    Settings of this environment do not reach it: registry, database and log are in its folder, alerts go nowhere.
    Beside it a second gateway answers the same requests with the model of the beginning. Takes some five minutes.

    Exit codes: 0 all held, 1 something did not (it says what), 2 wrong arguments, 5 a process does not answer.

    Example: shadow demo loop --feature-repo feature_repo --kills 10
    """
    from shadow_mlops.cli.demoloop import Story  # noqa: PLC0415 - as above
    from shadow_mlops.cli.demosystem import apart  # noqa: PLC0415
    from shadow_mlops.example.sources import VIEWS  # noqa: PLC0415
    from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs("demo", level="ERROR")  # standard output is for the result
    console = Console(stderr=True, highlight=False)
    without = tuple(VIEWS["customer_demographics"]) if feature_repo is not None else ()
    plan = Plan(
        seed=seed,
        rate=rate,
        customers=customers,
        before=before,
        after=after,
        drift=drift,
        concept_drift=concept_drift,
        kills=kills,
        most_seconds=most_seconds,
        without=without,
    )
    feature_repo = feature_repo and feature_repo.absolute()
    with _folder(folder) as where, apart(where):
        live, frozen = _sites(plan, where, feature_repo, console)
        with live.running(["up"]), frozen.running(["gateway"], features=feature_repo is not None):
            result = Story(plan, live, frozen, console).run()
        if output == "json":
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
        else:
            _print(result)
        if result.problems:
            console.print(f"all of it is in {where}")
            raise typer.Exit(1)


@app.command()
def record(  # noqa: PLR0917 - one parameter per option
    rows: Annotated[int, typer.Option(min=100, help="Customers to send.")] = 6000,
    rate: Annotated[float, typer.Option(min=10, max=5000, help="Requests per second.")] = 500,
    drift_at: Annotated[int | None, typer.Option(min=0, help="Rows after which they drift. [default: never]")] = None,
    seed: Annotated[int, typer.Option(help="Of the customers.")] = 1000,
    feature_repo: FeatureRepoOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve the example, send it customers and their labels until all is archived, and end: traffic to try things on.

    Exit codes: 0 done, 2 wrong arguments, 3 something runs on that data directory, 5 a process does not answer.

    Example: shadow demo record --data-dir .shadow --rows 6000 --drift-at 3000
    """
    from shadow_mlops.cli.demosystem import record as run  # noqa: PLC0415 - as above
    from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs("demo", level="ERROR")
    settings = load_settings(data_dir=data_dir)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    recorded = run(settings, rows=rows, rate=rate, drift_at=drift_at, seed=seed, feature_repo=feature_repo)
    print(f"{recorded:,} events with labels recorded in {settings.data_dir}")


@contextmanager
def _folder(asked: Path | None) -> Iterator[Path]:
    if asked is None:
        made = Path(tempfile.mkdtemp(prefix="shadow-demo-"))
        yield made
        shutil.rmtree(made)  # not where it failed: then a person wants to look
        return
    if asked.exists() and any(asked.iterdir()):
        raise SettingsError(f"{asked} is not empty: choose another --folder, or remove it")
    asked.mkdir(parents=True, exist_ok=True)
    yield asked.absolute()


def _sites(plan: Plan, where: Path, feature_repo: Path | None, console: Console) -> tuple[Site, Site]:
    from shadow_mlops.cli.demosystem import Site, copy_repository, example_site  # noqa: PLC0415 - as above
    from shadow_mlops.cli.steps import shown_on  # noqa: PLC0415

    step = shown_on(console)
    repository = None
    if feature_repo is not None:
        repository = where / "feature_repo"
        copy_repository(feature_repo, repository, customers=plan.customers, seed=plan.seed, step=step)
    live = where / "live"
    file = example_site(live, more=_sections(repository), step=step)
    made = load_settings(data_dir=live, deployment_file=file)
    (where / "frozen").mkdir()
    check = {"DRIFT_CHECK_INTERVAL_HOURS": str(_CHECK_SECONDS / 3600)}
    pinned = {
        "MLFLOW_TRACKING_URI": made.tracking_uri,
        "MODEL_CHAMPION_VERSION": "2.1.0",
    }
    beside = made.model_copy(
        update={"data_dir": where / "frozen", "mlflow_tracking_uri": made.tracking_uri, "log_level": "ERROR"}
    )
    return Site(made, check), Site(beside, pinned)


def _sections(repository: Path | None) -> dict[str, Any]:
    from shadow_mlops.cli.demosystem import shadow  # noqa: PLC0415 - as above

    # The fourth drifted check comes 30 s after the first: what is trained on has drifted, whoever was killed meanwhile.
    train = shadow("retrain", "train", "--since", "30s", "--replay", "20%", "--min-rows", "1500", "--max-rows", "6000")
    # Two gateways, two stores, a sender and a training share perhaps two cores: a read may wait for one.
    stored = {} if repository is None else {"feature_store": {"path": str(repository), "timeout_ms": 250}}
    return {
        **stored,
        "labels": {"max_delay": "20s", "cohort": "1s"},
        "drift": {"window": {"hours": 1, "min_rows": 1000, "rows": 2000}, "bucket": "1s", "run_length": "30d"},
        "gate": {"metric": "log_loss", "min_labels": 200, "auto_promote": True},
        "canary": {"steps": [0.1, 0.5], "values_per_step": 300},
        "retrain": {"action": {"command": train}, "windows": 4, "cool_down": "30s", "daily_budget": 10},
    }


def _print(result: Result) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("accuracy")
    table.add_column("of", justify="right")
    table.add_column("rows")
    before, after = f"{result.plan.before:,} before the drift", f"{result.plan.after:,} after the promotion"
    for name, who, rows in (
        ("before", "champion", before),
        ("drifted", "champion", "drifted, until the promotion"),
        ("after", f"champion {result.champion}", after),
        ("frozen", "the model of the beginning", "the same rows"),
    ):
        table.add_row(f"{result.accuracy[name]:.4f}", who, rows)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"{result.answers['live']:,} answers, {result.failed:,} requests without one; retrainings: "
        f"{', '.join(result.retrainings)}; promotions: {result.promotions}; monitor killed {result.kills} times"
    )
    for problem in result.problems:
        console.print(f"not as it should be: {problem}", style="red", markup=False)
