"""``shadow drift``: have the data moved."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from shadow_mlops.cli import driftlive
from shadow_mlops.cli.driftoutput import Format, check_destination, deliver
from shadow_mlops.cli.driftrules import (
    deployment_in_force,
    js_threshold,
    ks_threshold,
    psi_threshold,
    rules_in_force,
)
from shadow_mlops.cli.envlines import EnvOption, append_lines
from shadow_mlops.cli.exits import ErrorsExitTwo
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.domain.errors import DriftError, SettingsError
from shadow_mlops.drift.wording import sentence
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:  # SciPy and DuckDB take a second to import: only who checks pays for them
    from shadow_mlops.drift.livestate import Identity
    from shadow_mlops.drift.references import Reference

REPORT = Path("reports") / "drift.html"

app = typer.Typer(help="Have the data moved: files, tables or recorded traffic.", no_args_is_help=True)

PsiOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--psi-threshold",
        parser=psi_threshold,
        metavar="X",
        help="PSI above which a feature alerts.",
        show_default=False,
    ),
]
KsOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--ks-threshold", parser=ks_threshold, metavar="X", help="The same of the KS distance.", show_default=False
    ),
]
JsOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--js-threshold",
        parser=js_threshold,
        metavar="X",
        help="The same of the Jensen-Shannon distance.",
        show_default=False,
    ),
]
FormatOption: TypeAlias = Annotated[Format, typer.Option("--format", help="Form of the report.")]


@app.command("check")
def check(  # noqa: PLR0917 - one parameter per option
    reference: Annotated[
        str, typer.Option(help="CSV or Parquet: a file, a quoted glob; or the URL of an SQL table.", metavar="FILE")
    ],
    current: Annotated[str, typer.Option(help="What to compare with it.", metavar="FILE")],
    form: FormatOption = "text",
    output: Annotated[
        Path | None, typer.Option(help="Write the report there and print the verdict.", show_default=False)
    ] = None,
    psi: PsiOption = None,
    ks: KsOption = None,
    js: JsOption = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", help="Only these columns, comma-separated or repeated.", show_default=False),
    ] = None,
    bins: Annotated[
        int | None, typer.Option(min=2, max=100, help="Quantile bins of a number (default: 10).", show_default=False)
    ] = None,
    exact_ks: Annotated[
        bool | None,
        typer.Option(
            "--exact-ks/--binned-ks",
            help="KS from all values, or from bin counts with a bound (default: exact where that is cheap).",
            show_default=False,
        ),
    ] = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compare two files or tables, feature by feature.

    Thresholds: these options, else those of the deployment file (--deployment or ./shadow.yaml), else
    DRIFT_PSI_THRESHOLD, else PSI 0.3, KS 0.1, JS 0.1. Exit codes: 0 no alert, 1 drift, 2 an error.

    Example: shadow drift check --reference january.parquet --current 'february/*.parquet'
    """
    with ErrorsExitTwo():
        settings = load_settings(deployment_file=deployment, data_dir=data_dir)
        check_destination(output)
        from shadow_mlops.drift.detecting import detect  # noqa: PLC0415 - as above
        from shadow_mlops.drift.opening import open_source  # noqa: PLC0415 - as above

        stated = deployment_in_force(settings)
        found = detect(
            open_source(reference),
            open_source(current),
            rules=rules_in_force(settings, stated, psi=psi, ks=ks, js=js),
            bins=bins or (stated.drift.bins if stated else 10),
            exact_ks=exact_ks,
            features=_names(features),
        )
        deliver(found, form, output)
    raise typer.Exit(found.verdict != "none")


@app.command("report")
def report(  # noqa: PLR0917 - one parameter per option
    since: Annotated[
        str, typer.Option(help="Only events from this time on: a time, a date, or an age such as 24h.")
    ] = "",
    until: Annotated[str, typer.Option(help="Only events before this time.")] = "",
    form: FormatOption = "html",
    output: Annotated[
        Path | None,
        typer.Option(
            help=f"Where to write it; by default {REPORT} for HTML, else standard output.", show_default=False
        ),
    ] = None,
    psi: PsiOption = None,
    ks: KsOption = None,
    js: JsOption = None,
    env: EnvOption = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compare archived traffic of the champion with its reference: the rows kept with the version, or the baseline.

    Only rows that this version answered are compared: those of another have another reference. Exit codes: 0 no alert,
    1 drift, 2 an error.

    Example: shadow drift report --since 7d
    """
    with ErrorsExitTwo():
        settings = load_settings(deployment_file=deployment, data_dir=data_dir)
        first, last = _span(since, until)
        if output is None and form == "html":
            output = REPORT
            output.parent.mkdir(exist_ok=True)
        check_destination(output)
        from shadow_mlops.drift.archived import archived, traffic_report  # noqa: PLC0415 - as above

        stated = deployment_in_force(settings)
        rules = rules_in_force(settings, stated, psi=psi, ks=ks, js=js)
        identity, reference = _reference(settings)
        with archived(settings.data_dir / "lake", identity, since=first, until=last) as rows:
            found = traffic_report(rows, reference, rules, bin_count=stated.drift.bins if stated else 10)
        deliver(found, form, output)
        append_lines(
            env,
            {
                "drifted": found.verdict != "none",
                "verdict": found.verdict,
                "rows": found.current_rows,
                "features": sentence(", ".join(dict.fromkeys(score.feature for score in found.scores if score.alert))),
            },
        )
    raise typer.Exit(found.verdict != "none")


def _span(since: str, until: str) -> tuple[datetime | None, datetime | None]:
    first = moment(since, "--since") if since else None
    last = moment(until, "--until") if until else None
    if first is not None and last is not None and first >= last:
        raise SettingsError("--since must be before --until")
    return first, last


def _reference(settings: Settings) -> tuple[Identity, Reference]:
    """The serving champion and what it is compared with."""
    from shadow_mlops.drift.references import References  # noqa: PLC0415 - as above
    from shadow_mlops.processes.baselines import champion_of  # noqa: PLC0415 - as above

    identity = champion_of(settings).identity
    reference = References(settings.data_dir).find(identity)
    if isinstance(reference, str):
        raise DriftError(reference)
    return identity, reference


def _names(features: list[str] | None) -> list[str] | None:
    return [name.strip() for each in features for name in each.split(",")] if features else None


app.command("watch")(driftlive.watch)
app.command("baseline")(driftlive.baseline)
