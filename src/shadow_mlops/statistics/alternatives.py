"""What the live detector bets on: alternatives to "no drift", as likelihood ratios of the counts of a bucket.

Alternatives of a number: ratios of bin probabilities for :data:`SHIFTS` and :data:`SCALES` of normal scores, and
:data:`ODDS` of its missing bin. Of a category: :data:`ODDS` of each bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, ndtri

from shadow_mlops.statistics.ragged import Segments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHIFTS = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)
"""Mean shifts of the numeric alternatives, in standard deviations of normal scores."""
SCALES = (1.5, 0.67)
"""Their changes of spread."""
ODDS = (3.0, 1 / 3)
"""Factors on the odds of one bin."""
_NODES = 21  # 1e-15 of the sum that is interpolated: 5.9^-21


def normal_ratios(shares: Floats) -> Floats:
    """What a shift or another spread does to the probabilities of bins, on normal scores.

    Parameters
    ----------
    shares
        float64 (..., B): of the bins in ascending order, all positive, of sum 1. They give the borders on the normal
        scale.

    Returns
    -------
    float64 (..., 10, B)
        P_j(k)/P_0(k) for :data:`SHIFTS`, then :data:`SCALES`.

    Examples
    --------
    >>> normal_ratios(np.array([0.5, 0.5]))[7].round(3)  # a shift by 1: Φ(−1) and Φ(1), over ½
    array([0.317, 1.683])
    """
    below = np.cumsum(shares, axis=-1)[..., :-1]
    above = np.cumsum(shares[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    inner = np.where(below < above, ndtri(below), -ndtri(above))  # from the nearer end, where digits are left
    end = np.full((*inner.shape[:-1], 1), np.inf)
    borders = np.concatenate([-end, inner, end], axis=-1)
    moved = [borders - shift for shift in SHIFTS] + [borders / scale for scale in SCALES]
    ratios: Floats = np.stack([_between(each) for each in moved], axis=-2) / _between(borders)[..., np.newaxis, :]
    return ratios


def _between(borders: Floats) -> Floats:
    """Normal probabilities between borders, as exact in the upper tail as in the lower."""
    low, high = borders[..., :-1], borders[..., 1:]
    right = low > 0
    probabilities: Floats = np.where(right, ndtr(-low), ndtr(high)) - np.where(right, ndtr(-high), ndtr(low))
    return probabilities


class Numbers:
    """Numeric features: each alternative is a table of ratios, one for each bin."""

    def __init__(self, starts: Sequence[Floats], bins: Ints) -> None:
        self.bins = bins
        self._segments = Segments([start.shape[1] for start in starts])
        self._ratios = np.concatenate([_ratios_of_number(start) for start in starts], axis=1)
        every = self._ratios.shape[2]
        self.alternatives = [every if start.shape[1] > 2 else len(ODDS) for start in starts]
        """Of each feature."""
        self._kept = np.arange(every) >= every - np.array(self.alternatives)[:, np.newaxis]

    def log_ratios(self, pseudo: Floats, rows: Ints, group: int) -> Floats:
        """L(b, K_j) − L(b, N) of all alternatives; ΣK_j = ΣN, so that their first terms cancel."""
        firsts, ratios = self._segments.firsts, self._ratios[group]
        sums = np.add.reduceat(pseudo, firsts)[:, np.newaxis]
        scale = sums / np.add.reduceat(pseudo[:, np.newaxis] * ratios, firsts, axis=0)
        # a bin without rows adds nothing to the likelihood
        at = np.flatnonzero(rows)
        owners, before, taken = self._segments.owners[at], pseudo[at, np.newaxis], rows[at, np.newaxis]
        terms = _log_rising(before * ratios[at] * scale[owners], taken) - _log_rising(before, taken)
        every: Floats = _sums_by(owners, terms, len(firsts))[self._kept]
        return every


def _ratios_of_number(start: Floats) -> Floats:
    """w, float64 (groups, B, 12): of the moves, then of the odds of missing."""
    ratios = np.ones((*start.shape, len(SHIFTS) + len(SCALES) + len(ODDS)))
    values = start[:, :-1]
    moved = normal_ratios(values / values.sum(axis=1, keepdims=True))
    ratios[:, :-1, : -len(ODDS)] = np.swapaxes(moved, 1, 2)
    ratios[:, -1, -len(ODDS) :] = ODDS
    return ratios


class Odds:
    """Categories: each alternative multiplies the odds of one bin.

    K_j is then c·N with c = ΣN/Σ(N·w_j) in all bins but one, where it is factor·c·N. The sum over the bins is a smooth
    function of ln c in [−ln 3, ln 3], the same for all alternatives of a feature: it is computed at a few Chebyshev
    points and interpolated, so that B bins cost O(B) instead of O(B²). It has no singularity nearer than ±πi (c < 0),
    so that the error shrinks by a factor of 5.9 with each point.
    """

    _REACH = math.log(max(ODDS))

    def __init__(self, starts: Sequence[Floats], bins: Ints) -> None:
        self.bins = bins
        self._segments = Segments([start.shape[1] for start in starts])
        self.alternatives = [start.shape[1] * len(ODDS) for start in starts]
        """Of each feature."""
        points = chebyshev.chebpts1(_NODES)
        self._nodes = np.exp(self._REACH * points)
        self._to_coefficients = chebyshev.chebvander(points, _NODES - 1) * (2 / _NODES)  # orthogonal on the points
        self._to_coefficients[:, 0] /= 2

    def log_ratios(self, pseudo: Floats, rows: Ints, group: int) -> Floats:  # noqa: ARG002 - the odds are those of all
        """L(b, K_j) − L(b, N) of all alternatives; ΣK_j = ΣN, so that their first terms cancel."""
        owners, firsts, odds = self._segments.owners, self._segments.firsts, np.array(ODDS)
        sums = np.add.reduceat(pseudo, firsts)[owners, np.newaxis]
        scale = sums / (sums + (odds - 1) * pseudo[:, np.newaxis])
        at = np.flatnonzero(rows)
        before, taken = pseudo[at, np.newaxis], rows[at, np.newaxis]
        terms = _log_rising(before * self._nodes, taken) - _log_rising(before, taken)
        # einsum, as the order in which a BLAS adds may depend on its threads
        coefficients = np.einsum("fp,pk->fk", _sums_by(owners[at], terms, len(firsts)), self._to_coefficients)
        ratios: Floats = chebyshev.chebval(
            np.log(scale) / self._REACH, coefficients[owners].T[:, :, np.newaxis], tensor=False
        )
        rest = before * scale[at]
        ratios[at] += _log_rising(odds * rest, taken) - _log_rising(rest, taken)
        return ratios.ravel()


def _sums_by(owners: Ints, terms: Floats, count: int) -> Floats:
    """Sums of the rows of terms (n, k) with the same owner, float64 (count, k); owners ascend."""
    sums = np.zeros((count, terms.shape[1]))
    present, firsts = np.unique(owners, return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(terms, firsts, axis=0)
    return sums


def _log_rising(x: Floats, rows: NDArray[np.number]) -> Floats:
    """lnΓ(x + b) − lnΓ(x)."""
    rising: Floats = gammaln(x + rows) - gammaln(x)
    return rising
