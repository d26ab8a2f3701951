"""The HTML report: nothing from outside, nothing from the data as markup, readable by a machine that reads aloud."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest
from tests.driftreports import HOSTILE, hostile, moved, report, steady

from shadow_mlops.drift.html import page
from shadow_mlops.drift.report import DriftReport

VOID = {"meta", "wbr"}


class Page(HTMLParser):
    """A page as elements (tag, attributes, path of tags above) and texts."""

    def __init__(self, source: DriftReport) -> None:
        super().__init__()
        self.source = page(source)
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts.append((text, tuple(self._open)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def text(self, tag: str | None = None) -> str:
        """Within one kind of element, or everywhere but in the style."""
        return "".join(t for t, path in self.texts if (tag in path if tag else "style" not in path))


@pytest.fixture(params=[report, hostile, lambda: report(moments=4)], ids=["plain", "hostile", "timeline"])
def shown(request: pytest.FixtureRequest) -> Page:
    return Page(request.param())


def test_a_page_asks_for_nothing_and_runs_nothing(shown: Page):
    assert {"script", "link", "img", "iframe", "object", "embed", "base", "form"}.isdisjoint(
        t for t, _, _ in shown.elements
    )
    for tag, attributes, _ in shown.elements:
        assert not {name for name in attributes if name.startswith("on") or name in {"src", "style", "srcset"}}, tag
        assert (attributes.get("href") or "#").startswith("#"), tag
    style = shown.text("style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [meta["content"] for meta in shown.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_links_lead_to_features_that_are_there(shown: Page):
    ids = [attributes["id"] for _, attributes, _ in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"].removeprefix("#") for attributes in shown.of("a")}
    assert targets
    assert targets <= set(ids)
    assert {article["aria-labelledby"] for article in shown.of("article")} <= set(ids)


def test_pictures_and_tables_can_be_read_aloud(shown: Page):
    pictures = [i for i, (tag, _, _) in enumerate(shown.elements) if tag == "svg"]
    for i in pictures:
        attributes = shown.elements[i][1]
        assert attributes.get("aria-hidden") == "true" or (
            attributes["role"] == "img" and shown.elements[i + 1][0] == "title"
        )
    assert all(head.get("scope") in {"col", "row", "colgroup"} for head in shown.of("th"))
    assert shown.of("html") == [{"lang": "en"}]
    assert len(shown.of("h1")) == 1


def test_names_of_the_data_stay_text():
    shown = Page(hostile())
    escaped = r"<script>alert(1)</script>[red]\x1b[31m\u202e" + "\"'&" + r"\n"
    assert not [letter for letter in shown.source if letter in "\x1b\u202e"]
    for tag in ("h3", "a", "dd", "title", "li", "p", "th"):
        assert escaped in shown.text(tag), tag
    assert HOSTILE not in shown.text()


def test_the_verdict_its_reason_and_every_score_are_there():
    shown = Page(report())
    assert shown.text("header") == "Retrain1 of 2 features moved beyond a threshold: tenure (PSI 1.2)"
    for figure in ("1.234", "0.457", "0.321", "0.012", "3.0e-9", "<1e-99", "0.800 to 1.700", "at most 0.004 larger"):
        assert figure in shown.text(), figure
    assert "tenureits own thresholds: PSI 0.2." in shown.text("dl")
    assert "rows of one customer are not independent" in shown.text("dl")
    assert "tenure missing in 10 % of rows" in shown.text("ul")


def test_a_bar_says_both_shares():
    titles = Page(report()).text("title")
    assert "(-inf, 12]: reference 40.0 %, current 80.0 %" in titles
    assert "missing: reference 0 %, current 10.0 %" in titles


def test_the_heights_of_bars_are_the_shares():
    shown = Page(report(moved()))
    bars = [(a["class"], float(a["height"])) for tag, a, path in shown.elements if tag == "rect" and "article" in path]
    heights = {side: [height for name, height in bars if name == side] for side in ("reference", "current")}
    unit = heights["reference"][0] / 40
    assert heights["reference"] == pytest.approx([40 * unit, 60 * unit, 0], abs=0.1)
    assert heights["current"] == pytest.approx([80 * unit, 10 * unit, 10 * unit], abs=0.1)


def test_a_time_line_has_a_line_for_each_feature_and_a_mark_for_each_window():
    shown = Page(report(moments=4))
    assert len(shown.of("polyline")) == 2
    assert all(len(line["points"].split()) == 4 for line in shown.of("polyline"))
    marks = [rect for rect in shown.of("rect") if rect["class"].startswith("verdict")]
    assert [rect["class"] for rect in marks] == ["verdict none"] * 4
    assert "2026-11-01 00:00 to 2026-11-02 00:00: none, 1,440 rows; tenure 0.100; segment 0.100" in shown.text("title")
    assert "polyline" not in Page(report(moments=1)).source


def test_a_thousand_categories_are_folded_and_told():
    shown = Page(report(steady(categories=1000)))
    assert "993 more: reference 99.3 %, current 99.3 %" in shown.text("title")
    assert "800 more bins are in the JSON report." in shown.text("details")
    assert len(shown.source) < 100_000


def test_very_many_features_keep_the_page_small():
    parts = [steady(f"feature {i}") for i in range(1000)]
    shown = Page(report(*parts))
    assert len(shown.of("article")) == 200
    assert "800 features that moved less are in the table above only." in shown.text("p")
    assert "feature 999" in shown.text("table")


def test_light_and_dark_have_the_same_colours_to_set(shown: Page):
    style = shown.text("style")
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{([^}]*)\}", style)[:2])
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= light | {"--tone", "--wash", "--key"}


def test_a_report_without_bins_has_its_scores():
    feature, scores = moved()
    shown = Page(report((msgspec.structs.replace(feature, bins=()), scores)))
    assert "1.234" in shown.text("article")
    assert not [svg for svg in shown.of("svg") if svg["class"] == "histogram"]


def test_a_report_without_features_is_still_a_page():
    empty = report(verdict="none", features=(), scores=(), findings=(), reason="nothing could be compared")
    assert "nothing could be compared" in Page(empty).text("header")
