"""Windows without drift, counted as a drift check counts them: what ``drift_calibration.py`` judges.

Up to 10,000 rows a sample is drawn row by row and goes through the same functions as a user's. Larger references are
drawn as order statistics (of uniform values, by gamma distributed spacings) or as multinomial counts of a discrete
distribution's values, larger current samples as multinomial counts in the bins; both are the same in distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from shadow_mlops.statistics.bins import (
    CategoryBins,
    NumericBins,
    bins_of_order_statistics,
    category_bins,
    quantile_bins,
    quantile_ranks,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rng = np.random.Generator
ROWS = 10_000  # more are drawn as counts


@dataclass(frozen=True)
class Window:
    """Both samples of one feature in the same bins, missing last."""

    reference: Ints
    current: Ints
    tied: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Continuous:
    """A distribution of numbers; ``missing`` of the rows have no value. Without ``quantile`` it may have atoms."""

    rows: Callable[[Rng, int], Floats]
    below: Callable[[Floats], Floats]
    quantile: Callable[[Floats], Floats] | None = None
    missing: float = 0.0

    kind = "number"

    @property
    def one_null(self) -> bool:
        """Whether sizes and bins alone make the null distribution, so that a process draws it only once."""
        return not self.missing and self.quantile is not None

    def window(self, rng: Rng, n: int, m: int, bins: int) -> Window:
        given_n, given_m = (size - int(rng.binomial(size, self.missing)) for size in (n, m))
        if n <= ROWS:
            values = self.rows(rng, given_n)
            frozen = quantile_bins(values, bins)
            reference = frozen.coarse(frozen.count(values))
        else:
            assert self.quantile is not None, "such references are small"
            ranks = quantile_ranks(given_n, bins)
            spacings = rng.standard_gamma([*np.diff(ranks, prepend=-1), given_n - int(ranks[-1])])
            values = self.quantile(np.cumsum(spacings)[:-1] / spacings.sum())
            frozen = bins_of_order_statistics(values, given_n, bins, least=float(values[0]), greatest=float(values[-1]))
            at_or_below = ranks[np.searchsorted(values, frozen.edges, side="right") - 1] + 1
            reference = np.append(np.diff(at_or_below, prepend=0, append=given_n), 0)
        if m <= ROWS:
            current = frozen.coarse(frozen.count(self.rows(rng, given_m)))
        else:
            chances = np.diff(self.below(frozen.edges), prepend=0.0, append=1.0)
            current = np.append(rng.multinomial(given_m, np.maximum(chances, 0)), 0)
        reference[-1], current[-1] = n - given_n, m - given_m
        return Window(reference, current, frozen.tied)


@dataclass(frozen=True)
class Discrete:
    """Values of a number, ascending, and how likely each is."""

    values: Floats
    chances: Floats

    kind, one_null = "number", False

    def window(self, rng: Rng, n: int, m: int, bins: int) -> Window:
        counts = rng.multinomial(n, self.chances), rng.multinomial(m, self.chances)
        frozen = self._bins(counts[0], n, bins)
        reference, current = (self._counted(frozen, each, size) for each, size in zip(counts, (n, m), strict=True))
        return Window(reference, current, frozen.tied)

    def _bins(self, counts: Ints, rows: int, bins: int) -> NumericBins:
        if rows <= ROWS:
            return quantile_bins(np.repeat(self.values, counts), bins)
        there = self.values[counts > 0]
        known = self.values[np.searchsorted(np.cumsum(counts), quantile_ranks(rows, bins), side="right")]
        return bins_of_order_statistics(known, rows, bins, least=float(there[0]), greatest=float(there[-1]))

    def _counted(self, frozen: NumericBins, counts: Ints, rows: int) -> Ints:
        if rows <= ROWS:
            return frozen.coarse(frozen.count(np.repeat(self.values, counts)))
        places = np.searchsorted(frozen.edges, self.values)
        counted = np.zeros(len(frozen.edges) + 2, dtype=np.int64)
        np.add.at(counted, places, counts)
        return counted


@dataclass(frozen=True)
class Categories:
    """Categories and how likely each is; those that are not among the ``largest`` of the reference share OTHER."""

    chances: Floats
    largest: int = 1000
    missing: float = 0.0

    kind, one_null = "category", False

    def window(self, rng: Rng, n: int, m: int, bins: int) -> Window:
        del bins
        given = [*self.chances * (1 - self.missing), self.missing]
        counts = rng.multinomial(n, given), rng.multinomial(m, given)
        names = [f"c{i:03}" for i in range(len(self.chances))]
        frozen = category_bins(dict(zip(names, counts[0][:-1].tolist(), strict=True)), self.largest)
        reference, current = (self._counted(frozen, names, each) for each in counts)
        return Window(reference, current)

    def _counted(self, frozen: CategoryBins, names: list[str], counts: Ints) -> Ints:
        codes = np.append(np.arange(len(names)), -1)
        if counts.sum() <= ROWS:
            return frozen.count_codes(np.repeat(codes, counts), names)
        places = {name: place for place, name in enumerate(frozen.categories)}
        counted = np.zeros(len(frozen.categories) + 2, dtype=np.int64)
        np.add.at(counted, [places.get(name, -2) for name in names], counts[:-1])
        counted[-1] = counts[-1]
        return counted


def _normal(rng: Rng, rows: int) -> Floats:
    return rng.standard_normal(rows)


def _zeros_and_amounts(rng: Rng, rows: int) -> Floats:
    return np.where(rng.random(rows) < _ZEROS, 0.0, rng.lognormal(size=rows))


def _zeros_and_amounts_below(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        above = special.ndtr(np.log(np.maximum(values, 0)))
    return np.where(values < 0, 0.0, _ZEROS + (1 - _ZEROS) * above)


_ZEROS = 0.6
_DECIMALS = np.arange(-60, 61) / 10
_COUNTS = np.arange(40.0)
_FEW_AND_RARE = np.array([0.16] * 5 + [0.2 / 200] * 200)

POPULATIONS: dict[str, Continuous | Discrete | Categories] = {
    "normal": Continuous(_normal, special.ndtr, special.ndtri),
    "Student's t, 2 degrees": Continuous(
        lambda rng, rows: rng.standard_t(2, rows),
        lambda values: special.stdtr(2, values),
        lambda shares: special.stdtrit(2, shares),
    ),
    "normal, 5 % missing": Continuous(_normal, special.ndtr, special.ndtri, missing=0.05),
    "60 % zeros, else lognormal": Continuous(_zeros_and_amounts, _zeros_and_amounts_below),
    "Poisson(3)": Discrete(_COUNTS, stats.poisson.pmf(_COUNTS, 3) / stats.poisson.cdf(_COUNTS[-1], 3)),
    "normal, one decimal": Discrete(_DECIMALS, np.diff(special.ndtr(_DECIMALS[:-1] + 0.05), prepend=0.0, append=1.0)),
    "3 categories": Categories(np.array([0.6, 0.3, 0.1])),
    "200 rare categories": Categories(np.full(200, 1 / 200)),
    "5 and 200 rare, 5 % missing": Categories(_FEW_AND_RARE, missing=0.05),
    "the same, OTHER from the 21st": Categories(_FEW_AND_RARE, largest=20),
}
