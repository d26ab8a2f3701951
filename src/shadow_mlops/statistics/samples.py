"""What is told from the values of two samples themselves, beyond counts: p-values of KS, and Wasserstein's distance."""

from __future__ import annotations

import math
import threading
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shadow_mlops.statistics.selection import ks_distance as ks

__all__ = ["dkw_band", "ks", "ks_p_value", "wasserstein"]

_WARNINGS = threading.Lock()  # which warnings are shown is a setting of the whole process
_EXACT_ROWS = 10_000  # up to here SciPy's method "auto" counts paths
_ONE_SIDED, _ZERO = 2.2, 370.0  # where SciPy's kstwo.sf begins with the one-sided p-value, and ends with 0
_TERMS = 1024


def ks_p_value(distance: float, n: int, m: int) -> float:
    """P-value of a two-sided Kolmogorov-Smirnov test, as that of ``scipy.stats.ks_2samp(method="auto")``.

    Parameters
    ----------
    distance
        sup|F − G| of samples of n and m rows.
    n, m
        Rows of the samples.

    Returns
    -------
    float
        Exact for samples of up to 10,000 rows (conservative where values are repeated), else of the limit distribution;
        1 if a sample is empty.

    Raises
    ------
    ValueError
        If two samples of these sizes cannot be at that distance.

    Examples
    --------
    >>> round(ks_p_value(0.5, 10, 10), 4)
    0.1678
    """
    if not n or not m:
        return 1.0
    if max(n, m) > _EXACT_ROWS:
        return _limit(distance, round(n * m / (n + m)))
    common = math.gcd(n, m)
    return _exact(round(distance * (n // common) * m), n, m)


@lru_cache(maxsize=4096)
def _exact(steps: int, n: int, m: int) -> float:
    """P-value of the distance steps / lcm(n, m).

    SciPy makes it of the distance and the sizes alone, but takes samples only: these are samples of two values each.
    """
    common = math.gcd(n, m)
    n_unit, m_unit = n // common, m // common
    # i·m' - j·n' = steps: i of n and j of m rows have the lower value
    low_n = steps * pow(m_unit, -1, n_unit) % n_unit
    low_m = (low_n * m_unit - steps) // n_unit
    units = max(0, -(low_m // m_unit))
    low_n, low_m = low_n + units * n_unit, low_m + units * m_unit
    if not (0 <= low_n <= n and 0 <= low_m <= m):
        raise ValueError(f"samples of {n} and {m} rows cannot be {steps}/{math.lcm(n, m)} apart")
    samples = np.repeat([0.0, 1.0], [low_n, n - low_n]), np.repeat([0.0, 1.0], [low_m, m - low_m])
    with _WARNINGS, warnings.catch_warnings():
        # of sizes like 7 and 7, where a sum of path counts is 1 + 1e-16: SciPy gives the limit distribution's 0.99996
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ks_2samp(*samples).pvalue)


def _limit(distance: float, rows: int) -> float:
    """P-value of the distance of a sample of so many rows to its distribution, as ``scipy.stats.kstwo.sf``.

    Beyond rows·distance² = 2.2 SciPy takes twice the one-sided p-value, Smirnov's sum of as many terms as there are
    rows: 1.3 s for half a million. The terms are smooth and vanish at both ends, so that a sum over every k-th of them,
    times k, is the same to thirteen digits.
    """
    squared = rows * distance**2
    if squared < _ONE_SIDED or rows < 2 * _TERMS:
        return float(np.clip(stats.kstwo.sf(distance, rows), 0, 1))
    if squared >= _ZERO:
        return 0.0
    every = rows // _TERMS
    above = np.arange(0, int(rows * (1 - distance)) + 1, every)
    shares = distance + above / rows
    return float(2 * every * np.sum(distance / shares * stats.binom.pmf(above, rows, shares)))


def dkw_band(n: int, level: float = 0.95) -> float:
    """Half width of a band around an empirical distribution function that has the true one in it everywhere.

    √(ln(2/(1 − level)) / (2n)), by the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant: at least
    with probability ``level``, for any distribution. 1 at most, and for no rows.

    Examples
    --------
    >>> round(dkw_band(1000), 4)
    0.0429
    """
    return min(1.0, math.sqrt(math.log(2 / (1 - level)) / (2 * n))) if n else 1.0


def wasserstein(reference: NDArray[np.float64], current: NDArray[np.float64], *, per_sigma: bool = False) -> float:
    """Wasserstein's distance ∫|F − G|, in the feature's unit: how far values moved on average.

    Parameters
    ----------
    reference, current
        float64 (n,) and (m,), without NaN, in any order.
    per_sigma
        In standard deviations of the reference instead.

    Returns
    -------
    float
        As ``scipy.stats.wasserstein_distance``: with infinities infinite or NaN. NaN if a sample is empty, or if the
        reference is constant and its standard deviation is asked for.

    Examples
    --------
    >>> wasserstein(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    2.0
    """
    if not len(reference) or not len(current):
        return math.nan
    with np.errstate(invalid="ignore", over="ignore"):  # of infinities
        distance = float(stats.wasserstein_distance(reference, current))
        if not per_sigma:
            return distance
        sigma = float(np.std(reference))
    return distance / sigma if sigma else math.nan
