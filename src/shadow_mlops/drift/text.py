"""A drift report as a person reads it in a terminal: the verdict first, then what moved most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from shadow_mlops.drift.report import Bin, DriftReport, FeatureDrift, Score
from shadow_mlops.drift.wording import (
    STATES,
    TITLES,
    chance,
    measured,
    method_name,
    printable,
    scores_by_feature,
    sentence,
    state_of,
    what_was_found,
)

_STYLES = {"none": "green", "moved": "", "alert": "yellow", "retrain": "red"}
_SEVERITIES = {"none": "dim", "low": "", "moderate": "yellow", "significant": "red"}
_BARS = "▁▂▃▄▅▆▇█"
_MOST_BARS = 10
_LEAST_NAME = 12  # a longer name goes on in a second line
_ROOMY = 100
_MOST_FINDINGS = 20


def rendered(report: DriftReport) -> Iterator[RenderableType]:
    """Verdict and reason, a table of all features, findings by name, and how the figures were decided on."""
    yield Text.assemble((TITLES[report.verdict], f"bold {_STYLES[report.verdict]}"), ": ", sentence(report.reason))
    yield ""
    yield _samples(report)
    yield ""
    yield _Features(report)
    yield from _findings(report)
    yield ""
    yield from _notes(report)


def _samples(report: DriftReport) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for side, rows, name in (
        ("reference", report.reference_rows, report.reference),
        ("current", report.current_rows, report.current),
    ):
        table.add_row(side, f"{rows:,} rows", Text(sentence(name)))
    return table


class _Features:
    """One line for each feature, or, where the terminal is too narrow for that, a few short ones."""

    def __init__(self, report: DriftReport) -> None:
        self.report = report
        self.scores = scores_by_feature(report)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        gap = 2 if options.max_width >= _ROOMY else 1
        table = self._table(gap, _LEAST_NAME)
        spare = options.max_width - Measurement.get(console, options.update(max_width=1000), table).maximum
        if spare < 0:
            yield from self._stacked()
        else:
            yield self._table(gap, _LEAST_NAME + spare)

    def _table(self, gap: int, name_width: int) -> Table:
        used = self.report.settings
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
        longest = max((cell_len(printable(feature.name)) for feature in self.report.features), default=0)
        table.add_column("feature\n", overflow="fold", width=max(_LEAST_NAME, min(longest, name_width)))
        for method in used.methods:
            limit = used.thresholds.get(method)
            table.add_column(
                f"{method_name(method)}\n{'' if limit is None else f'> {limit:g}'}", justify="right", no_wrap=True
            )
        table.add_column("p\n", justify="right", no_wrap=True)
        table.add_column("severity\n", no_wrap=True)
        table.add_column("reference\n", no_wrap=True)
        table.add_column("current\n", no_wrap=True)
        for feature in self.report.features:
            scores = self.scores.get(feature.name, {})
            cells = [_cell(scores.get(method)) for method in used.methods]
            severity = Text(feature.severity, _SEVERITIES[feature.severity])
            alerts = any(score.alert for score in scores.values())
            name = Text(_broken(printable(feature.name), name_width), "bold" if alerts else "")
            table.add_row(name, *cells, chance(feature.p_value), severity, *_shapes(feature))
        return table

    def _stacked(self) -> Iterator[RenderableType]:
        for feature in self.report.features:
            scores = self.scores.get(feature.name, {})
            state = state_of(feature, scores)
            yield Text.assemble((printable(feature.name), "bold"), "  ", (STATES[state], _STYLES[state]))
            figures = [Text.assemble(f"  {method_name(each.method)} ", _cell(each)) for each in scores.values()]
            yield Text.assemble(*figures, f"  p {chance(feature.p_value)}  severity {feature.severity}")
            before, after = _shapes(feature)
            yield Text.assemble("  ", before, " → ", after)


def _broken(name: str, width: int) -> str:
    """A name in lines that end where its words do, as far as they can."""
    lines = []
    while cell_len(name) > width:
        end = max((i + 1 for i, letter in enumerate(name[:width]) if letter in "_-. "), default=width)
        lines.append(name[:end])
        name = name[end:]
    return "\n".join([*lines, name])


def _cell(score: Score | None) -> Text:
    if score is None:
        return Text("-", "dim")
    if not score.alert:
        return Text(measured(score))
    # The star says it where there is no colour.
    return Text(f"{measured(score)}*", "bold red" if score.retrain else "bold yellow")


def _shapes(feature: FeatureDrift) -> tuple[Text, Text]:
    """Shares of reference and current as bars, both to one scale."""
    groups = _grouped(feature.bins)
    sides = [
        [sum(getattr(each, side) for each in group) / max(rows, 1) for group in groups]
        for side, rows in (("reference", feature.reference_rows), ("current", feature.current_rows))
    ]
    most = max((part for side in sides for part in side), default=0.0) or 1.0
    reference, current = ("".join(_bar(part / most) for part in side) for side in sides)
    return Text(reference, "dim"), Text(current, "cyan")


def _bar(part: float) -> str:
    return " " if part <= 0 else _BARS[math.ceil(part * len(_BARS)) - 1]


def _grouped(bins: Sequence[Bin]) -> list[list[Bin]]:
    """Neighbours together until there are few enough; missing values and other categories stay apart."""
    values = [each for each in bins if each.role == "value"]
    aside = [[each] for each in bins if each.role != "value"]
    size = -(-len(values) // _MOST_BARS)
    return [values[i : i + size] for i in range(0, len(values), size or 1)] + aside


def _findings(report: DriftReport) -> Iterator[RenderableType]:
    if not report.findings:
        return
    yield ""
    for finding in report.findings[:_MOST_FINDINGS]:
        yield Text.assemble("! ", (printable(finding.feature), "bold"), f": {what_was_found(finding)}")
    if (rest := len(report.findings) - _MOST_FINDINGS) > 0:
        yield Text(f"  and {rest:,} more, in the JSON and HTML reports", "dim")


def _notes(report: DriftReport) -> Iterator[RenderableType]:
    used = report.settings
    yield Text(
        f"* alert: significant at {100 * used.level:g} % over all features, and above the threshold; "
        f"{' or '.join(method_name(method) for method in used.retrain_on) or 'no method'} calls for retraining",
        "dim",
    )
    for name, own in used.overrides.items():
        limits = ", ".join(f"{method_name(method)} > {limit:g}" for method, limit in own.items())
        yield Text(f"{printable(name)} has thresholds of its own: {limits}", "dim")
    for limit in report.limits:
        yield Text(sentence(limit), "dim")
