"""Features counted on both sides, to a report: the distances, the tests, the decision, the words. No data is read here.

Every door comes through :func:`report_of`, so that rows in memory, files, a warehouse and the live log, counted in the
same bins, give the same figures to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.findings import Counted, find
from shadow_mlops.drift.report import Bin, DriftReport, FeatureDrift, Finding, Method, Moment, Null, Role, Settings
from shadow_mlops.drift.rules import ALERTING, METHODS, Judged, Measured, Rules, decide
from shadow_mlops.statistics import distances, samples, significance
from shadow_mlops.statistics.bins import FeatureBins, NumericBins

Ints: TypeAlias = NDArray[np.int64]

_NULLS: Mapping[str, Null] = {"chi_square": "chi_square", "monte_carlo": "exact", "none": "none"}
_OF_BINS: Mapping[Method, Callable[[Ints, Ints], NDArray[np.float64]]] = {
    "psi": distances.psi,
    "js": distances.js,
    "chi_square": distances.chi_square,
    "hellinger": distances.hellinger,
    "total_variation": distances.total_variation,
}


@dataclass(frozen=True, slots=True)
class Check:
    """What a report says of the check itself.

    Attributes
    ----------
    reference, current
        Where the rows are from, in words.
    reference_rows, current_rows
        All of them.
    methods
        Distances to show; PSI is always among them, for the decision needs it.
    bins
        Quantile bins that were asked for.
    exact_ks
        Whether KS is from all values.
    findings
        Of columns that could not be compared.
    limits
        What the figures do not say.
    timeline
        Earlier windows, where there are any.
    created
        None: now.
    """

    reference: str
    current: str
    reference_rows: int
    current_rows: int
    methods: tuple[Method, ...] = ALERTING
    bins: int = 10
    exact_ks: bool = False
    findings: tuple[Finding, ...] = ()
    limits: tuple[str, ...] = ()
    timeline: tuple[Moment, ...] = ()
    created: datetime | None = None


def report_of(counted: Sequence[Counted], rules: Rules, check: Check) -> DriftReport:
    """Compare features that are counted on both sides, and judge them together.

    Parameters
    ----------
    counted
        Each with at least one row on either side; at least one.
    """
    reference = [each.bins.coarse(each.reference.counts) for each in counted]
    current = [each.bins.coarse(each.current.counts) for each in counted]
    measured, nulls = _measure(counted, reference, current, check.methods)
    decision = decide(measured, rules)
    findings = find(counted, rules.level)
    places = {each.name: i for i, each in enumerate(counted)}
    features = []
    for judged in decision.features:
        i = places[judged.feature]
        found = findings.get(judged.feature, ())
        features.append(_feature(judged, counted[i], reference[i], current[i], null=nulls[i], findings=found))
    created = check.created or datetime.now(UTC)
    bound = max((each.error_bound or 0.0 for each in measured), default=0.0)
    limits = [*check.limits]
    if not check.exact_ks and bound > 0:
        limits.append(f"KS is from bin counts; the exact statistic of a feature is at most {bound:.2g} larger")
    return DriftReport(
        verdict=decision.verdict,
        reason=decision.reason,
        reference_rows=check.reference_rows,
        current_rows=check.current_rows,
        scores=tuple(score for judged in decision.features for score in judged.scores),
        features=tuple(features),
        findings=(*(finding for feature in features for finding in feature.findings), *check.findings),
        reference=check.reference,
        current=check.current,
        created=created.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        settings=Settings(
            bins=check.bins,
            level=rules.level,
            methods=tuple(method for method in METHODS if method in {"psi", *check.methods}),
            thresholds={"psi": rules.psi, "ks": rules.ks, "js": rules.js},
            retrain_on=rules.retrain_on,
            overrides={name: dict(each) for name, each in rules.overrides.items() if name in places},
            exact_ks=check.exact_ks,
        ),
        limits=tuple(limits),
        timeline=check.timeline,
    )


def _measure(
    counted: Sequence[Counted], reference: Sequence[Ints], current: Sequence[Ints], methods: Sequence[Method]
) -> tuple[list[Measured], tuple[str, ...]]:
    """Distances of all features at once, and the null distribution that the p-value of each is from."""
    shown = [method for method in _OF_BINS if method == "psi" or method in methods]
    width = max(map(len, reference))
    padded = _padded(reference, width), _padded(current, width)  # empty bins change nothing, to the last bit
    scores = {method: _OF_BINS[method](*padded) for method in shown}
    live, rows = distances.live(*padded), [side.sum(axis=-1) for side in padded]
    kinds = [each.bins.kind for each in counted]
    tied = [each.bins.tied if isinstance(each.bins, NumericBins) else None for each in counted]
    psi = significance.psi_p_values(reference, current, kinds=kinds, tied=tied)
    p_values: dict[Method, NDArray[np.float64]] = {"psi": psi.values}
    if "js" in methods:
        p_values["js"] = significance.js_p_values(reference, current, kinds=kinds, tied=tied).values
    if "chi_square" in methods:
        p_values["chi_square"] = significance.chi_square_p_values(scores["chi_square"], live)
    corrected = distances.psi_corrected(*padded)
    low, high = significance.psi_interval(scores["psi"], rows[0], rows[1], live)
    measured = []
    for i, each in enumerate(counted):
        own: dict[Method, float] = {method: float(scores[method][i]) for method in shown}
        p_own: dict[Method, float] = {method: float(values[i]) for method, values in p_values.items()}
        bound = None
        if isinstance(each.bins, NumericBins):
            distance, bound = _kolmogorov(each, each.bins)
            if np.isfinite(distance):  # both sides have values
                n, m = (int(tally.counts[:-1].sum()) for tally in (each.reference, each.current))
                own["ks"], p_own["ks"] = distance, samples.ks_p_value(distance, n, m)
            if "wasserstein" in each.exact:
                own["wasserstein"] = each.exact["wasserstein"]
        measured.append(
            Measured(
                feature=each.name,
                scores={method: score for method, score in own.items() if np.isfinite(score)},
                p_values=p_own,
                corrected=float(corrected[i]),
                interval=(float(low[i]), float(high[i])),
                error_bound=bound,
                shown=frozenset({"psi", *methods}),
            )
        )
    return measured, psi.nulls


def _kolmogorov(each: Counted, bins: NumericBins) -> tuple[float, float]:
    """KS and how much larger it may be: exact where the values were there, else at the borders of cells."""
    if "ks" in each.exact:
        return each.exact["ks"], 0.0
    counts = each.reference.counts[:-1], each.current.counts[:-1]
    return float(distances.ks_of_counts(*counts)), float(distances.ks_error_bound(*counts, bins.single))


def _padded(counts: Sequence[Ints], width: int) -> Ints:
    padded = np.zeros((len(counts), width), dtype=np.int64)
    for row, each in zip(padded, counts, strict=True):
        row[: len(each)] = each
    return padded


def _feature(
    judged: Judged, each: Counted, reference: Ints, current: Ints, *, null: str, findings: tuple[Finding, ...]
) -> FeatureDrift:
    n, m = int(reference.sum()), int(current.sum())
    return FeatureDrift(
        name=each.name,
        kind=each.bins.kind,
        reference_rows=n,
        current_rows=m,
        missing_reference=float(reference[-1] / n),
        missing_current=float(current[-1] / m),
        p_value=judged.p_value,
        p_method=_NULLS[null],
        significant=judged.significant,
        severity=judged.severity,
        bins=_bins(each.bins, reference, current),
        findings=findings,
    )


def _bins(bins: FeatureBins, reference: Ints, current: Ints) -> tuple[Bin, ...]:
    """The bins that hold any row."""
    labels, last = bins.labels(), len(reference) - 1
    shown = []
    for i in np.flatnonzero(reference + current).tolist():
        role: Role = "missing" if i == last else "value"
        low = high = None
        if isinstance(bins, NumericBins):
            if role == "value":
                low = float(bins.edges[i - 1]) if i else None
                high = float(bins.edges[i]) if i < len(bins.edges) else None
        elif i == last - 1:
            role = "other"
        shown.append(
            Bin(label=labels[i], role=role, reference=int(reference[i]), current=int(current[i]), low=low, high=high)
        )
    return tuple(shown)
