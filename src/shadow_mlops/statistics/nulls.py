"""Counts of two samples as they would be without drift, drawn given what is known of them.

Bins come in stretches. What the rows of both samples together have in each stretch is given; which of these rows are
the reference's is as if drawn from an urn (the multivariate hypergeometric distribution). Within a stretch of several
bins, which are divided at values that the reference has once, the reference has fixed ranks and its bins' probabilities
are Dirichlet distributed, whatever the feature's distribution: one row of the reference for each, and one more for the
last, which ends at no value of the reference. A category, a value that the reference repeats, and missing are stretches
of one bin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.statistics.bins import Kind

Counts = NDArray[np.int64]

_URN = 10**9  # NumPy's urns hold fewer rows; in larger ones, with and without putting back are the same


def stretches(kind: Kind, bins: int, tied: Sequence[bool] | NDArray[np.bool_] | None = None) -> Counts:
    """Number of the stretch that each bin belongs to, int64 (bins,), ascending.

    Parameters
    ----------
    bins
        Missing included, which is the last.
    tied
        Of numeric bins: ``NumericBins.tied``; None if no value is repeated.

    Examples
    --------
    >>> stretches("number", 5, [True, False, False, False])
    array([0, 1, 1, 1, 2])
    """
    if kind == "category":
        return np.arange(bins)
    ends = np.zeros(bins, dtype=np.bool_)
    ends[: bins - 1] = False if tied is None else tied
    ends[bins - 2 : bins - 1] = True
    return np.concatenate(([0], np.cumsum(ends)[:-1]))


def draw(
    rng: np.random.Generator, size: int, reference: Counts, current: Counts, stretch: Counts
) -> tuple[Counts, Counts]:
    """Counts of both samples without drift, each int64 (size, B).

    Parameters
    ----------
    reference, current
        int64 (B,), as observed: their sums, and the sums over both of each stretch, are those of every draw.
    stretch
        int64 (B,), as :func:`stretches` gives them.
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
