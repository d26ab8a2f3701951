"""Betting on a mean: the e-process behind every decision of the gate, for any bounded loss.

Under "the challenger is not better" the wealth of a gambler who bets a fixed part of it on each difference is a
nonnegative supermartingale, and so is the average over a grid of bets. By Ville's inequality it ever reaches 1/α with
a probability of α at most, however often and whenever somebody looks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

BETS: NDArray[np.float64] = np.arange(1, 40, 2) / 40
"""Parts of the wealth that are bet: 0.025, 0.075, …, 0.975."""
_LOG_BETS = float(np.log(len(BETS)))


@dataclass(frozen=True, slots=True)
class GridState:
    """All that a :class:`GridProcess` remembers; plain numbers, so that JSON keeps them bit for bit."""

    bound: float
    margin: float
    log_wealth: tuple[float, ...] = (0.0,) * len(BETS)
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    nonzero: int = 0
    peak: float = 0.0
    """Greatest log e-value so far."""


class GridProcess:
    """E = mean over λ of ∏(1 + λ (Dᵢ + δ) / (b + δ)), watched after every value.

    Parameters
    ----------
    bound
        b: no difference is larger in absolute value.
    margin
        δ: 0 asks whether the mean of D is above 0 (superior), else whether it is above −δ (not inferior).

    Raises
    ------
    ValueError
        If bound or margin are not finite, the bound is not positive, or the margin is negative.

    References
    ----------
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B, 2024.

    Examples
    --------
    >>> process = GridProcess(bound=1.0)
    >>> process.update([1.0] * 10)
    >>> process.crossed(0.05), process.count, process.mean
    (True, 10, 1.0)
    """

    __slots__ = ("_log_wealth", "_nonzero", "_squares", "_total", "bound", "count", "margin", "peak")

    def __init__(self, *, bound: float, margin: float = 0.0) -> None:
        _check(bound, margin)
        self.bound = bound
        self.margin = margin
        self.count = 0
        """Values so far."""
        self.peak = 0.0
        """Greatest log e-value after any value so far: what was reached once stays reached."""
        self._log_wealth = np.zeros(len(BETS))
        self._total = 0.0
        self._squares = 0.0
        self._nonzero = 0

    def update(self, values: ArrayLike) -> None:
        """Take k more values, float64 (k,), in their order; how they are cut into batches changes no bit.

        Raises
        ------
        ValueError
            If one is NaN or beyond the bound; nothing is taken then.
        """
        new = np.asarray(values, dtype=np.float64)
        if not new.size:
            return
        if new.ndim != 1 or not (np.abs(new) <= self.bound).all():
            raise ValueError(f"differences are numbers between -{self.bound:g} and {self.bound:g}")
        steps = np.log1p(np.outer((new + self.margin) / (self.bound + self.margin), BETS))
        # accumulate adds one after the other: a sum by pairs would depend on where a batch ends
        paths = np.add.accumulate(np.vstack([self._log_wealth, steps]), axis=0)[1:]
        self.peak = max(self.peak, float(np.max(logsumexp(paths, axis=1))) - _LOG_BETS)
        self._log_wealth = paths[-1]
        self._total = float(np.add.accumulate(np.concatenate([[self._total], new]))[-1])
        self._squares = float(np.add.accumulate(np.concatenate([[self._squares], new * new]))[-1])
        self._nonzero += int(np.count_nonzero(new))
        self.count += len(new)

    @property
    def log_e_value(self) -> float:
        """Logarithm of the e-value now."""
        return float(logsumexp(self._log_wealth)) - _LOG_BETS

    @property
    def e_value(self) -> float:
        """Evidence now: under the null its expectation is 1 at most."""
        return float(np.exp(min(self.log_e_value, 700.0)))  # e^709 is the last that a double holds

    def crossed(self, alpha: float) -> bool:
        """Whether the e-value has ever reached 1/α; once true, it stays true."""
        return self.peak >= -math.log(alpha)

    @property
    def mean(self) -> float:
        """Mean difference; NaN before the first value."""
        return self._total / self.count if self.count else float("nan")

    @property
    def variance(self) -> float:
        """Variance of the differences (divided by n); NaN before the first value."""
        if not self.count:
            return float("nan")
        return max(self._squares / self.count - self.mean**2, 0.0)

    @property
    def nonzero(self) -> int:
        """Values other than 0."""
        return self._nonzero

    def labels_needed(self, alpha: float) -> int | None:
        """How many more values it may take to cross 1/α if the data go on as they are: 2σ̂²·ln(1/α)/(D̄ + δ)² − t.

        Returns
        -------
        int or None
            0 once crossed; None where the mean does not point that way.
        """
        if self.crossed(alpha):
            return 0
        shift = self.mean + self.margin
        if not self.count or not shift > 0:
            return None
        return max(0, math.ceil(2 * self.variance * -math.log(alpha) / shift**2 - self.count))

    def state(self) -> GridState:
        """All that is remembered."""
        return GridState(
            bound=self.bound,
            margin=self.margin,
            log_wealth=tuple(self._log_wealth.tolist()),
            count=self.count,
            total=self._total,
            squares=self._squares,
            nonzero=self._nonzero,
            peak=self.peak,
        )

    @classmethod
    def resumed(cls, state: GridState) -> GridProcess:
        """A process that goes on where the state was taken, bit for bit.

        Raises
        ------
        ValueError
            If the state is none of this grid.
        """
        process = cls(bound=state.bound, margin=state.margin)
        if len(state.log_wealth) != len(BETS):
            raise ValueError(f"the state has {len(state.log_wealth)} bets, the grid {len(BETS)}")
        process._log_wealth = np.array(state.log_wealth)
        process.count, process.peak = state.count, state.peak
        process._total, process._squares, process._nonzero = state.total, state.squares, state.nonzero
        return process


def grid_state(plain: dict[str, Any]) -> GridState:
    """The inverse of :func:`plain_state`."""
    return GridState(**{**plain, "log_wealth": tuple(plain["log_wealth"])})


def plain_state(state: GridState) -> dict[str, Any]:
    """A state as JSON takes it."""
    return asdict(state)


def log_e_paths(values: NDArray[np.float64], *, bound: float, margin: float = 0.0) -> NDArray[np.float64]:
    """Log e-values after every value of many independent processes.

    Parameters
    ----------
    values
        float64 (paths, n).

    Returns
    -------
    float64 (paths, n)

    Raises
    ------
    ValueError
        As :class:`GridProcess`.
    """
    _check(bound, margin)
    if not (np.abs(values) <= bound).all():
        raise ValueError(f"differences are numbers between -{bound:g} and {bound:g}")
    scaled = (values + margin) / (bound + margin)
    total = np.full(values.shape, -np.inf)
    for bet in BETS:
        np.logaddexp(total, np.add.accumulate(np.log1p(bet * scaled), axis=1), out=total)
    return total - _LOG_BETS


def _check(bound: float, margin: float) -> None:
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"the bound of the differences is a positive number, not {bound!r}")
    if not (np.isfinite(margin) and margin >= 0):
        raise ValueError(f"the margin is 0 or a positive number, not {margin!r}")
