"""A comparison as one HTML file, to attach to a change request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from shadow_mlops import __version__, markup
from shadow_mlops.comparison.disagreements import Disagreements, Said
from shadow_mlops.comparison.report import Challenger, Comparison
from shadow_mlops.comparison.segments import Segment, Segments
from shadow_mlops.domain.models import Task
from shadow_mlops.markup import Content, Node, element

FIGURES: dict[Task, dict[str, str]] = {
    "binary": {"accuracy": "accuracy", "AUC": "auc", "log loss": "log_loss", "Brier": "brier"},
    "multiclass": {"accuracy": "accuracy", "AUC (macro)": "auc", "log loss": "log_loss", "Brier": "brier"},
    "regression": {"RMSE": "rmse", "MAE": "mae", "R²": "r2"},
}
LATENCIES = {"p50 ms": "latency_p50_ms", "p99 ms": "latency_p99_ms"}
_FATES = ("sampled", "paired", "timed_out", "shed", "errored", "pending")
_MOST_SEGMENTS = 100


def page(found: Comparison) -> str:
    """The comparison as the text of an HTML file; whatever names and values hold is shown as text."""
    sections = [_title(found)]
    for challenger in found.challengers:
        sections += _challenger(challenger)
    if not found.challengers:
        sections.append(element("section", element("p", "There are no pairs with this champion yet.")))
    footer = f"Shadow MLOps {__version__}, snapshot {found.snapshot}"
    return markup.page("Champion against challengers", *sections, footer=footer)


def _title(found: Comparison) -> Node:
    span = f"events from {found.since or 'the first'} to {found.until or 'the last'}"
    words = f"{found.pairs:,} pairs, {found.labelled:,} labelled; {span}"
    return element(
        "header",
        element("h1", f"Champion {found.champion.version or '(none)'} against challengers"),
        element("p", words, class_="lead"),
    )


def _challenger(challenger: Challenger) -> Iterator[Node]:
    heading = element("h2", f"{challenger.name} {challenger.version or ''}")
    facts = [f"{challenger.pairs:,} pairs, {challenger.labelled:,} labelled"]
    if challenger.noise_floor:
        facts.insert(0, "the champion scored again: what differs here is noise")
    if challenger.agreement is not None:
        facts.append(f"same decision on {challenger.agreement:.2%}")
    apart = challenger.score_difference.mean_absolute
    if apart is not None:
        facts.append(f"mean absolute difference of the scores {apart:.4g}")
    labels = (FIGURES[challenger.task] if challenger.labelled else {}) | LATENCIES
    rows = [[name, *_figures(challenger, key)] for name, key in labels.items()]
    account = ", ".join(f"{fate.replace('_', ' ')} {getattr(challenger.accounting, fate):,}" for fate in _FATES)
    yield element(
        "section",
        heading,
        element("p", "; ".join(facts), class_="lead"),
        _table("Figures of both sides on the same pairs", ("", "champion", "challenger", "change"), rows),
        element("p", account, class_="quiet"),
    )
    if challenger.segments is not None:
        yield _segments(challenger.segments)
    if challenger.disagreements is not None:
        yield _disagreements(challenger.disagreements)


def _figures(challenger: Challenger, key: str) -> list[str]:
    ours, theirs = getattr(challenger.champion, key), getattr(challenger, key)
    if ours is None or theirs is None:
        return ["–", "–", "–"]
    return [f"{ours:,.4f}", f"{theirs:,.4f}", f"{theirs - ours:+,.4f}"]


def _segments(found: Segments) -> Node:
    named = [segment.words for segment in found.segments if segment.verdict != "undecided"]
    words = named or [f"None of {len(found.segments):,} segments differs in a way that holds."]
    rows = [_segment(segment) for segment in found.segments[:_MOST_SEGMENTS]]
    heads = ("feature", "value", "entities", "difference", "evidence worse", "evidence better", "")
    return element(
        "section",
        element("h2", f"Segments, {found.loss.replace('_', ' ')}"),
        element("ul", *(element("li", sentence) for sentence in words)),
        _table("Each value of a feature by itself, the most harmed first", heads, rows),
        element("p", f"Too many texts: {', '.join(found.left_out)}", class_="quiet") if found.left_out else None,
    )


def _segment(segment: Segment) -> list[str]:
    verdict = "" if segment.verdict == "undecided" else segment.verdict
    evidence = (f"{segment.e_value_worse:.3g}", f"{segment.e_value_better:.3g}")
    return [segment.feature, segment.value, f"{segment.entities:,}", f"{segment.difference:+.4f}", *evidence, verdict]


def _disagreements(found: Disagreements) -> Node:
    rows = [
        [row.request_id, row.entity or "", _said(row.champion), _said(row.challenger), row.outcome or ""]
        for row in found.largest
    ]
    return element(
        "section",
        element("h2", "Disagreements"),
        element("p", found.scores.words, class_="lead") if found.scores is not None else None,
        element("ul", *(element("li", cell.words) for cell in found.frequent)),
        _table("The largest", ("request", "entity", "champion", "challenger", "came true"), rows),
    )


def _said(side: Said) -> str:
    return " ".join(part for part in (side.label or "", "" if side.score is None else f"{side.score:.4g}") if part)


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Node:
    cells: list[Content] = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption, class_="unseen"),
            element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
            element("tbody", *cells),
        ),
        class_="panel scrolled",
    )
