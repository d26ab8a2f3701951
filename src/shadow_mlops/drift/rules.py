"""From scores to decisions: the one place that says when a shift is significant, alerts, or calls for retraining.

Both halves are needed. A threshold alone fires on small samples of identical data; significance alone fires on every
large sample. So a feature is tested once (numeric: twice the smaller of the p-values of KS and PSI, categories: that of
PSI), the features of a window share one level by Benjamini and Hochberg's procedure, and only what is both significant
and above its method's threshold alerts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from shadow_mlops.domain.deployment import Deployment, Drift
from shadow_mlops.drift.report import Method, Score, Severity, Verdict
from shadow_mlops.statistics.significance import family_p, significant

ALERTING: tuple[Method, ...] = ("psi", "ks", "js")
"""Methods with a threshold, in the order in which a feature's scores are shown; all others are shown only."""
METHODS: tuple[Method, ...] = get_args(Method)
_WORDS: Mapping[Method, str] = {"psi": "PSI", "ks": "KS", "js": "JS"}
_SEVERITIES: tuple[tuple[float, Severity], ...] = ((0.1, "none"), (0.2, "low"), (0.3, "moderate"))
_NAMED = 3  # features named in a reason; the others are counted


@dataclass(frozen=True, slots=True)
class Rules:
    """When a score becomes a decision.

    Attributes
    ----------
    psi, ks, js
        Thresholds; a score alerts above them.
    level
        Share of windows without drift in which any feature is called significant, at most.
    retrain_on
        Methods whose alerts call for retraining.
    overrides
        Feature -> method -> threshold, in place of the general one.
    unchecked
        Features that are left out.
    """

    psi: float = 0.3
    ks: float = 0.1
    js: float = 0.1
    level: float = 0.01
    retrain_on: tuple[str, ...] = ("psi",)
    overrides: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unchecked: frozenset[str] = frozenset()

    def threshold(self, feature: str, method: Method) -> float | None:
        """Threshold of a method for a feature; None for methods that never alert."""
        general = {"psi": self.psi, "ks": self.ks, "js": self.js}.get(method)
        return self.overrides.get(feature, {}).get(method, general)


def rules_of(deployment: Deployment, *, psi: float = 0.3) -> Rules:
    """The rules that a deployment file states.

    Parameters
    ----------
    psi
        Threshold of PSI where the file states none.
    """
    drift: Drift = deployment.drift
    given = {name: spec.drift.thresholds for name, spec in deployment.features.items()}
    return Rules(
        psi=psi if drift.psi is None else drift.psi,
        ks=drift.ks,
        js=drift.js,
        level=drift.level,
        retrain_on=drift.retrain_on,
        overrides={name: thresholds for name, thresholds in given.items() if thresholds},
        unchecked=frozenset(name for name, spec in deployment.features.items() if not spec.drift.check),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """One feature, measured and not yet judged.

    Attributes
    ----------
    scores
        Finite distances by method; ``psi`` is always among them.
    p_values
        By method; ``psi`` is always among them, ``ks`` for numeric features that have values on both sides.
    corrected, interval
        Of PSI.
    error_bound
        Of KS.
    shown
        Methods that become scores of the report; the feature's p-value does not depend on them.
    """

    feature: str
    scores: Mapping[Method, float]
    p_values: Mapping[Method, float]
    corrected: float | None = None
    interval: tuple[float, float] | None = None
    error_bound: float | None = None
    shown: frozenset[Method] = frozenset(METHODS)


@dataclass(frozen=True, slots=True)
class Judged:
    """One feature, judged.

    Attributes
    ----------
    p_value
        Of the feature, before the correction for the number of features.
    scores
        One for each method measured, in the order of ``METHODS``.
    """

    feature: str
    p_value: float
    significant: bool
    severity: Severity
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """A window, judged.

    Attributes
    ----------
    reason
        The verdict in words.
    features
        What moved most comes first.
    """

    verdict: Verdict
    reason: str
    features: tuple[Judged, ...]


def severity_of(psi: float) -> Severity:
    """How much a feature moved, by its PSI.

    >>> [severity_of(x) for x in (0.05, 0.1, 0.2, 0.3)]
    ['none', 'low', 'moderate', 'significant']
    """
    return next((severity for bound, severity in _SEVERITIES if psi < bound), "significant")


def decide(measured: Sequence[Measured], rules: Rules) -> Decision:
    """Judge the features of one window together.

    Parameters
    ----------
    measured
        All features of the window: together they are the family that shares ``rules.level``.

    Returns
    -------
    Decision
        Features that call for retraining come first, then those that alert, then those whose shift is significant;
        within each, by the largest ratio of a score to its threshold.
    """
    p_values = np.array([_p_value(each) for each in measured], dtype=np.float64)
    moved = significant(p_values, rules.level)
    judged = [
        _judge(each, float(p), bool(is_significant), rules)
        for each, p, is_significant in zip(measured, p_values, moved, strict=True)
    ]
    judged.sort(key=_rank)
    verdict: Verdict = "none"
    if any(score.alert for each in judged for score in each.scores):
        verdict = "alert"
    if any(score.retrain for each in judged for score in each.scores):
        verdict = "retrain"
    return Decision(verdict=verdict, reason=_reason(judged), features=tuple(judged))


def _p_value(each: Measured) -> float:
    ks = each.p_values.get("ks")
    return each.p_values["psi"] if ks is None else float(family_p(ks, each.p_values["psi"]))


def _judge(each: Measured, p_value: float, is_significant: bool, rules: Rules) -> Judged:
    severity = severity_of(each.scores["psi"])
    scores = []
    for method in METHODS:
        if method not in each.scores or method not in each.shown:
            continue
        score, threshold = each.scores[method], rules.threshold(each.feature, method)
        alert = is_significant and threshold is not None and score > threshold
        scores.append(
            Score(
                feature=each.feature,
                method=method,
                score=score,
                threshold=threshold,
                p_value=each.p_values.get(method),
                significant=is_significant,
                alert=alert,
                retrain=alert and method in rules.retrain_on,
                severity=severity,
                corrected=each.corrected if method == "psi" else None,
                interval=each.interval if method == "psi" else None,
                error_bound=each.error_bound if method == "ks" else None,
            )
        )
    return Judged(each.feature, p_value, is_significant, severity, tuple(scores))


def _rank(each: Judged) -> tuple[bool, bool, bool, float, str]:
    """Sorts what moved most to the front; the name makes the order that of no accident."""
    return (
        not any(score.retrain for score in each.scores),
        not any(score.alert for score in each.scores),
        not each.significant,
        -max((score.score / score.threshold for score in each.scores if score.threshold is not None), default=0.0),
        each.feature,
    )


def _reason(judged: Sequence[Judged]) -> str:
    total = f"{len(judged)} feature{'s' if len(judged) != 1 else ''}"
    alerting = [each for each in judged if any(score.alert for score in each.scores)]
    moved = [each for each in judged if each.significant]
    if not moved:
        return f"none of {total} moved by more than chance"
    if not alerting:
        return (
            f"{len(moved)} of {total} moved by more than chance, none beyond a threshold: {_named(moved, above=False)}"
        )
    text = f"{len(alerting)} of {total} moved beyond a threshold: {_named(alerting, above=True)}"
    retraining = [score for each in alerting for score in each.scores if score.retrain]
    if retraining:
        names = " and ".join(_WORDS[method] for method in ALERTING if method in {s.method for s in retraining})
        text += f"; retraining is called for by {names}"
    return text


def _named(moved: Sequence[Judged], *, above: bool) -> str:
    """The first few, each with what it was judged by."""
    parts = []
    for i, each in enumerate(moved[:_NAMED]):
        told = [s for s in each.scores if s.method in ALERTING and (s.alert or not above)]
        figures = ", ".join(f"{_WORDS[s.method]} {s.score:.2g}" for s in told)
        parts.append(f"{each.feature}{' most' if i == 0 and len(moved) > 1 else ''} ({figures})")
    rest = len(moved) - len(parts)
    return ", ".join(parts) + (f" and {rest} more" if rest else "")
