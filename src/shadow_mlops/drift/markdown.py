"""A drift report as Markdown, for the summary of a CI run: the verdict, then the features that moved most."""

from __future__ import annotations

from shadow_mlops.drift.report import DriftReport
from shadow_mlops.drift.wording import TITLES, figure, printable, scores_by_feature, sentence

_MOST_FEATURES = 10
_METHODS = ("psi", "ks", "js")


def markdown(report: DriftReport) -> str:
    """Verdict and reason, both samples, and a table of the features that moved most; names are shown as text."""
    scores = scores_by_feature(report)
    lines = [
        f"### Drift: {TITLES[report.verdict].lower()}",
        "",
        _text(sentence(report.reason)),
        "",
        f"{_sample(report.current_rows, report.current)} against {_sample(report.reference_rows, report.reference)}.",
        "",
        "| feature | PSI | KS | JS | p | alert |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for feature in report.features[:_MOST_FEATURES]:
        own = scores.get(feature.name, {})
        cells = [figure(own[method].score) if method in own else "-" for method in _METHODS]
        alert = "yes" if any(score.alert for score in own.values()) else ""
        lines.append(f"| {_text(printable(feature.name))} | {' | '.join(cells)} | {feature.p_value:.2g} | {alert} |")
    left = len(report.features) - _MOST_FEATURES
    if left > 0:
        lines += ["", f"{left} more features moved less."]
    if report.verdict == "none":
        lines += ["", "Nothing calls for retraining."]
    return "\n".join(lines) + "\n"


def _sample(rows: int, name: str) -> str:
    return f"{rows:,} rows ({_text(sentence(name))})"


def _text(words: str) -> str:
    r"""Words without anything that Markdown or HTML would take for its own.

    >>> _text("a|b <b>*")
    'a\\|b &lt;b>\\*'
    """
    for letter in "\\`*_[]|":
        words = words.replace(letter, f"\\{letter}")
    return words.replace("<", "&lt;")
