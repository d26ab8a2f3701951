"""What is tested of counts in the same bins, and counts as they would be without drift, given what is known of them.

Bins come in stretches. What the rows of both samples together have in each stretch is given; which of these rows are
the reference's is as if drawn from an urn (the multivariate hypergeometric distribution). Within a stretch of several
bins, which are divided at values that the reference has once, the reference has fixed ranks and its bins' probabilities
are Dirichlet distributed, whatever the feature's distribution: one row of the reference for each, and one more for the
last, which ends at no value of the reference. A category, a value that the reference repeats, and missing are stretches
of one bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.statistics.bins import Kind

Counts = NDArray[np.int64]

# expected rows in the smaller sample, below which a bin is not tested by itself: a category, and repeated values
_RARE, _FEW = 5, 13
_CERTAIN = 3.0  # standard deviations that a category is above those of OTHER, to be sure of its own bin
_URN = 10**9  # NumPy's urns hold fewer rows; in larger ones, with and without putting back are the same


@dataclass(frozen=True, slots=True, eq=False)
class NoDrift:
    """Counts of one feature as they are tested, and what is given of them.

    Attributes
    ----------
    reference, current
        int64 (B,).
    stretches
        Number of the stretch that each bin belongs to, int64 (B,), ascending: for each null distribution that has to be
        unlikely. There are two where values are repeated.
    ranked
        bool (B,): bins of numbers, which end at values of the reference.
    """

    reference: Counts
    current: Counts
    stretches: tuple[Counts, ...]
    ranked: NDArray[np.bool_]


def no_drift(reference: Counts, current: Counts, kind: Kind, tied: NDArray[np.bool_] | None = None) -> NoDrift:
    """What no drift would mean for the counts of a feature.

    Parameters
    ----------
    reference, current
        int64 (B,), missing last, for categories OTHER before it.
    tied
        Of numeric bins ``NumericBins.tied``, bool (B - 1,); None: no value is repeated.

    Notes
    -----
    Which values of a discrete feature have a bin depends on which the reference happens to have, and one that it has by
    chance only looks like drift: n = 50 of normal values with two decimals in 50 bins against m = 1,000 raised 12 %
    false alarms. So bins with few expected rows in the smaller sample are merged, as the counts of both samples say
    together: categories with fewer than 5 into OTHER, bins of repeated values with fewer than 13 with their neighbours.
    Then repeated values are either many, and borders where they would always be, which makes an urn of each bin; or
    few, and borders ranks of the reference. In between the truth is in between, so that both have to be unlikely (up to
    1.5 % with one of them, 0.6 to 1.1 % with both; merged below 10 instead of 13, 1.16 %).

    The categories that are just large enough to have a bin of their own have it because the reference happens to have
    many of them, and a window has fewer: the largest 20 of 200 equal ones raised 52 % false alarms. So where OTHER has
    rows of the reference, categories stay that would have a bin however the rows of both samples were dealt.

    Numeric bins that were made of another reference than this one are fixed beforehand. They are told by its counts,
    which are not those of quantiles, and tested as repeated values are.
    """
    reference, current = np.asarray(reference, dtype=np.int64), np.asarray(current, dtype=np.int64)
    common = reference + current
    unit = int(common.sum()) / max(min(int(reference.sum()), int(current.sum())), 1)
    bins = len(common)
    if kind == "category":
        few = common[:-2] < max(_RARE * unit, _sure_of_a_bin(reference, current))
        group = np.where(np.append(few, [False, False]), bins - 2, np.arange(bins))
        stretches: tuple[Counts, ...] = (np.arange(bins),)
    elif (tied is None or not tied.any()) and _are_quantiles(reference[:-1]):
        group = np.arange(bins)
        stretches = (_stretches(np.zeros(bins - 1, dtype=np.bool_)),)
    else:
        group = np.append(_neighbours(common[:-1], _FEW * unit), bins - 1)
        ends = np.zeros(bins - 1, dtype=np.bool_)
        ends[group[:-1]] = tied if tied is not None and tied.any() else True  # the last bin of a group counts
        stretches = (_stretches(ends), _stretches(np.zeros_like(ends)))
    reference, current = _summed(reference, group), _summed(current, group)
    there = reference + current > 0
    ranked = np.arange(bins) < (bins - 1 if kind == "number" else 0)
    return NoDrift(reference[there], current[there], tuple(each[there] for each in stretches), ranked[there])


def draw(
    rng: np.random.Generator, size: int, reference: Counts, current: Counts, stretch: Counts
) -> tuple[Counts, Counts]:
    """Counts of both samples without drift, each int64 (size, B).

    Parameters
    ----------
    reference, current
        int64 (B,), as observed: their sums, and the sums over both of each stretch, are those of every draw.
    stretch
        int64 (B,): number of the stretch that each bin belongs to, ascending.
    """
    firsts = np.flatnonzero(np.diff(stretch, prepend=-1))
    pooled = np.add.reduceat(reference + current, firsts)
    in_reference, in_current = _urn(rng, size, pooled, int(reference.sum()), int(current.sum()))
    if len(firsts) == len(stretch):
        return in_reference, in_current
    drawn = np.empty((size, len(stretch)), dtype=np.int64), np.empty((size, len(stretch)), dtype=np.int64)
    for i, (first, last) in enumerate(zip(firsts, [*firsts[1:], len(stretch)], strict=True)):
        fixed = _ranks(reference[first:last], in_reference[:, i])
        drawn[0][:, first:last] = fixed
        drawn[1][:, first:last] = _dirichlet_multinomial(rng, fixed, in_current[:, i])
    return drawn


def _sure_of_a_bin(reference: Counts, current: Counts) -> float:
    """Rows of both samples from which on a category is among the largest of the reference, whichever of them it has."""
    least = int(min(reference[:-2], default=0))
    if not reference[-2] or not least:  # none was left over, or they were the largest of another reference
        return 0.0
    share = int(reference.sum()) / int(reference.sum() + current.sum())
    # of t rows the reference has t·share, give or take √(t·share·(1 - share)): as many as the least of the largest
    spread = _CERTAIN * np.sqrt(1 - share)
    return float(((spread + np.sqrt(spread**2 + 4 * least)) / 2) ** 2 / share)


def _are_quantiles(reference: Counts) -> bool:
    """Whether bins have as many rows as between equidistant ranks."""
    bins, rows = len(reference), int(reference.sum())
    return bool((reference == np.diff(np.arange(bins + 1) * rows // bins)).all())


def _stretches(ends: NDArray[np.bool_]) -> Counts:
    """Stretches of numeric bins, (B - 1,) of which some end one, and of missing after them."""
    return np.concatenate(([0], np.cumsum(ends[:-1]), [np.count_nonzero(ends[:-1]) + 1]))


def _neighbours(common: Counts, least: float) -> Counts:
    """Groups of neighbouring bins, each with ``least`` rows at least; each is called by the number of its last bin."""
    group, rows, last = np.empty(len(common), dtype=np.int64), 0, 0
    for i, each in enumerate(common.tolist()):
        rows += each
        if rows >= least:
            group[last : i + 1] = i
            rows, last = 0, i + 1
    group[last:] = len(common) - 1
    if 0 < last < len(common):  # what is left over belongs to the group before it
        group[group == last - 1] = len(common) - 1
    return group


def _summed(counts: Counts, group: Counts) -> Counts:
    summed = np.zeros_like(counts)
    np.add.at(summed, group, counts)
    return summed


def _urn(rng: np.random.Generator, size: int, pooled: Counts, n: int, m: int) -> tuple[Counts, Counts]:
    """Which of the rows of each stretch are the reference's and which the current ones."""
    if len(pooled) == 1:
        return np.full((size, 1), n), np.full((size, 1), m)
    if n + m >= _URN:
        return rng.multinomial(n, pooled / (n + m), size), rng.multinomial(m, pooled / (n + m), size)
    drawn = rng.multivariate_hypergeometric(pooled, min(n, m), size, method="marginals")
    return (drawn, pooled - drawn) if n <= m else (pooled - drawn, drawn)


def _ranks(observed: Counts, rows: Counts) -> Counts:
    """Reference rows of each bin of a stretch, (size, k), where it has these rows (size,) in all of them."""
    ends = np.cumsum(observed)
    scaled = rows[:, None] * ends // max(int(ends[-1]), 1)
    scaled[:, -1] = rows
    return np.diff(scaled, axis=1, prepend=0)


def _dirichlet_multinomial(rng: np.random.Generator, reference: Counts, rows: Counts) -> Counts:
    """Counts of so many rows (size,) in bins whose probabilities are known from the reference (size, k) only."""
    if reference.shape[1] == 1:
        return rows[:, None]
    parameters = reference.astype(np.float64)
    parameters[:, -1] += 1
    weights = rng.standard_gamma(parameters)
    drawn: Counts = rng.multinomial(rows, weights / weights.sum(axis=1, keepdims=True))
    return drawn
