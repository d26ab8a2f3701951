"""Harm that begins late: a detector that forgets the good days before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from shadow_mlops.statistics.eprocess import BETS

_LOG_BETS = float(np.log(len(BETS)))


class HarmDetector:
    """Shiryaev–Roberts on harm: M_λ = (M_λ + 1)·(1 − λ D / b) for each bet λ, M their mean.

    An e-process must first lose what it won: harm of 4 points after 6,000 good pairs took it 2,414 pairs in a
    simulation, this detector 1,058. Without harm the expectation of M after n values is n at most, so the chance of an
    alarm at M ≥ G·n/α within n values is α/G at most.

    Parameters
    ----------
    bound
        b: no difference (positive: the new model is better) is larger in absolute value.
    log_levels
        ln M_λ as :attr:`log_levels` gave it, to go on; None: begin.

    Raises
    ------
    ValueError
        If the bound is not positive, or the levels are none of this grid.

    References
    ----------
    Shin, Ramdas and Rinaldo, "E-detectors", New England Journal of Statistics in Data Science, 2024.

    Examples
    --------
    >>> detector = HarmDetector(bound=1.0)
    >>> detector.update([-1.0] * 20)
    >>> detector.alarmed(values=2000, alpha=0.05, guards=1)
    True
    """

    __slots__ = ("_levels", "bound", "peak")

    def __init__(self, *, bound: float, log_levels: ArrayLike | None = None, peak: float = -np.inf) -> None:
        if not (np.isfinite(bound) and bound > 0):
            raise ValueError(f"the bound of the differences is a positive number, not {bound!r}")
        self.bound = bound
        self.peak = peak
        """Greatest ln M so far."""
        self._levels: NDArray[np.float64] = np.full(len(BETS), -np.inf) if log_levels is None else np.array(log_levels)
        if self._levels.shape != BETS.shape:
            raise ValueError(f"there are {len(BETS)} bets, not {self._levels.size}")

    def update(self, values: ArrayLike) -> None:
        """Take k more differences, float64 (k,), in their order.

        Raises
        ------
        ValueError
            If one is NaN or beyond the bound.
        """
        new = np.asarray(values, dtype=np.float64)
        if not (np.abs(new) <= self.bound).all():
            raise ValueError(f"differences are numbers between -{self.bound:g} and {self.bound:g}")
        for step in np.log1p(np.outer(-new / self.bound, BETS)):
            self._levels = np.logaddexp(self._levels, 0.0) + step
            self.peak = max(self.peak, self.log_level)

    @property
    def log_level(self) -> float:
        """Logarithm of M; −inf before the first value."""
        return float(logsumexp(self._levels)) - _LOG_BETS

    @property
    def log_levels(self) -> list[float]:
        """Logarithms of M_λ: all that must be kept, with :attr:`peak`."""
        return [float(level) for level in self._levels]

    def alarmed(self, *, values: int, alpha: float, guards: int = 1) -> bool:
        """Whether M has ever reached G·n/α.

        Parameters
        ----------
        values
            n: values for which the promise is to hold (those of a canary step).
        guards
            G: how many detectors share α.
        """
        return self.peak >= float(np.log(guards * values / alpha))
