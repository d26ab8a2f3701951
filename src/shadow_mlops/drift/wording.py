"""How a drift report's names and figures are written, for a terminal and for a page alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Literal, TypeAlias

from shadow_mlops.drift.report import DriftReport, FeatureDrift, Finding, Score, Verdict

State: TypeAlias = Literal["none", "moved", "alert", "retrain"]
STATES: dict[State, str] = {"none": "no shift", "moved": "minor", "alert": "alert", "retrain": "retrain"}
TITLES: dict[Verdict, str] = {"none": "No alert", "alert": "Drift", "retrain": "Retrain"}
METHODS = {
    "psi": "PSI",
    "ks": "KS",
    "js": "JS",
    "wasserstein": "Wasserstein",
    "chi_square": "χ²",
    "hellinger": "Hellinger",
    "total_variation": "Total variation",
}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_LONGEST = 120


def printable(name: str, longest: int = _LONGEST) -> str:
    r"""A name from the data, safe to show: nothing in it moves a cursor, reverses a line or hides.

    >>> printable("a\x1b[31mred\u202e")
    'a\\x1b[31mred\\u202e'
    """
    shown = "".join(_escaped(letter) if unicodedata.category(letter) in _UNSEEN else letter for letter in name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def sentence(words: str) -> str:
    """Words that may hold names from the data: as safe as a name, and longer."""
    return printable(words, 2000)


def what_was_found(finding: Finding) -> str:
    """The words of a finding for a place where its feature is named already."""
    return sentence(finding.words.removeprefix(f"{finding.feature}: "))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def figure(score: float | None) -> str:
    """A score in three decimals: less than that is nothing to a decision.

    >>> [figure(x) for x in (0.0, 0.4127, 0.00004, 12345.6, None)]
    ['0.000', '0.413', '0.000', '12,346', '-']
    """
    if score is None or math.isnan(score):
        return "-"
    if math.isinf(score):
        return "∞" if score > 0 else "-∞"
    return f"{score:,.0f}" if abs(score) >= 1000 else f"{score:.3f}"


def measured(score: Score) -> str:
    """The figure of a score; Wasserstein's, in the unit of the feature, in three digits instead."""
    return f"{score.score:.3g}" if score.method == "wasserstein" else figure(score.score)


def _power(x: float) -> str:
    return f"{x:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def chance(p: float | None) -> str:
    """A p-value in two digits.

    >>> [chance(p) for p in (0.5, 0.0123, 3e-9, 1e-200, 0.0, None)]
    ['0.50', '0.012', '3.0e-9', '<1e-99', '<1e-99', '-']
    """
    if p is None or math.isnan(p):
        return "-"
    if p < 1e-99:
        return "<1e-99"  # a longer exponent costs a column and tells nobody more
    if p < 0.0005:
        return _power(p)
    return f"{p:.3f}" if p < 0.095 else f"{p:.2f}"


def share(part: float | None) -> str:
    """A share as a percentage that is 0 % only for nothing and 100 % only for all.

    >>> [share(x) for x in (0.0, 0.00001, 0.1234, 0.99999, 1.0)]
    ['0 %', '<0.1 %', '12.3 %', '>99.9 %', '100 %']
    """
    if part is None or math.isnan(part):
        return "-"
    if part in {0.0, 1.0}:
        return f"{part:.0%}".replace("%", " %")
    if part < 0.001:
        return "<0.1 %"
    return ">99.9 %" if part > 0.999 else f"{100 * part:.1f} %"


def moment(time: str) -> str:
    """An RFC 3339 time in UTC to the minute.

    >>> moment("2026-11-24T11:30:00Z")
    '2026-11-24 11:30'
    """
    return printable(time[:16].replace("T", " "))


def method_name(method: str) -> str:
    """A method as people call it."""
    return METHODS.get(method, printable(method))


def state_of(feature: FeatureDrift, scores: Mapping[str, Score]) -> State:
    """What was decided of a feature, in one word; moved is significant and below every threshold."""
    if any(score.retrain for score in scores.values()):
        return "retrain"
    if any(score.alert for score in scores.values()):
        return "alert"
    return "moved" if feature.significant else "none"


def scores_by_feature(report: DriftReport) -> dict[str, dict[str, Score]]:
    """Feature -> method -> score, in the report's order."""
    found: dict[str, dict[str, Score]] = {}
    for score in report.scores:
        found.setdefault(score.feature, {})[score.method] = score
    return found
