"""A drift report as one HTML file: it asks for nothing from anywhere, runs no script, and prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from shadow_mlops import __version__, markup
from shadow_mlops.drift.drawing import histogram, meter, sketch, timeline
from shadow_mlops.drift.report import DriftReport, FeatureDrift, Score
from shadow_mlops.drift.wording import (
    STATES,
    TITLES,
    chance,
    figure,
    measured,
    method_name,
    moment,
    printable,
    scores_by_feature,
    sentence,
    share,
    state_of,
    what_was_found,
)
from shadow_mlops.markup import Content, Node, element

_SIGNS = {
    "none": "M5 12.5l4.5 4.5L19 7.5",
    "alert": "M12 6.5v7.5M12 17.6v.1",
    "retrain": "M12 6.5v7.5M12 17.6v.1",
}
_NULLS = {
    "chi_square": "the limit for large counts",
    "exact": "simulated for these very counts",
    "none": "none, all rows are in one bin",
}
_WORDS = re.compile(r"[^_.\-]*[_.\-]+|[^_.\-]+")
_MOST_BINS = 200  # of a table: a feature may have a thousand categories
_MOST_CARDS = 200  # some 10 kB each
_MOST_FINDINGS = 100


def page(report: DriftReport) -> str:
    """The report as the text of an HTML file.

    Parameters
    ----------
    report
        Names and words may hold anything: all of it is shown as text.
    """
    title = f"{TITLES[report.verdict]}: {sentence(report.current)} against {sentence(report.reference)}"
    footer = f"Shadow MLOps {__version__} · {sentence(report.created)}"
    return markup.page(title, *_sections(report), footer=footer)


def _sections(report: DriftReport) -> Iterator[Node]:
    scores = scores_by_feature(report)
    yield _verdict(report)
    yield _facts(report)
    if len(report.timeline) > 1:
        yield _timeline(report)
    yield _ranking(report, scores)
    if report.findings:
        yield _findings(report)
    yield _features(report, scores)
    yield _reading(report)


def _verdict(report: DriftReport) -> Node:
    sign = element(
        "svg", element("path", d=_SIGNS[report.verdict]), viewBox="0 0 24 24", class_="sign", aria_hidden="true"
    )
    words = element("div", element("h1", TITLES[report.verdict]), element("p", sentence(report.reason)))
    return element("header", sign, words, class_=f"verdict {report.verdict}")


def _facts(report: DriftReport) -> Node:
    alerting = sum(any(s.alert for s in scores.values()) for scores in scores_by_feature(report).values())
    moved = sum(feature.significant for feature in report.features)
    facts = (
        ("Reference", f"{report.reference_rows:,} rows", sentence(report.reference)),
        ("Current", f"{report.current_rows:,} rows", sentence(report.current)),
        ("Beyond a threshold", f"{alerting:,} of {len(report.features):,}", "features alert"),
        ("More than chance", f"{moved:,} of {len(report.features):,}", "features moved significantly"),
    )
    return element(
        "dl",
        *(
            element(
                "div", element("dt", name), element("dd", element("strong", fact), element("span", *_breakable(words)))
            )
            for name, fact, words in facts
        ),
        class_="facts",
    )


def _timeline(report: DriftReport) -> Node:
    names = [feature.name for feature in report.features][:5]
    legend = element(
        "ul",
        *(element("li", element("i", class_=f"key line-{i}"), printable(name)) for i, name in enumerate(names)),
        class_="legend",
    )
    first, last = moment(report.timeline[0].since), moment(report.timeline[-1].until)
    ends = element("p", element("span", first), element("span", last), class_="ends")
    drawn = timeline(report.timeline, names, report.settings.thresholds.get("psi", 0.3))
    return _section(
        "Over time",
        "PSI, window by window, on a square-root scale; below it, what each window was judged to be.",
        legend,
        element("div", drawn, ends, class_="panel"),
    )


def _section(title: str, words: str, *contents: Content, kind: str = "") -> Node:
    return element(
        "section",
        element("h2", title),
        element("p", words, class_="lead") if words else None,
        *contents,
        class_=kind or None,
    )


def _ranking(report: DriftReport, scores: Mapping[str, Mapping[str, Score]]) -> Node:
    methods = report.settings.methods
    heads = [
        element("th", "Feature", scope="col"),
        element("th", "Shape", scope="col", class_="wide"),
        *(
            element("th", method_name(m), scope="col", class_="figure" if not i else "figure wide")
            for i, m in enumerate(methods)
        ),
        element("th", "p", scope="col", class_="figure wide"),
        element("th", "Severity", scope="col", class_="wide"),
        element("th", "Decision", scope="col"),
    ]
    rows = (_ranked(i, f, scores.get(f.name, {}), methods) for i, f in enumerate(report.features))
    table = element(
        "table",
        element("caption", "Features by what moved most", class_="unseen"),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_="ranking",
    )
    return _section("What moved most", "", element("div", table, class_="scrolled panel"))


def _breakable(name: str) -> list[Content]:
    """A name that may go on in a second line where its words end."""
    parts: list[Content] = []
    for part in _WORDS.findall(name):
        parts += [part, element("wbr")]
    return parts[:-1]


def _ranked(place: int, feature: FeatureDrift, scores: Mapping[str, Score], methods: tuple[str, ...]) -> Node:
    name = element("span", *_breakable(printable(feature.name)))
    if place < _MOST_CARDS:
        name = element("a", *_breakable(printable(feature.name)), href=f"#feature-{place + 1}")
    cells = [
        element("td", _measured(scores.get(m)), class_="figure" if not i else "figure wide")
        for i, m in enumerate(methods)
    ]
    state = state_of(feature, scores)
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", sketch(feature), class_="wide"),
        *cells,
        element("td", chance(feature.p_value), class_="figure wide"),
        element("td", _severity(feature.severity), class_="wide"),
        element("td", element("span", STATES[state], class_=f"chip {state}")),
    )


def _measured(score: Score | None) -> Node:
    if score is None:
        return element("span", "-", class_="quiet")
    drawn = None if score.threshold is None else meter(score.score, score.threshold)
    return element("span", element("b" if score.alert else "span", measured(score)), drawn, class_="measured")


def _severity(severity: str) -> Node:
    level = ("none", "low", "moderate", "significant").index(severity)
    dots = (element("i", class_="on" if i < level else None) for i in range(3))
    return element(
        "span", element("span", *dots, class_="dots", aria_hidden="true"), severity, class_=f"severity {severity}"
    )


def _findings(report: DriftReport) -> Node:
    shown = report.findings[:_MOST_FINDINGS]
    items = [element("li", element("b", printable(finding.feature)), " ", what_was_found(finding)) for finding in shown]
    if rest := len(report.findings) - len(shown):
        items.append(element("li", f"and {rest:,} more", class_="quiet"))
    return _section("Findings", "", element("ul", *items, class_="findings panel"))


def _features(report: DriftReport, scores: Mapping[str, Mapping[str, Score]]) -> Node:
    legend = element(
        "ul",
        element("li", element("i", class_="key reference"), "reference"),
        element("li", element("i", class_="key current"), "current"),
        class_="legend",
    )
    shown = report.features[:_MOST_CARDS]
    cards = (_card(i, feature, scores.get(feature.name, {})) for i, feature in enumerate(shown))
    rest = len(report.features) - len(shown)
    note = (
        element("p", f"{rest:,} features that moved less are in the table above only.", class_="quiet")
        if rest
        else None
    )
    return _section("Feature by feature", "", legend, element("div", *cards, class_="cards"), note)


def _card(place: int, feature: FeatureDrift, scores: Mapping[str, Score]) -> Node:
    state = state_of(feature, scores)
    missing = ""
    if feature.missing_reference or feature.missing_current:
        missing = f" · missing {share(feature.missing_reference)} → {share(feature.missing_current)}"
    findings = element("ul", *(element("li", what_was_found(f)) for f in feature.findings), class_="found")
    heading = element("h3", *_breakable(printable(feature.name)), id=f"feature-{place + 1}-name")
    return element(
        "article",
        element("div", heading, element("span", STATES[state], class_=f"chip {state}"), class_="head"),
        element("p", f"{feature.kind}{missing}", class_="quiet"),
        histogram(feature) if feature.bins else None,
        findings if feature.findings else None,
        _scores(scores),
        _details(feature, scores),
        class_=f"card panel {state}",
        id=f"feature-{place + 1}",
        aria_labelledby=f"feature-{place + 1}-name",
    )


def _scores(scores: Mapping[str, Score]) -> Node:
    rows = (
        element(
            "tr",
            element("th", method_name(score.method), scope="row"),
            element("td", element("b" if score.alert else "span", measured(score)), class_="figure"),
            element("td", "-" if score.threshold is None else f"{score.threshold:g}", class_="figure"),
            element("td", chance(score.p_value), class_="figure"),
        )
        for score in scores.values()
    )
    heads = (
        element("th", name, scope="col", class_="figure" if name != "method" else None)
        for name in ("method", "score", "threshold", "p")
    )
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="scores")


def _details(feature: FeatureDrift, scores: Mapping[str, Score]) -> Node:
    bins = feature.bins[:_MOST_BINS]
    rows = [
        element(
            "tr",
            element("th", printable(each.label), scope="row"),
            element("td", f"{each.reference:,}", class_="figure"),
            element("td", share(each.reference / max(feature.reference_rows, 1)), class_="figure"),
            element("td", f"{each.current:,}", class_="figure"),
            element("td", share(each.current / max(feature.current_rows, 1)), class_="figure"),
        )
        for each in bins
    ]
    heads = [element("th", "Bin", scope="col")]
    heads += [element("th", side, scope="colgroup", colspan="2", class_="figure") for side in ("reference", "current")]
    rest = len(feature.bins) - len(bins)
    return element(
        "details",
        element("summary", "Counts and intervals"),
        *(element("p", words) for words in _remarks(feature, scores)),
        element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="bins"),
        element("p", f"{rest:,} more bins are in the JSON report.", class_="quiet") if rest else None,
    )


def _remarks(feature: FeatureDrift, scores: Mapping[str, Score]) -> Iterator[str]:
    psi, ks = scores.get("psi"), scores.get("ks")
    if psi is not None and psi.interval is not None:
        yield f"PSI of the shift itself: {figure(psi.interval[0])} to {figure(psi.interval[1])} (95 % interval)."
    if psi is not None and psi.corrected is not None:
        yield f"PSI without what samples of this size show by chance: {figure(psi.corrected)}."
    if ks is not None and ks.error_bound:
        yield f"KS is from bin counts: the exact one is at most {figure(ks.error_bound)} larger."
    yield f"p of the feature: {chance(feature.p_value)}. Null distribution of PSI: {_NULLS[feature.p_method]}."


def _reading(report: DriftReport) -> Node:
    used = report.settings
    limits = ", ".join(f"{method_name(name)} {value:g}" for name, value in used.thresholds.items())
    items = [
        ("Alert", f"significant, and a score above its threshold: {limits}."),
        ("Minor", "significant, and every score below its threshold."),
        ("Retrain", f"an alert of {' or '.join(method_name(name) for name in used.retrain_on) or 'no method'}."),
        (
            "Significant",
            f"more than chance: at most {100 * used.level:g} % of windows without drift have any such feature.",
        ),
        ("Severity", "by PSI: below 0.1 none, below 0.2 low, below 0.3 moderate, from there on significant."),
        (
            "Bins",
            f"{used.bins} with equally many rows of the reference each; categories and missing values have their own.",
        ),
        ("KS", "from all values." if used.exact_ks else "from bin counts, with a bound of the error."),
    ]
    items += [
        (printable(name), "its own thresholds: " + ", ".join(f"{method_name(m)} {v:g}" for m, v in own.items()) + ".")
        for name, own in used.overrides.items()
    ]
    items += [("Limit", sentence(words)) for words in report.limits]
    pairs = (element("div", element("dt", name), element("dd", words)) for name, words in items)
    return _section("How to read this", "", element("dl", *pairs, class_="reading panel"))
