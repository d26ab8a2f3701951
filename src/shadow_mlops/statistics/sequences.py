"""Confidence sequences: intervals that hold at all times at once, for who keeps looking. They decide nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SHOWN_FROM = 100
"""Values before which the interval for a mean is not shown: it is asymptotic."""
NONZERO_FROM = 10
_TUNED_FOR = 1000.0


def mean_radius(count: int, variance: float, alpha: float, *, tuned_for: float = _TUNED_FOR) -> float:
    """Half width of the asymptotic confidence sequence for a mean.

    σ̂ · √(2 (tρ² + 1) / (t²ρ²) · ln(√(tρ² + 1) / α)) with ρ² = (−2 ln α + ln(−2 ln α) + 1) / t*.

    Parameters
    ----------
    count
        t, at least 1.
    variance
        σ̂² of the values so far.
    alpha
        1 − the level.
    tuned_for
        t*: count at which it is tightest.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, arXiv 2103.06476, eq. 3 and its tuning.
    """
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / tuned_for
    scaled = count * rho2 + 1
    return math.sqrt(variance) * math.sqrt(2 * scaled / (count**2 * rho2) * math.log(math.sqrt(scaled) / alpha))


def mean_interval(
    mean: float, variance: float, count: int, nonzero: int, alpha: float, *, tuned_for: float = _TUNED_FOR
) -> tuple[float, float] | None:
    """Interval for a mean difference; None until there are 100 values, 10 of them not 0."""
    if count < SHOWN_FROM or nonzero < NONZERO_FROM:
        return None
    radius = mean_radius(count, variance, alpha, tuned_for=tuned_for)
    return mean - radius, mean + radius


def quantile_interval(ascending: NDArray[np.float64], share: float, alpha: float) -> tuple[float, float]:
    """Interval for a quantile of the distribution that n values came from, valid at all n at once.

    Ranks n·(p ∓ f) with f(p) = 1.5·√(p(1−p)·ℓ) + 0.8·ℓ and ℓ = (1.4·ln ln(2.1 n) + ln(10/α)) / n.

    Parameters
    ----------
    ascending
        float64 (n,), n ≥ 1, sorted.
    share
        p, in (0, 1).

    Returns
    -------
    tuple of float
        −inf or inf where no rank is that far.

    References
    ----------
    Howard and Ramdas, Bernoulli 28 (2022), arXiv 1906.09712, theorem 1.
    """
    n = len(ascending)
    step = (1.4 * math.log(math.log(2.1 * n)) if n > 1 else 0.0) + math.log(10 / alpha)
    width = 1.5 * math.sqrt(share * (1 - share) * step / n) + 0.8 * step / n
    low, high = math.floor(n * (share - width)), math.ceil(n * (share + width))
    return (
        float(ascending[low - 1]) if low >= 1 else -math.inf,
        float(ascending[high - 1]) if high <= n else math.inf,
    )
