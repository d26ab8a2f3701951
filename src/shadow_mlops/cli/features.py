"""``shadow features``: what the store has of an entity, and whether training would see what requests saw."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.cli.exits import ErrorsExitTwo
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.deployment import load_deployment
from shadow_mlops.features.seam import Held
from shadow_mlops.processes.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="The feature store.")
FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]
_US = 1_000_000


@app.command()
def show(
    entity: Annotated[str, typer.Argument(help="Whose features.")],
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """The newest stored values of an entity, with their ages; expired ones are not used for requests.

    Exit codes: 0 told, 2 no store or one that cannot be opened, 5 it does not answer.

    Example: shadow features show CUST-001
    """
    from shadow_mlops.processes.features import open_store  # noqa: PLC0415 - other commands need none of it

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    store = open_store(load_deployment(settings.deployment_file), settings.deployment_file)
    names = tuple(sorted(store.declared))
    found = store.online(names, [entity])
    table = Table(title=f"{entity}: stored features")
    for heading in ("feature", "value", "age", "state"):
        table.add_column(heading)
    now = datetime.now(UTC).timestamp()
    for name, value, held, time_us in zip(names, found.values[0], found.held[0], found.times[0], strict=True):
        age = f"{(now - time_us / _US) / 3600:.1f} h" if time_us else ""
        shown = "" if held != Held.FRESH else "missing" if value is None else str(value)
        table.add_row(name, shown, age, Held(held).name.lower())
    Console().print(table)


@app.command()
def skew(  # noqa: PLR0917 - one parameter per option
    since: Annotated[str, typer.Option(help="From that time on, or 24h, 7d back. [default: all]")] = "",
    until: Annotated[str, typer.Option(help="Before that time. [default: now]")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Share of rows that may differ.")] = 0.01,
    output: FormatOption = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compare what requests got from the online store with what training would join for the same moments.

    Exit codes: 0 no feature is skewed, 1 some are, 2 nothing to compare, or an error.

    Example: shadow features skew --since 24h
    """
    with ErrorsExitTwo():
        from shadow_mlops.drift.skew import skew as compare  # noqa: PLC0415 - DuckDB takes a second to import
        from shadow_mlops.processes.features import open_store  # noqa: PLC0415

        settings = load_settings(deployment_file=deployment, data_dir=data_dir)
        declared = load_deployment(settings.deployment_file)
        report = compare(
            settings.data_dir / "lake",
            lambda: open_store(declared, settings.deployment_file),
            since=moment(since, "--since") if since else None,
            until=moment(until, "--until") if until else None,
            threshold=threshold,
        )
        if output == "json":
            print(msgspec.json.encode(report).decode())
        else:
            table = Table(title=f"{report.rows:,} rows, {report.since} to {report.until}")
            for heading in ("feature", "rows", "different", "absent offline", "share", ""):
                table.add_column(heading)
            for each in report.features:
                counts = (f"{each.rows:,}", f"{each.different:,}", f"{each.absent_offline:,}")
                table.add_row(each.feature, *counts, f"{each.share:.2%}", "[red]skewed[/]" if each.skewed else "")
            Console().print(table)
    raise typer.Exit(1 if report.skewed else 0)
