"""Distances between two samples that are counted in the same bins.

All take integer counts ``reference`` and ``current`` of shape (..., B), bins in the same order, and give float64 (...).
Bins that are empty in both samples are dropped before anything else, so that padding with zeros is free: it does not
even change the last bit, for sums are taken from left to right. Where a sample has no row at all, the distance is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_SMOOTHING = 0.5  # rows in each bin, so that a bin that one sample lacks has a finite logarithm


def live(reference: Counts, current: Counts) -> Counts:
    """B, the bins that are not empty in both samples, int64 (...)."""
    bins: Counts = np.count_nonzero(np.add(reference, current), axis=-1)
    return bins


def psi(reference: Counts, current: Counts) -> Floats:
    """Population stability index Σ(pᵢ − qᵢ)·ln(pᵢ/qᵢ), in nats: 0 and more.

    Shares are (c + ½) / (n + B/2). Symmetric; it is the Jeffreys divergence.

    Examples
    --------
    >>> psi(np.array([50, 50]), np.array([60, 40])).round(4)
    np.float64(0.0397)
    """
    p, q = _shares(reference, current)
    return _sum((p - q) * np.log(p / q))


def psi_corrected(reference: Counts, current: Counts) -> Floats:
    """:func:`psi` less what it is on average without any drift, (B − 1)·(1/n + 1/m): around 0 then, at any size."""
    n, m = _rows(reference), _rows(current)
    with np.errstate(divide="ignore"):  # an empty sample: NaN - inf
        return psi(reference, current) - (live(reference, current) - 1) * (1 / n + 1 / m)


def js(reference: Counts, current: Counts) -> Floats:
    """Jensen-Shannon distance to base 2: the root of the divergence, in [0, 1]. Shares as for :func:`psi`.

    With d = (p − q)/(p + q) the divergence is ¼·Σ(p + q)·((1 + d)·log₂(1 + d) + (1 − d)·log₂(1 − d)): sums of what is
    positive, so that the root of a small one is exact to the last digits, too.
    """
    p, q = _shares(reference, current)
    d = (p - q) / (p + q)
    terms = (p + q) * ((1 + d) * np.log1p(d) + (1 - d) * np.log1p(-d))
    distance: Floats = np.sqrt(np.maximum(_sum(terms), 0) / (4 * np.log(2)))
    return distance


def hellinger(reference: Counts, current: Counts) -> Floats:
    """Hellinger distance √(½·Σ(√pᵢ − √qᵢ)²), in [0, 1]. Shares as for :func:`psi`."""
    p, q = _shares(reference, current)
    distance: Floats = np.sqrt(_sum((np.sqrt(p) - np.sqrt(q)) ** 2) / 2)
    return distance


def total_variation(reference: Counts, current: Counts) -> Floats:
    """Total variation distance ½·Σ|pᵢ − qᵢ|, in [0, 1]. Shares as for :func:`psi`."""
    p, q = _shares(reference, current)
    return _sum(np.abs(p - q)) / 2


def chi_square(reference: Counts, current: Counts) -> Floats:
    """Pearson's statistic of the 2 x B table of raw counts, without a correction of continuity; B − 1 degrees."""
    n, m = _rows(reference), _rows(current)
    pooled = np.add(reference, current, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # an empty sample: 0/0
        difference = np.subtract(reference * m[..., None], current * n[..., None], dtype=np.float64)
        return _sum(difference**2 / np.where(pooled == 0, 1, pooled)) / (n * m)


def ks_of_counts(reference: Counts, current: Counts) -> Floats:
    """Kolmogorov-Smirnov distance at the borders of cells: the largest |F − G| there, a lower bound of the distance.

    Cells are in ascending order and missing is left out.
    """
    f, g = _cumulated(reference), _cumulated(current)
    return _largest(np.abs(f - g))


def ks_error_bound(reference: Counts, current: Counts, single: NDArray[np.bool_] | None = None) -> Floats:
    """How much the Kolmogorov-Smirnov distance is above :func:`ks_of_counts` at most.

    Within a cell from a to b, F − G is at most F(b) − G(a).

    Parameters
    ----------
    single
        bool (..., B), cells that only one value falls into (``NumericBins.single``): there is no within.
    """
    f, g = _cumulated(reference), _cumulated(current)
    f_before, g_before = f - _over(reference, _rows(reference)), g - _over(current, _rows(current))
    within = np.maximum(f - g_before, g - f_before)
    if single is not None:
        within = np.where(single, np.abs(f - g), within)
    bound: Floats = np.maximum(_largest(within) - _largest(np.abs(f - g)), 0)
    return bound


def _rows(counts: Counts) -> Floats:
    rows: Floats = counts.sum(axis=-1).astype(np.float64)
    return rows


def _shares(reference: Counts, current: Counts) -> tuple[Floats, Floats]:
    """Smoothed shares of both samples; 1 and 1 in dropped bins, whose terms are 0 then; NaN if a sample is empty."""
    alive = np.add(reference, current) > 0
    smoothing = np.maximum(np.count_nonzero(alive, axis=-1), 1) * _SMOOTHING
    shares = []
    for counts in (reference, current):
        rows = _rows(counts)
        unit = np.where(rows > 0, 1.0, np.nan)[..., None]
        shares.append(np.where(alive, (counts + _SMOOTHING) / (rows + smoothing)[..., None], 1.0) * unit)
    return shares[0], shares[1]


def _sum(terms: Floats) -> Floats:
    """Sum over bins from left to right: NumPy's own order depends on how many zeros follow."""
    total: Floats = np.cumsum(terms, axis=-1)[..., -1]
    return total


def _over(counts: Counts, rows: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # an empty sample: 0/0
        shares: Floats = counts / rows[..., None]
    return shares


def _cumulated(counts: Counts) -> Floats:
    return _over(np.cumsum(counts, axis=-1), _rows(counts))


def _largest(gaps: Floats) -> Floats:
    largest: Floats = gaps.max(axis=-1)
    return largest
