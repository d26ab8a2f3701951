"""Betting on a mean: the e-process behind every decision of the gate, for any bounded loss.

Under "the challenger is not better" the wealth of a gambler who bets a fixed part of it on each difference is a
nonnegative supermartingale, and so is the average over a grid of bets. By Ville's inequality it ever reaches 1/α with
a probability of α at most, however often and whenever somebody looks.

Wealth is kept as a product, mantissa and exponent apart: sums and products have the same bits on every machine, while
NumPy's logarithms depend on its processor, and evidence is compared to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

BETS: NDArray[np.float64] = np.arange(1, 40, 2) / 40
"""Parts of the wealth that are bet: 0.025, 0.075, …, 0.975."""
_AT_ONCE = 64  # values between two looks at the exponent: 0.025^64 is far from the smallest double
_MOST_NEEDED = 1e9  # a mean of 1e-17 is what rounding leaves of none
_LARGEST = 1e300
"""E-values stop here: whatever is beyond has been decided long ago."""


@dataclass(frozen=True, slots=True)
class GridState:
    """All that a :class:`GridProcess` remembers; plain numbers, so that JSON keeps them bit for bit."""

    bound: float
    margin: float
    mantissas: tuple[float, ...] = (1.0,) * len(BETS)
    exponents: tuple[int, ...] = (0,) * len(BETS)
    """Wealth of each bet: mantissa · 2^exponent."""
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    nonzero: int = 0
    peak: float = 1.0
    """Greatest e-value so far."""


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

    __slots__ = ("_exponents", "_mantissas", "_nonzero", "_squares", "_total", "bound", "count", "margin", "peak")

    def __init__(self, *, bound: float, margin: float = 0.0) -> None:
        _check(bound, margin)
        self.bound = bound
        self.margin = margin
        self.count = 0
        """Values so far."""
        self.peak = 1.0
        """Greatest e-value after any value so far: what was reached once stays reached."""
        self._mantissas = np.ones(len(BETS))
        self._exponents = np.zeros(len(BETS), dtype=np.int64)
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
        factors = 1 + np.outer((new + self.margin) / (self.bound + self.margin), BETS)
        for start in range(0, len(new), _AT_ONCE):
            # accumulate multiplies one after the other: a product by pairs would depend on where a batch ends
            part = np.vstack([self._mantissas, factors[start : start + _AT_ONCE]])
            paths = np.multiply.accumulate(part, axis=0)[1:]
            self.peak = max(self.peak, float(_e_values(*_scaled_means(paths, self._exponents)).max()))
            self._mantissas, shift = np.frexp(paths[-1])
            self._exponents = self._exponents + shift
        self._total = float(np.add.accumulate(np.concatenate([[self._total], new]))[-1])
        self._squares = float(np.add.accumulate(np.concatenate([[self._squares], new * new]))[-1])
        self._nonzero += int(np.count_nonzero(new))
        self.count += len(new)

    @property
    def log_e_value(self) -> float:
        """Logarithm of the e-value now, also where it is too small for a double."""
        means, exponent = _scaled_means(self._mantissas[None, :], self._exponents)
        return math.log(means[0]) + exponent * math.log(2)

    @property
    def e_value(self) -> float:
        """Evidence now: under the null its expectation is 1 at most."""
        return float(_e_values(*_scaled_means(self._mantissas[None, :], self._exponents))[0])

    def crossed(self, alpha: float) -> bool:
        """Whether the e-value has ever reached 1/α; once true, it stays true."""
        return self.peak >= 1 / alpha

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

        Values that hardly vary take as long as wealth takes to grow on their mean alone (models that never differ: a
        margin still takes its time).

        Returns
        -------
        int or None
            0 once crossed; None where the mean does not point that way, or hardly does.
        """
        if self.crossed(alpha):
            return 0
        shift = self.mean + self.margin
        if not self.count or not shift > 0:
            return None
        by_variance = 2 * self.variance * -math.log(alpha) / shift**2
        by_mean = _least_count(shift / (self.bound + self.margin), alpha)
        needed = max(by_variance, by_mean) - self.count
        return max(1, math.ceil(needed)) if needed < _MOST_NEEDED else None

    def state(self) -> GridState:
        """All that is remembered."""
        return GridState(
            bound=self.bound,
            margin=self.margin,
            mantissas=tuple(self._mantissas.tolist()),
            exponents=tuple(self._exponents.tolist()),
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
        if not len(state.mantissas) == len(state.exponents) == len(BETS):
            raise ValueError(f"the state has {len(state.mantissas)} bets, the grid {len(BETS)}")
        process._mantissas = np.array(state.mantissas, dtype=np.float64)
        process._exponents = np.array(state.exponents, dtype=np.int64)
        process.count, process.peak = state.count, state.peak
        process._total, process._squares, process._nonzero = state.total, state.squares, state.nonzero
        return process


def grid_state(plain: dict[str, Any]) -> GridState:
    """The inverse of :func:`plain_state`."""
    wealth = {name: tuple(plain[name]) for name in ("mantissas", "exponents")}
    return GridState(**{**plain, **wealth})


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
    return total - float(np.log(len(BETS)))


def _least_count(mean: float, alpha: float) -> float:
    """Values of one mean, in parts of the bound, until wealth reaches 1/α if none varies: sooner it never does."""
    growth, wanted = np.log1p(BETS * mean), math.log(len(BETS) / alpha)
    least = (wanted - math.log(len(BETS))) / float(growth[-1])  # if all had been put on the largest bet
    most = wanted / float(growth[-1])
    return float(brentq(lambda count: float(logsumexp(count * growth)) - wanted, least, most))


def _scaled_means(wealth: NDArray[np.float64], exponents: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
    """Means over the bets of wealth · 2^exponents, float64 (n, bets) to (n,), and the power of two to multiply by."""
    most = int(exponents.max())
    total = np.zeros(len(wealth))
    for column, exponent in zip(wealth.T, (exponents - most).tolist(), strict=True):
        total += np.ldexp(column, exponent)  # one after the other, so that the rounding is always the same
    return total / len(BETS), most


def _e_values(means: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.minimum(np.ldexp(means, exponent), _LARGEST)


def _check(bound: float, margin: float) -> None:
    if not (np.isfinite(bound) and bound > 0):
        raise ValueError(f"the bound of the differences is a positive number, not {bound!r}")
    if not (np.isfinite(margin) and margin >= 0):
        raise ValueError(f"the margin is 0 or a positive number, not {margin!r}")
