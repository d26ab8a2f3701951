"""Whether a distance is more than chance: p-values, intervals, and many features at once.

Without drift PSI·nm/(n+m) and 8·ln2·JSD₂·nm/(n+m) are χ²(B − 1) distributed where all bins are well filled. In small
samples that is wrong in both directions (at n = m = 50 the test at 1 % fires in 0.06 to 0.35 % of windows, at 50 and
1,000 in 5.7 %), so there p-values are exact Monte Carlo ones: the distance's rank among those of counts that are drawn
without drift (:mod:`shadow_mlops.statistics.nulls`), all computed in one way.

References
----------
Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation
(2020).
Phipson and Smyth, "Permutation p-values should never be zero", 2010, for (1 + #)/(K + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from shadow_mlops.statistics import distances, nulls
from shadow_mlops.statistics.bins import Kind

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Null = Literal["chi_square", "monte_carlo", "none"]
"""Where a p-value is from; none: there is nothing to compare, p = 1."""
Distance: TypeAlias = Callable[[Counts, Counts], Floats]

LEAST_DRAWS = 20_000
DRAWS_PER_FEATURE = 400
"""So that the least p-value, 1/(draws + 1), passes a correction for all features at 1 % with room to spare."""
_WELL_FILLED = 30.0  # expected rows of a bin in either sample, from which on χ² is used
_WELL_KNOWN = 200  # rows of a quantile bin in a reference that is smaller than the current sample
_SAME = 1 - 1e-12  # draws whose distance differs in rounding only are as far
_FIRST_DRAWS, _CLEAR = 1000, 0.1  # p-values near 0.1 and above are not looked at closer
_CHUNK = 1 << 20  # counts drawn at a time: 8 MB


@dataclass(frozen=True, slots=True, eq=False)
class PValues:
    """P-values of some features.

    Attributes
    ----------
    values
        float64 (F,).
    nulls
        For each, where it is from.
    """

    values: Floats
    nulls: tuple[Null, ...]


def psi_p_values(
    reference: Sequence[Counts],
    current: Sequence[Counts],
    *,
    kinds: Sequence[Kind],
    tied: Sequence[NDArray[np.bool_] | None] | None = None,
    draws: int | None = None,
) -> PValues:
    """How often PSI would be this large without drift.

    Parameters
    ----------
    reference, current
        For each feature int64 (B,), in the same bins: missing last, for categories OTHER before it.
    kinds
        For each feature.
    tied
        For each feature ``NumericBins.tied`` (B - 1,); None: no value is repeated.
    draws
        K of the Monte Carlo; by default 20,000, or 400 per feature if that is more.

    Returns
    -------
    PValues
        χ² where all live bins have at least 30 expected rows in both samples, and quantile bins of a reference that is
        smaller than the current sample at least 200 rows each. Else (1 + #{T* ≥ T})/(K + 1); where already the first
        thousand draws say that it is above 0.1, of these. 1 where fewer than two bins are live, or a sample is empty.

    Notes
    -----
    Categories with fewer than 5 expected rows in the smaller sample are first merged into OTHER, here only, by the
    counts of both samples: by the reference alone, 200 rare values raise 99.5 % false alarms. So are bins of a number
    whose values are repeated, with fewer than 13, with their neighbours (``nulls.no_drift``).

    The draws depend on the counts only: the same input gives the same p-value.
    """
    return _p_values(_PSI, _features(reference, current, kinds, tied), _draws(len(kinds), draws))


def js_p_values(
    reference: Sequence[Counts],
    current: Sequence[Counts],
    *,
    kinds: Sequence[Kind],
    tied: Sequence[NDArray[np.bool_] | None] | None = None,
    draws: int | None = None,
) -> PValues:
    """How often the Jensen-Shannon distance would be this large without drift; all as for :func:`psi_p_values`."""
    return _p_values(_JS, _features(reference, current, kinds, tied), _draws(len(kinds), draws))


def chi_square_p_values(statistic: Floats, live: Counts) -> Floats:
    """P-values of Pearson's statistic with ``live`` − 1 degrees of freedom; 1 where fewer than two bins are live."""
    degrees = np.maximum(np.asarray(live) - 1, 1)
    p_values: Floats = np.where(np.asarray(live) < 2, 1.0, stats.chi2.sf(statistic, degrees))
    return p_values


def psi_interval(psi: Floats, n: Floats, m: Floats, live: Counts, level: float = 0.95) -> tuple[Floats, Floats]:
    """Confidence interval of the PSI between the populations.

    By inverting the noncentral χ²: T = PSI·nm/(n+m), F(T; B−1, λ_low) = (1+level)/2, F(T; B−1, λ_high) = (1−level)/2,
    divided by nm/(n+m); 0 where there is no such λ.

    Parameters
    ----------
    psi
        float64 (F,).
    n, m
        Rows of the samples, all of one shape with ``psi`` or scalars.
    live
        int64 (F,).

    Returns
    -------
    low, high
        float64 (F,) each; NaN where PSI is NaN, 0 and 0 where fewer than two bins are live.
    """
    degrees = np.asarray(live, dtype=np.float64) - 1
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty sample
        unit = 1 / (1 / np.asarray(n, dtype=np.float64) + 1 / np.asarray(m, dtype=np.float64))
    statistic = psi * unit
    ends = []
    for share in ((1 + level) / 2, (1 - level) / 2):
        none = (degrees < 1) | (special.chndtr(statistic, np.maximum(degrees, 1), 0) <= share)
        noncentral = special.chndtrinc(statistic, np.maximum(degrees, 1), share)
        ends.append(np.where(np.isnan(statistic), np.nan, np.where(none, 0.0, noncentral / unit)))
    return ends[0], ends[1]


def family_p(p_ks: Floats | float, p_psi: Floats | float) -> Floats:
    """One p-value of a numeric feature from those of two tests: min(1, 2·min), by Bonferroni."""
    p_values: Floats = np.minimum(1.0, 2 * np.minimum(p_ks, p_psi))
    return p_values


def significant(p_values: Floats, level: float = 0.01) -> NDArray[np.bool_]:
    """Which features of a window moved by more than chance, by Benjamini and Hochberg's procedure.

    Parameters
    ----------
    p_values
        float64 (F,), one of each feature of the window.
    level
        Share of windows without any drift in which a feature is called significant; with drift, the expected share of
        features that are called so wrongly.

    Returns
    -------
    bool (F,)
    """
    if not len(p_values):
        return np.zeros(0, dtype=np.bool_)
    moved: NDArray[np.bool_] = stats.false_discovery_control(p_values) <= level
    return moved


@dataclass(frozen=True, slots=True)
class _Test:
    """A distance, and what it is χ² distributed after: times ``scale`` to the power of ``power``, and nm/(n+m)."""

    distance: Callable[[Counts, Counts], Floats]
    power: int = 1
    scale: float = 1.0


_PSI = _Test(distances.psi)
_JS = _Test(distances.js, power=2, scale=8 * math.log(2))


def _features(
    reference: Sequence[Counts],
    current: Sequence[Counts],
    kinds: Sequence[Kind],
    tied: Sequence[NDArray[np.bool_] | None] | None,
) -> Iterable[tuple[Counts, Counts, Kind, NDArray[np.bool_] | None]]:
    return zip(reference, current, kinds, [None] * len(kinds) if tied is None else tied, strict=True)


def _draws(features: int, draws: int | None) -> int:
    return max(LEAST_DRAWS, DRAWS_PER_FEATURE * features) if draws is None else draws


def _p_values(
    test: _Test, features: Iterable[tuple[Counts, Counts, Kind, NDArray[np.bool_] | None]], draws: int
) -> PValues:
    judged = [_p_value(test, nulls.no_drift(*feature), draws) for feature in features]
    return PValues(np.array([p for p, _ in judged], dtype=np.float64), tuple(null for _, null in judged))


def _p_value(test: _Test, given: nulls.NoDrift, draws: int) -> tuple[float, Null]:
    n, m = int(given.reference.sum()), int(given.current.sum())
    if len(given.reference) < 2 or not n or not m:
        return 1.0, "none"
    distance = float(test.distance(given.reference, given.current))
    if _well_filled(given, n, m):
        statistic = test.scale * distance**test.power * (n * m / (n + m))
        return float(stats.chi2.sf(statistic, len(given.reference) - 1)), "chi_square"
    p = 0.0
    for stretch in given.stretches:
        p = max(p, _monte_carlo(test, given, stretch, distance * _SAME, draws))
        if p > _CLEAR:
            break
    return p, "monte_carlo"


def _well_filled(given: nulls.NoDrift, n: int, m: int) -> bool:
    """Whether χ² is near enough."""
    if (given.reference + given.current).min() * (min(n, m) / (n + m)) < _WELL_FILLED:
        return False
    return m <= n or bool((given.reference[given.ranked] >= _WELL_KNOWN).all())


def _monte_carlo(test: _Test, given: nulls.NoDrift, stretch: Counts, observed: float, draws: int) -> float:
    """(1 + #{T* ≥ T})/(K + 1)."""
    reference, current = given.reference, given.current
    if len(given.stretches) == 1 and stretch[0] == stretch[-1]:
        # counts of a continuous feature without missing values: the reference's ranks and m are all that matters
        null = _quantile_null(test.distance, tuple(reference.tolist()), int(current.sum()), draws)
        return float((1 + draws - np.searchsorted(null, observed)) / (draws + 1))
    rng = np.random.default_rng([draws, *reference.tolist(), *current.tolist()])
    done = as_far = 0
    while done < draws:
        size = min(draws - done, max(1, _CHUNK // len(reference)) if done else _FIRST_DRAWS)
        drawn = test.distance(*nulls.draw(rng, size, reference, current, stretch))
        as_far += int(np.count_nonzero(drawn >= observed))
        done += size
        if done == _FIRST_DRAWS and as_far >= _CLEAR * _FIRST_DRAWS:
            break
    return (1 + as_far) / (done + 1)


@lru_cache(maxsize=32)
def _quantile_null(distance: Distance, reference: tuple[int, ...], rows: int, draws: int) -> Floats:
    """Distances without drift between a reference of so many rows per bin and ``rows`` others, ascending (draws,)."""
    rng = np.random.default_rng([draws, rows, *reference])
    ranks = np.array(reference, dtype=np.int64)
    others = np.zeros_like(ranks)
    others[0] = rows
    chunk, stretch = max(1, _CHUNK // len(ranks)), np.zeros_like(ranks)
    sizes = [min(chunk, draws - done) for done in range(0, draws, chunk)]
    null = np.concatenate([distance(*nulls.draw(rng, size, ranks, others, stretch)) for size in sizes])
    null.sort()
    null.setflags(write=False)
    return null
