"""Exact order statistics and the exact Kolmogorov-Smirnov distance of large samples, without sorting them.

Both look at a sample through some thousand cells first and then sort only the values of the few cells that matter.
Sorting two samples of a million takes 105 ms and merging them 60 ms more (NumPy's sort on this machine: 52 ns a value);
the distance takes 35 ms here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.statistics.lookup import Lookup

_CELLS = 4096  # of two million values without drift 9 % are in cells that might hold the largest gap
_LOOKED_AT = 1 << 15  # values of a sample from which its cells are made
_CHUNK = 1 << 15
_FEW = 1 << 15  # values; below, sorting takes no longer


def order_statistics(values: NDArray[np.float64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """``numpy.sort(values)[ranks]``.

    Parameters
    ----------
    values
        float64 (n,), in any order; NaN sorts last.
    ranks
        int64 (k,), ascending, each in [0, n).

    Returns
    -------
    float64 (k,)

    Examples
    --------
    >>> order_statistics(np.array([3.0, 1.0, 2.0]), np.array([0, 2]))
    array([1., 3.])
    """
    if len(values) <= _FEW:
        return np.sort(values)[ranks]
    edges = _edges(values)
    places = np.empty(len(values), dtype=np.int32)
    held = Lookup(edges).count(values, places)
    ends = np.cumsum(held)
    cells = np.searchsorted(ends, ranks, side="right")
    wanted = np.zeros(len(edges) + 2, dtype=np.bool_)
    wanted[cells] = True
    kept = np.sort(_of_cells(values, places, wanted))
    before = np.cumsum(np.where(wanted, 0, held))  # values of cells that are not kept, up to each cell
    found: NDArray[np.float64] = kept[ranks - before[cells]]
    return found


def ks_distance(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """The largest gap between two empirical distribution functions, sup|F - G|, exactly.

    Parameters
    ----------
    reference, current
        float64 (n,) and (m,), in any order, without NaN; infinities are values.

    Returns
    -------
    float
        In [0, 1]; NaN if a sample is empty.

    Notes
    -----
    Between the ends a < b of a cell F - G is at most F(b) - G(a). Cells whose bound is not above the largest gap found
    at the ends of all cells cannot hold a larger one, so only the values of the others are looked at again, in finer
    cells, and those few that are left are sorted.

    Examples
    --------
    >>> ks_distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))
    0.5
    """
    n, m = len(reference), len(current)
    if not n or not m:
        return float("nan")
    if max(n, m) <= _FEW:
        return _largest(np.sort(reference), np.sort(current), n, m) / (n * m)
    values, edges = [reference, current], _edges(reference, current)
    before: list[NDArray[np.int64] | int] = [0, 0]  # values up to the end of each cell that are no longer among these
    largest = 0
    while True:
        lookup, held, places = Lookup(edges), [], []
        for each in values:
            places.append(np.empty(len(each), dtype=np.int32))
            held.append(lookup.count(each, places[-1])[:-1])
        # in units of 1 / (n m), so that all of it is integers
        f, g = ((np.cumsum(each) + out) * size for each, out, size in zip(held, before, (m, n), strict=True))
        largest = max(largest, int(np.abs(f - g).max()))
        open_ = np.maximum(f - (g - held[1] * n), g - (f - held[0] * m)) > largest
        kept = [_of_cells(*each, open_) for each in zip(values, places, strict=True)]
        closed = [
            np.cumsum(np.where(open_, 0, each), dtype=np.int64) + out for each, out in zip(held, before, strict=True)
        ]
        left = len(kept[0]) + len(kept[1])
        if left <= _FEW or left > (len(values[0]) + len(values[1])) // 2:
            break
        finer = np.union1d(edges[open_[1:] != open_[:-1]], _edges(*kept))
        at = np.append(np.searchsorted(edges, finer), len(edges))
        values, edges, before = kept, finer, [each[at] for each in closed]
    cells = np.repeat(np.flatnonzero(open_), held[1][open_])  # of the kept values of `current`, in their order
    skipped = [each[cells] for each in closed]
    return max(largest, _largest(np.sort(kept[0]), np.sort(kept[1]), n, m, before=skipped)) / (n * m)


def _of_cells(values: NDArray[np.float64], places: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of the wanted cells, in their order."""
    kept = []
    for start in range(0, len(values), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        # twice as fast as indexing, by places and by the mask
        kept.append(np.compress(np.take(wanted, places[chunk], mode="clip"), values[chunk]))
    return np.concatenate(kept)


def _largest(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    n: int,
    m: int,
    *,
    before: list[NDArray[np.int64]] | None = None,
) -> int:
    """Largest gap at the values of two sorted samples, in units of 1 / (n m).

    ``before`` are the values of either sample that were left out of it and are less, for each value of ``second``.
    """
    # F - G falls at values of `second` only: there it is least, and just before them it is greatest.
    last = np.flatnonzero(np.append(second[1:] != second[:-1], True)[: len(second)])
    values = second[last]
    after = last + 1
    just_before = np.append(0, after)[:-1]
    less = np.searchsorted(first, values)
    at_most = less.copy()
    equal = np.flatnonzero(np.append(first, np.nan)[less] == values)
    at_most[equal] = np.searchsorted(first, values[equal], side="right")
    if before is not None:
        skipped_first, skipped_second = before[0][last], before[1][last]
        less, at_most = less + skipped_first, at_most + skipped_first
        after, just_before = after + skipped_second, just_before + skipped_second
    least, greatest = at_most * m - after * n, less * m - just_before * n
    return int(max(np.abs(least).max(initial=0), np.abs(greatest).max(initial=0)))


def _edges(*samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of cells with about equally many values of all samples together: finite, strictly ascending."""
    looked_at: NDArray[np.float64] = np.sort(
        np.concatenate([sample[:: max(1, -(-len(sample) // _LOOKED_AT))] for sample in samples])
    )
    looked_at = looked_at[np.isfinite(looked_at)]
    if not len(looked_at):
        return looked_at
    edges: NDArray[np.float64] = looked_at[np.arange(1, _CELLS) * len(looked_at) // _CELLS]
    distinct: NDArray[np.float64] = edges[np.append(edges[1:] != edges[:-1], True)]
    return distinct
