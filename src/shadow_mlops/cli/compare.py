"""``shadow compare``: champion against challengers, on the same pairs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:  # DuckDB and Arrow take a fifth of a second to import: only who compares pays for them
    from shadow_mlops.comparison import (
        Account,
        Against,
        Challenger,
        Comparison,
        Disagreements,
        Look,
        Said,
        Segments,
        Side,
    )

_HIGHER_IS_BETTER = {"accuracy", "auc", "r2"}
_LONG = 1e12  # from here on digits would push the columns apart
_ROWS = 20
_FATES = ("paired", "timed_out", "shed", "errored", "pending")


def compare(  # noqa: PLR0917 - one parameter per option
    since: Annotated[
        str, typer.Option(help="Only events from this time on: a time, a date, or an age such as 24h.")
    ] = "",
    until: Annotated[str, typer.Option(help="Only events before this time.")] = "",
    exact: Annotated[bool, typer.Option("--exact", help="Sort for the AUC instead of counting in bins.")] = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="Compare where a feature has one value: where is it better, where worse?")
    ] = False,
    disagreements: Annotated[
        bool, typer.Option("--disagreements", help="List the largest and the most frequent disagreements.")
    ] = False,
    output: Annotated[Literal["table", "json", "html"], typer.Option("--format", help="How to print it.")] = "table",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compare challengers with the champion: agreement, and on labelled pairs accuracy, AUC, log loss and Brier score.

    Exit codes: 0 compared, also when there is nothing yet, 1 the lake is damaged, 2 wrong arguments.

    Example: shadow compare --since 7d
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    first = moment(since, "--since") if since else None
    last = moment(until, "--until") if until else None
    if first is not None and last is not None and first >= last:
        raise SettingsError("--since must be before --until")
    from shadow_mlops import comparison  # noqa: PLC0415 - as above

    found = comparison.compare(
        settings.data_dir / "lake",
        accounting=settings.data_dir / "run" / "accounting.json",
        since=first,
        until=last,
        exact=exact,
        look=_look(settings, segments=segments, disagreements=disagreements),
    )
    if output == "html":
        sys.stdout.write(comparison.page(found))
        return
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        return
    console = Console(highlight=False, markup=False, emoji=False)  # versions are texts of whoever reports events
    for part in rendered(found):
        console.print(part)


def rendered(found: Comparison) -> Iterator[RenderableType]:
    """A comparison as a person reads it: a table for each challenger, words where there is nothing to show."""
    if found.since or found.until:
        yield f"events from {found.since or 'the first'} to {found.until or 'the last'}\n"
    if not found.challengers and not found.earlier:
        yield _nothing(found)
        return
    against: list[Comparison | Against] = [found, *found.earlier]
    for number, part in enumerate(against):
        for challenger in part.challengers:
            yield from _challenger(challenger, earlier=number > 0, bins=found.auc_bins)
        if not part.challengers:
            yield f"no pairs with champion {part.champion.version} yet\n"


def _look(settings: Settings, *, segments: bool, disagreements: bool) -> Look | None:
    if not (segments or disagreements):
        return None
    from shadow_mlops.comparison import LISTED, Look  # noqa: PLC0415 - as above

    gate = load_deployment(settings.deployment_file).gate
    return Look(segments=segments, disagreements=LISTED if disagreements else 0, loss=gate.metric, bound=gate.bound)


def _segments(found: Segments) -> Iterator[RenderableType]:
    if not found.pairs:
        yield "no labelled pairs to cut into segments yet"
        return
    named = [segment for segment in found.segments if segment.verdict != "undecided"]
    yield Text(f"segments, {found.loss.replace('_', ' ')}, {found.pairs:,} labelled pairs", "bold")
    if not named:
        yield f"none of {len(found.segments):,} segments differs in a way that holds; the most harmed ones:"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("feature", "value", "entities", "difference", "evidence worse", "evidence better", ""):
        table.add_column(name, justify="left" if name in {"feature", "value", ""} else "right")
    for segment in (named or found.segments)[:_ROWS]:
        style = {"worse": "red", "better": "green", "undecided": ""}[segment.verdict]
        table.add_row(
            Text(segment.feature),
            Text(segment.value),
            f"{segment.entities:,}",
            f"{segment.difference:+.4f}",
            f"{segment.e_value_worse:.3g}",
            f"{segment.e_value_better:.3g}",
            Text(segment.verdict, style),
        )
    yield table
    if found.left_out:
        yield Text(f"too many texts to look at each: {', '.join(found.left_out)}")


def _disagreements(found: Disagreements) -> Iterator[RenderableType]:
    if found.scores is not None:
        yield found.scores.words
    for cell in found.frequent:
        yield Text(cell.words)
    if not found.largest:
        return
    yield Text("largest disagreements", "bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("request", "entity", "champion", "challenger", "came true"):
        table.add_column(name)
    for row in found.largest:
        sides = (_said(row.champion), _said(row.challenger))
        table.add_row(*(Text(text) for text in (row.request_id, row.entity or "", *sides, row.outcome or "")))
    yield table


def _said(side: Said) -> str:
    return " ".join(part for part in (side.label or "", "" if side.score is None else f"{side.score:.4g}") if part)


def _nothing(found: Comparison) -> str:
    if not found.snapshot:
        return (
            "nothing is archived yet: `shadow up` runs the monitor that archives, a few seconds after the first answer"
        )
    if found.since or found.until:
        return "no pairs in this span: leave out --since and --until for all there are"
    champion = f"champion {found.champion.version} has answered, but " if found.champion.version else ""
    return (
        f"{champion}there are no pairs yet: set the alias `challenger` on a version, or score what was recorded with "
        "`shadow replay`"
    )


def _challenger(challenger: Challenger, *, earlier: bool, bins: int | None) -> Iterator[RenderableType]:
    title = Text.assemble(
        (f"{challenger.name} {challenger.version or '(no version yet)'}", "bold"),
        f" against {'earlier ' if earlier else ''}champion {challenger.champion.version}",
    )
    yield title
    if challenger.noise_floor:
        yield "A/A, the champion scored again: what differs here is noise"
    coverage = "" if challenger.label_coverage is None else f" ({challenger.label_coverage:.1%})"
    yield f"{challenger.pairs:,} pairs, {challenger.labelled:,} labelled{coverage}" + (
        f", {challenger.replayed:,} replayed" if challenger.replayed else ""
    )
    yield from _apart(challenger)
    if challenger.pairs:
        yield _table(challenger)
    yield from _notes(challenger, bins)
    yield _conservation(challenger.accounting)
    if challenger.segments is not None:
        yield from _segments(challenger.segments)
    if challenger.disagreements is not None:
        yield from _disagreements(challenger.disagreements)
    yield ""


def _apart(challenger: Challenger) -> Iterator[str]:
    if challenger.agreement is not None:
        yield f"same decision on {challenger.agreement:.2%}"
    apart = challenger.score_difference
    if apart.mean_absolute is not None:
        mean = "" if apart.mean is None else f"mean {apart.mean:+.4g}, "
        name = "distributions apart" if challenger.task == "multiclass" else "score difference"
        largest = "" if apart.largest is None else f", largest {apart.largest:.4g}"
        yield f"{name}: {mean}mean absolute {apart.mean_absolute:.4g}{largest}"
    if isinstance(challenger.prevalence, float):
        yield f"positive among labels: {challenger.prevalence:.2%}"


def _table(challenger: Challenger) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "champion", "challenger", "change"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    from shadow_mlops.comparison.html import FIGURES, LATENCIES  # noqa: PLC0415 - as above

    figures = FIGURES[challenger.task] if challenger.labelled else {}
    for name, key in (figures | LATENCIES).items():
        digits = 3 if key in LATENCIES.values() else 4
        table.add_row(name, *_cells(challenger.champion, challenger, key, digits))
    return table


def _cells(champion: Side, challenger: Side, key: str, digits: int) -> tuple[str, str, Text]:
    ours, theirs = getattr(champion, key), getattr(challenger, key)
    if ours is None or theirs is None:
        return "-", "-", Text("-")
    better = (theirs > ours) == (key in _HIGHER_IS_BETTER)
    style = "" if theirs == ours or key.startswith("latency") else "green" if better else "red"
    return _number(ours, digits), _number(theirs, digits), Text(_number(theirs - ours, digits, "+"), style)


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}e}" if abs(value) >= _LONG else f"{value:{sign},.{digits}f}"


def _notes(challenger: Challenger, bins: int | None) -> Iterator[str]:
    if not challenger.pairs:
        return
    if not challenger.labelled:
        yield "no labels yet: post them to /outcomes, or `shadow outcomes import FILE`"
    elif challenger.task == "regression":
        if challenger.rmse is None or challenger.champion.rmse is None:
            yield "errors are larger than any number: look for labels and scores such as 1e308"
    elif challenger.auc is None:
        yield "AUC needs two classes among the labels; so far only one came true"
    elif challenger.auc_error and bins:
        bound = max(challenger.auc_error, challenger.champion.auc_error or 0.0)
        yield f"AUC from {bins:,} bins, at most {bound:.1e} from the exact one (--exact sorts)"


def _conservation(account: Account) -> Text:
    parts = [(fate.replace("_", " "), getattr(account, fate)) for fate in _FATES]
    line = Text(f"sampled {account.sampled:,} = " + " + ".join(f"{name} {count:,}" for name, count in parts))
    if account.sampled != (total := sum(count for _, count in parts)):
        line.append(f"  DOES NOT ADD UP: {total:,}", "bold red")
    return line
