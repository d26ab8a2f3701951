"""Area under the ROC curve: from counts that add up over files and days, with a bound on the error, or exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 65_536
"""Equal bins over [0, 1]; scores outside count in the first or the last one, which keeps their order."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Auc:
    """An area, and how far from the true one it can be at most.

    Attributes
    ----------
    value
        None where a class is absent: there is nothing to rank then.
    error
        The true area lies in ``value`` ± ``error``; 0 where it is exact.
    """

    value: float | None
    error: float | None


UNDEFINED = Auc(None, None)


def auc_of_counts(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> Auc:
    """Area from the number of rows of each class in ascending bins of the score.

    Parameters
    ----------
    positives, negatives
        Shape (bins,). Counts of several files or days add up.

    Notes
    -----
    The area is the chance that a positive row scores above a negative one, ties counting half (Mann-Whitney). Bins
    that differ are in the right order. Within a bin the true share of pairs in order is between 0 and 1, and half of
    it is assumed: the error is at most half of the pairs that share a bin,
    ``sum(positives * negatives) / (2 * positives.sum() * negatives.sum())``.

    References
    ----------
    Hanley and McNeil (1982), The meaning and use of the area under a receiver operating characteristic (ROC) curve,
    Radiology 143.

    Examples
    --------
    >>> auc_of_counts(np.array([0, 1, 1]), np.array([1, 1, 0]))
    Auc(value=0.875, error=0.125)
    """
    above, below = int(positives.sum()), int(negatives.sum())
    if not above or not below:
        return UNDEFINED
    lower = np.cumsum(negatives) - negatives
    shared = int(np.dot(positives, negatives))
    doubled = 2 * int(np.dot(positives, lower)) + shared
    return Auc(doubled / (2 * above * below), shared / (2 * above * below))


def exact_auc(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> Auc:
    """Area from the scores themselves; sorts both arrays in place.

    Parameters
    ----------
    positives, negatives
        Scores of the rows of each class; finite, in any order.

    Examples
    --------
    >>> exact_auc(np.array([0.8, 0.3]), np.array([0.3, 0.1]))
    Auc(value=0.875, error=0.0)
    """
    if not len(positives) or not len(negatives):
        return UNDEFINED
    positives.sort()
    negatives.sort()
    doubled = 0
    for start in range(0, len(positives), _CHUNK):
        part = positives[start : start + _CHUNK]
        for side in ("left", "right"):
            doubled += int(np.searchsorted(negatives, part, side=side).sum())
    return Auc(doubled / (2 * len(positives) * len(negatives)), 0.0)


def macro(areas: list[Auc]) -> Auc:
    """Unweighted mean over the classes whose area is defined; the bounds average too.

    >>> macro([Auc(0.5, 0.25), UNDEFINED, Auc(1.0, 0.0)])
    Auc(value=0.75, error=0.125)
    """
    defined = [area for area in areas if area.value is not None and area.error is not None]
    if not defined:
        return UNDEFINED
    return Auc(
        sum(area.value or 0.0 for area in defined) / len(defined),
        sum(area.error or 0.0 for area in defined) / len(defined),
    )
