"""Two areas under the ROC curve on the same rows, once, at a sample size that was fixed before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata


@dataclass(frozen=True, slots=True)
class DeLong:
    """Comparison of two correlated areas.

    Attributes
    ----------
    first, second
        The areas.
    difference
        second − first.
    standard_error
        Of the difference.
    interval
        For the difference, at the asked level; valid for one look only.
    p_value
        Two-sided.
    """

    first: float
    second: float
    difference: float
    standard_error: float
    interval: tuple[float, float]
    p_value: float


def delong(
    first: NDArray[np.float64], second: NDArray[np.float64], positive: NDArray[np.bool_], *, level: float = 0.95
) -> DeLong:
    """Compare the areas of two scores of the same n rows.

    Parameters
    ----------
    first, second
        float64 (n,).
    positive
        bool (n,): at least two rows of each class.

    Raises
    ------
    ValueError
        If a class has fewer than two rows, or shapes differ.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); mid-ranks as Sun and Xu, IEEE Signal Processing Letters 21
    (2014).

    Examples
    --------
    >>> scores = np.array([0.1, 0.4, 0.35, 0.8])
    >>> delong(scores, scores, np.array([False, False, True, True])).difference
    0.0
    """
    if not first.shape == second.shape == positive.shape or first.ndim != 1:
        raise ValueError("scores and classes are three arrays of one length")
    if min(np.count_nonzero(positive), np.count_nonzero(~positive)) < 2:
        raise ValueError("each class needs two rows at least")
    areas, of_positives, of_negatives = zip(*(_components(s, positive) for s in (first, second)), strict=True)
    variance = np.cov(np.array(of_positives)) / len(of_positives[0]) + np.cov(np.array(of_negatives)) / len(
        of_negatives[0]
    )
    difference = areas[1] - areas[0]
    error = float(np.sqrt(max(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1], 0.0)))
    reach = float(norm.ppf(0.5 + level / 2)) * error
    p_value = float(2 * norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0)
    return DeLong(areas[0], areas[1], difference, error, (difference - reach, difference + reach), p_value)


def _components(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Area, and the share of the other class that each positive, and each negative, is ordered right against."""
    positives, negatives = scores[positive], scores[~positive]
    m, n = len(positives), len(negatives)
    together = rankdata(np.concatenate([positives, negatives]))
    above = (together[:m] - rankdata(positives)) / n
    below = 1 - (together[m:] - rankdata(negatives)) / m
    return float(above.mean()), above, below
