"""Exact order statistics of a column that is too large to hold: two passes, and a few per cent of its values at a time.

The first pass keeps a random sample and the extremes. The second counts all values between the edges of narrow
brackets, one around where the sample has each wanted rank, and keeps only the values inside the brackets; sorting those
gives the wanted values exactly. What the sample decides is how many values are kept, never the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.statistics.bins import finite_ends
from shadow_mlops.statistics.lookup import Lookup

SAMPLED = 1 << 18
_SIGMAS = 4.5  # a rank leaves its bracket once in a hundred thousand; it is then said to be not found
_HEAVY = 1 / 2048  # share of a sample from which on a value has a cell of its own and need not be kept


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over a column leaves.

    Attributes
    ----------
    given
        Values that are not NaN.
    least, greatest
        Of the finite values; NaN if there are none.
    sample
        float64, ascending, without NaN: values at random places of the column.
    """

    given: int
    least: float
    greatest: float
    sample: NDArray[np.float64]


def sampled_places(rows: int, *, size: int = SAMPLED, seed: int = 0) -> NDArray[np.int64]:
    """Random places in [0, rows), ascending, each once; ``size`` are drawn, with replacement."""
    return np.unique(np.random.default_rng(seed).integers(0, max(rows, 1), size))


def survey(pieces: Iterable[NDArray[np.float64]], places: NDArray[np.int64]) -> Survey:
    """Look at a column once.

    Parameters
    ----------
    pieces
        float64, in the column's order; NaN is missing.
    places
        Those of the sample, as :func:`sampled_places` gives them.
    """
    kept = [np.empty(0)]
    given, least, greatest, start = 0, np.nan, np.nan, 0
    for piece in pieces:
        first, last = np.searchsorted(places, (start, start + len(piece)))
        kept.append(piece[places[first:last] - start])
        given += len(piece) - int(np.count_nonzero(np.isnan(piece)))
        low, high = finite_ends(piece)
        least, greatest = float(np.fmin(least, low)), float(np.fmax(greatest, high))
        start += len(piece)
    sample = np.sort(np.concatenate(kept))
    sample = sample[: len(sample) - int(np.count_nonzero(np.isnan(sample)))]
    return Survey(given, least, greatest, sample)


def select(
    pieces: Iterable[NDArray[np.float64]], surveyed: Survey, ranks: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """The values of these ranks in the whole column, exactly.

    Parameters
    ----------
    pieces
        The column again.
    ranks
        int64 (k,), ascending, each in [0, given).

    Returns
    -------
    float64 (k,), or None if a rank was outside its bracket; a survey with another seed will find it.
    """
    edges, open_ = _brackets(surveyed, ranks)
    upper = np.append(edges, (np.inf, np.nan))
    lookup = Lookup(edges)
    held, below = np.zeros(len(upper), dtype=np.int64), np.zeros(len(upper), dtype=np.int64)
    kept = [np.empty(0)]
    for piece in pieces:
        places = np.empty(len(piece), dtype=np.int32)
        held += lookup.count(piece, places)
        inside = np.flatnonzero(np.take(open_, places, mode="clip"))
        values, places = piece[inside], places[inside]
        less = values < upper[places]  # those that are the edge itself may be half of the column; counting them will do
        kept.append(values[less])
        below += np.bincount(places[less], minlength=len(held))
    ends = np.cumsum(held[:-1])
    cells = np.searchsorted(ends, ranks, side="right")
    if not open_[cells].all():
        return None
    within = ranks - (ends - held[:-1])[cells]
    values = np.concatenate([*kept, [np.nan]])
    kept.clear()
    values.sort()
    at = np.where(within < below[cells], (np.cumsum(below) - below)[cells] + within, -1)
    return np.where(at < 0, upper[cells], values[at])


def _brackets(surveyed: Survey, ranks: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Edges of cells, and which cells' values have to be kept (the last two: above all edges, and NaN)."""
    sample = surveyed.sample
    share = (ranks + 0.5) / surveyed.given
    width = _SIGMAS * np.sqrt(len(sample) * share * (1 - share)) + _SIGMAS
    low = np.floor(share * len(sample) - width).astype(np.int64) - 1
    high = np.ceil(share * len(sample) + width).astype(np.int64)
    below = np.where(low < 0, -np.inf, sample[np.maximum(low, 0)])
    above = np.where(high >= len(sample), np.inf, sample[np.minimum(high, len(sample) - 1)])
    firsts = np.flatnonzero(np.append(True, sample[1:] != sample[:-1])[: len(sample)])
    distinct, times = sample[firsts], np.diff(firsts, append=len(sample))
    heavy = distinct[times > max(len(sample) * _HEAVY, 2)]
    # A bracket has its lower end, too, which may be a value of many rows: in a cell from the next sampled value on.
    before = np.append(-np.inf, distinct)[np.searchsorted(distinct, below)]
    edges = np.unique(np.concatenate([before, below, above, heavy]))
    edges = edges[np.isfinite(edges)]
    lower, upper = np.append(-np.inf, edges), np.append(edges, np.inf)
    reached = (lower < above[:, None]) | (lower == -np.inf)  # the first cell has -inf itself, too
    within = ((before[:, None] < upper) & reached).any(axis=0)
    return edges, np.append(within, False)
