"""Bins of one feature, frozen from its reference: where they end, how rows are counted in them, what they are called.

Bins of numbers end at order statistics of the reference, never of the union of both samples: one outlier in the union
would widen all bins. That also makes the null distribution of their counts known, whatever the feature's distribution:
between borders that are values which the reference has once, the probabilities of the bins are Dirichlet distributed
with the reference's counts as parameters (plus 1 in the last). A border at a value that the reference repeats is none
of those: the rows on both sides of it are counts of two categories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.statistics.lookup import Lookup
from shadow_mlops.statistics.selection import order_statistics

Kind = Literal["number", "category"]

LEAST_BINS, MOST_BINS = 2, 1000
LARGEST_CATEGORIES = 1000
"""Categories with a bin of their own; all others share OTHER."""
_CELLS = 250  # of the grid: Kolmogorov-Smirnov from counts is off by 1/250 at most where the samples are alike
_MOST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, eq=False)
class NumericBins:
    """Bins of a number: bin i is (edges[i-1], edges[i]], the ends reach to -inf and +inf. NaN is missing.

    A value that would be several edges at once has a bin of its own: from the double just below it to itself.

    Attributes
    ----------
    edges
        float64 (B-1,), finite, strictly ascending; none where the reference has no value.
    grid
        float64 (G-1,), the edges and more: borders of the finer cells in which rows are counted, for distances between
        distribution functions. The first cell is all below the reference's least finite value, the last all above its
        greatest.
    tied
        bool (B,): the bin ends at a value that the reference repeats (or just below one), so that the border is no
        order statistic of a continuous distribution. False for the last bin.
    """

    edges: NDArray[np.float64]
    grid: NDArray[np.float64]
    tied: NDArray[np.bool_]
    _starts: NDArray[np.intp] = field(init=False, repr=False)
    _lookup: Lookup = field(init=False, repr=False)

    kind: ClassVar[Kind] = "number"

    def __post_init__(self) -> None:
        for array in (self.edges, self.grid, self.tied):
            array.setflags(write=False)
        starts = np.concatenate(([0], np.searchsorted(self.grid, self.edges) + 1, [len(self.grid) + 1]))
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_lookup", Lookup(self.grid))

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Rows in each cell of the grid.

        Parameters
        ----------
        values
            (n,), of any numeric or boolean type; NaN is missing, infinities are values.

        Returns
        -------
        int64 (G + 1,)
            The last place is missing.
        """
        return self._lookup.count(np.asarray(values, dtype=np.float64))

    def coarse(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows in each bin, from those in each cell: (..., G + 1) to (..., B + 1); the last place is missing."""
        coarse: NDArray[np.int64] = np.add.reduceat(counts, self._starts, axis=-1)
        return coarse

    @property
    def single(self) -> NDArray[np.bool_]:
        """Cells of the grid that only one value falls into, bool (G,)."""
        single = np.zeros(len(self.grid) + 1, dtype=np.bool_)
        single[1:-1] = np.nextafter(self.grid[1:], -np.inf) == self.grid[:-1]
        return single

    def labels(self) -> tuple[str, ...]:
        """Names of the bins for people, ``missing`` last.

        >>> quantile_bins(np.arange(100.0), 4).labels()
        ('≤ 24', '(24, 49]', '(49, 74]', '> 74', 'missing')
        >>> quantile_bins(np.repeat([0, 1], [1, 19])).labels()
        ('< 1', '1', '> 1', 'missing')
        """
        if not len(self.edges):
            return ("any value", "missing")
        below = np.append(self.edges[1:] == np.nextafter(self.edges[:-1], np.inf), False)  # just below the next edge
        shown = _shown(np.where(below, np.append(self.edges[1:], 0), self.edges))
        names = [f"{'<' if below[0] else '≤'} {shown[0]}"]
        for i in range(1, len(self.edges)):
            single = below[i - 1]
            names.append(shown[i] if single else f"({shown[i - 1]}, {shown[i]}{')' if below[i] else ']'}")
        return (*names, f"> {shown[-1]}", "missing")


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """Bins of a category: one for each of the largest, OTHER for the tail and for what the reference never had.

    Attributes
    ----------
    categories
        By rows of the reference, then by name.
    """

    categories: tuple[str, ...]
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    kind: ClassVar[Kind] = "category"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.categories)})

    def count(self, values: NDArray[Any] | Sequence[str | None]) -> NDArray[np.int64]:
        """Rows of each category.

        Parameters
        ----------
        values
            (n,) of str or None; None and NaN are missing.

        Returns
        -------
        int64 (C + 2,)
            Last but one is OTHER, last is missing.
        """
        rows = _rows_of(values)
        return self._sums(list(rows), np.fromiter(rows.values(), dtype=np.int64, count=len(rows)))

    def count_codes(self, codes: NDArray[np.integer], dictionary: Sequence[str | None]) -> NDArray[np.int64]:
        """Rows of each category, of a column that is encoded by a dictionary.

        Parameters
        ----------
        codes
            (n,), places in the dictionary; those below 0 are missing.
        dictionary
            Values; one may be there twice.

        Returns
        -------
        int64 (C + 2,)
        """
        rows = np.bincount(np.maximum(codes, -1) + 1, minlength=len(dictionary) + 1)
        return self._sums([None, *dictionary], rows)

    def coarse(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The counts: categories have no finer cells."""
        return counts

    def labels(self) -> tuple[str, ...]:
        """Names of the bins, ``other`` and ``missing`` last."""
        return (*self.categories, "other", "missing")

    def _sums(self, values: Sequence[Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        other, missing = len(self.categories), len(self.categories) + 1
        places = [missing if _is_missing(value) else self._places.get(value, other) for value in values]
        counts = np.zeros(len(self.categories) + 2, dtype=np.int64)
        np.add.at(counts, np.array(places, dtype=np.intp), rows)
        return counts


FeatureBins: TypeAlias = NumericBins | CategoryBins


def quantile_bins(values: NDArray[Any], bins: int = 10) -> NumericBins:
    """Bins that end at quantiles of the reference.

    Parameters
    ----------
    values
        (n,), of any numeric or boolean type; NaN is missing, infinities are values.
    bins
        2 to 1,000. With fewer different values there are fewer.

    Raises
    ------
    DriftError
        If there are to be fewer or more bins.
    """
    floats = np.asarray(values, dtype=np.float64)
    given = len(floats) - int(np.count_nonzero(np.isnan(floats)))
    least, greatest = finite_ends(floats)
    ranks = quantile_ranks(given, bins)
    return bins_of_order_statistics(order_statistics(floats, ranks), given, bins, least=least, greatest=greatest)


@lru_cache(maxsize=128)  # columns of one sample have one length
def quantile_ranks(given: int, bins: int = 10) -> NDArray[np.int64]:
    """The order statistics that make bins: ranks from 0, ascending, of ``given`` values without NaN.

    Beside those that cells end at they hold the neighbours of those that bins end at, which tell whether a value is
    repeated.
    """
    edges, cells = _ranks(given, bins)
    ranks: NDArray[np.int64] = np.unique(np.concatenate([cells, edges - 1, edges + 1]))
    ranks = ranks[(ranks >= 0) & (ranks < given)]
    ranks.setflags(write=False)
    return ranks


def bins_of_order_statistics(
    values: NDArray[np.float64], given: int, bins: int = 10, *, least: float, greatest: float
) -> NumericBins:
    """Bins of a sample of which only a few order statistics are known: equal to :func:`quantile_bins` of all of it.

    Parameters
    ----------
    values
        float64 (k,), those at :func:`quantile_ranks`.
    given
        Values of the sample that are not NaN.
    least, greatest
        Of its finite values; NaN if there are none.
    """
    ranks = quantile_ranks(given, bins)
    edge_ranks, cell_ranks = _ranks(given, bins)
    at = np.searchsorted(ranks, edge_ranks)
    chosen = values[at]
    before, after = values[np.maximum(at - 1, 0)], values[np.minimum(at + 1, len(values) - 1)]
    repeated = ((before == chosen) & (edge_ranks > 0)) | ((after == chosen) & (edge_ranks < given - 1))
    edges = _borders(chosen)
    ends = np.array([np.nextafter(least, -np.inf), greatest])
    grid = np.unique(np.concatenate([edges, _borders(values[np.searchsorted(ranks, cell_ranks)]), ends]))
    # a border is tied unless it is a value that the reference has once
    tied = ~np.isin(edges, chosen[~repeated])
    return NumericBins(edges, grid[np.isfinite(grid)], np.append(tied, False))


def category_bins(
    values: NDArray[Any] | Sequence[str | None] | Mapping[str | None, int], largest: int = LARGEST_CATEGORIES
) -> CategoryBins:
    """Bins of the reference's most frequent categories.

    Parameters
    ----------
    values
        (n,) of str or None, or rows by value; None and NaN are missing.
    largest
        Categories with a bin of their own.
    """
    rows = values if isinstance(values, Mapping) else _rows_of(values)
    there = [(-count, str(value)) for value, count in rows.items() if count and not _is_missing(value)]
    return CategoryBins(tuple(value for _, value in sorted(there)[:largest]))


def finite_ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Least and greatest finite value; NaN if there is none."""
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    if np.isinf(low) or np.isinf(high):
        finite = values[np.isfinite(values)]
        low, high = np.fmin.reduce(finite, initial=np.nan), np.fmax.reduce(finite, initial=np.nan)
    return float(low), float(high)


def to_plain(bins: FeatureBins) -> dict[str, Any]:
    """Bins as data for JSON; all numbers are finite, and exact in Python's notation."""
    if isinstance(bins, CategoryBins):
        return {"kind": bins.kind, "categories": list(bins.categories)}
    return {"kind": bins.kind, **{name: getattr(bins, name).tolist() for name in ("edges", "grid", "tied")}}


def from_plain(plain: Mapping[str, Any]) -> FeatureBins:
    """Bins of :func:`to_plain`.

    Raises
    ------
    DriftError
        If it is none of that.
    """
    try:
        if plain["kind"] == CategoryBins.kind:
            return CategoryBins(tuple(plain["categories"]))
        edges, grid = (np.array(plain[name], dtype=np.float64) for name in ("edges", "grid"))
        tied = np.array(plain["tied"], dtype=np.bool_)
    except (KeyError, TypeError, ValueError) as error:
        raise DriftError(f"these are no bins ({error!r}): make the reference anew") from error
    ascending = all(bool((np.diff(each) > 0).all()) and bool(np.isfinite(each).all()) for each in (edges, grid))
    if not (ascending and np.isin(edges, grid).all() and len(tied) == len(edges) + 1):
        raise DriftError("these are no bins (their edges do not fit together): make the reference anew")
    return NumericBins(edges, grid, tied)


@lru_cache(maxsize=128)
def _ranks(given: int, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks from 0 of the values that bins end at, and of those that cells end at."""
    if not LEAST_BINS <= bins <= MOST_BINS:
        raise DriftError(f"bins is a whole number from {LEAST_BINS} to {MOST_BINS:,}, not {bins!r}")
    cells = bins * max(1, round(_CELLS / bins))
    edges, cell_ends = (np.unique(np.arange(1, count, dtype=np.int64) * given // count) for count in (bins, cells))
    found = edges[edges > 0] - 1, cell_ends[cell_ends > 0] - 1
    for ranks in found:
        ranks.setflags(write=False)
    return found


def _borders(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders at these values; one that is there twice gets another just below it. Infinite ones become finite."""
    distinct, times = np.unique(values, return_counts=True)
    own = distinct[times > 1]
    borders = np.concatenate([distinct, np.nextafter(own, -np.inf)])
    # those at -inf or +inf part all that is infinite from all that is not
    return np.unique(np.clip(borders, -_MOST, _MOST))


def _shown(values: NDArray[np.float64]) -> list[str]:
    """Different numbers as different texts, as short as may be."""
    shown: list[str] = []
    for digits in (4, 6, 9, 17):
        shown = [f"{value:.{digits}g}" for value in values.tolist()]
        if len(set(shown)) == len(np.unique(values)):
            break
    return shown


def _rows_of(values: NDArray[Any] | Sequence[Any]) -> Mapping[Any, int]:
    """Rows by value; counted in C."""
    return Counter(values.tolist() if isinstance(values, np.ndarray) else values)


def _is_missing(value: object) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN, of whatever type
