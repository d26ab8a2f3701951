"""The terminal report: verdict first, every figure at any width, nothing from the data that a terminal obeys."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console
from tests.driftreports import hostile, moved, report, steady

from shadow_mlops.drift.report import DriftReport
from shadow_mlops.drift.text import rendered
from shadow_mlops.drift.wording import printable


def shown(source: DriftReport, width: int = 110, *, color: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    for part in rendered(source):
        console.print(part)
    return console.file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_verdict_and_its_reason_come_first():
    assert shown(report()).startswith("Retrain: 1 of 2 features moved beyond a threshold: tenure (PSI 1.2)\n")
    assert shown(report(verdict="none", reason="none of 2 features moved")).startswith("No alert: none of 2")
    assert shown(report(verdict="alert")).startswith("Drift: ")


def test_a_table_has_a_line_for_each_feature_in_the_order_of_the_report():
    lines = shown(report()).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("feature"))
    assert lines[head].split() == ["feature", "PSI", "KS", "JS", "p", "severity", "reference", "current"]
    assert " ".join(lines[head + 1].split()) == "> 0.3 > 0.1 > 0.1"
    assert re.match(r"tenure +1\.234\* +0\.457\* +0\.321\* +3\.0e-9 +significant +▄▆ +█▁▁", lines[head + 2])
    assert re.match(r"segment +0\.012 +- +0\.020 +0\.80 +none +███ +███", lines[head + 3])


@pytest.mark.parametrize("width", [30, 50, 70, 80, 110, 250])
def test_no_width_loses_a_figure_or_a_name(width: int):
    name = "average_monthly_download_in_gigabytes"
    text = shown(report(moved(name), steady()), width)
    assert max(map(len, text.splitlines())) <= width
    joined = "".join(text.split())
    for figure in ("1.234*", "0.457*", "0.321*", "3.0e-9", "significant", "0.012", "0.020", "0.80", "none"):
        assert figure in joined, figure
    assert name in "".join(line.split(" ")[0] for line in text.splitlines())


def test_a_long_name_breaks_where_its_words_end():
    lines = shown(report(moved("average_monthly_download_in_gigabytes")), 80).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("average"))
    assert [line.split(" ")[0] for line in lines[start : start + 2]] == ["average_monthly_", "download_in_gigabytes"]


def test_names_of_the_data_move_no_cursor_and_set_no_colour():
    for width in (40, 110):
        text = shown(hostile(), width)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert r"<script>alert(1)</script>[red]\x1b[31m\u202e" in text.replace("\n", "").replace(" ", "")


def test_colour_is_only_for_terminals_that_have_it():
    assert "\x1b[" in shown(report(), color=True)
    assert "\x1b[" not in shown(report())


def test_findings_and_limits_are_told():
    text = words(shown(report()))
    assert "! tenure: missing in 10 % of rows, in 0 % of the reference" in text
    assert "* alert: significant at 1 % over all features, and above the threshold; PSI calls for retraining" in text
    assert "tenure has thresholds of its own: PSI > 0.2" in text
    assert "rows of one customer are not independent" in text


def test_a_thousand_findings_are_not_a_thousand_lines():
    finding = moved()[0].findings[0]
    text = shown(report(findings=(finding,) * 1000))
    assert text.count("! tenure") == 20
    assert "and 980 more, in the JSON and HTML reports" in text


def test_a_report_without_bins_has_its_scores():
    feature, scores = moved()
    assert "1.234*" in shown(report((msgspec.structs.replace(feature, bins=()), scores)))


def test_many_bins_are_drawn_together():
    feature, scores = steady(categories=1000)
    line = next(line for line in shown(report((feature, scores))).splitlines() if line.startswith("segment"))
    assert line.split()[-1] == "█" * 10


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain name", "plain name"),
        ("größe_日本", "größe_日本"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\u202edlrow", r"\u202edlrow"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\udcff", r"\udcff"),
        ("", ""),
        ("x" * 500, "x" * 119 + "…"),
    ],
)
def test_printable_shows_what_would_not_be_seen(name: str, safe: str):
    assert printable(name) == safe
    assert printable(safe) == safe
