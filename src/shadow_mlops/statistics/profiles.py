"""What a window leaves behind: counts per frozen bin. Profiles of replicas and of time buckets add exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.statistics.bins import FeatureBins


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Counts of a number of rows in the bins of one reference.

    Attributes
    ----------
    features
        Names.
    counts
        For each feature int64, as ``bins.count`` gives them. A feature that was not there in part of the rows has fewer
        than ``rows``.
    rows
        All of them.
    """

    features: tuple[str, ...]
    counts: tuple[NDArray[np.int64], ...]
    rows: int


def profile_of(bins: Mapping[str, FeatureBins], columns: Mapping[str, NDArray[Any]]) -> Profile:
    """Count rows in the bins of a reference.

    Parameters
    ----------
    bins
        Feature -> its bins.
    columns
        Feature -> (n,), numbers or texts; others than those with bins are left alone.

    Raises
    ------
    ValueError
        If columns differ in length.
    """
    lengths = {len(columns[name]) for name in bins}
    if len(lengths) > 1:
        raise ValueError(f"the columns of one profile are equally long, not {sorted(lengths)}")
    counts = tuple(each.count(columns[name]) for name, each in bins.items())
    return Profile(tuple(bins), counts, lengths.pop() if lengths else 0)


def merge(profiles: Iterable[Profile]) -> Profile:
    """The profile of all rows of some profiles: sums of integers, hence the same bits in any order.

    Raises
    ------
    ValueError
        If there is none, or their features or bins differ.
    """
    parts = list(profiles)
    if not parts:
        raise ValueError("nothing to merge: at least one profile is needed, if one without rows")
    layouts = {(part.features, tuple(map(len, part.counts))) for part in parts}
    if len(layouts) > 1:
        raise ValueError("only profiles of the same features and bins can be merged")
    by_feature = zip(*(part.counts for part in parts), strict=True)
    totals: tuple[NDArray[np.int64], ...] = tuple(np.sum(each, axis=0, dtype=np.int64) for each in by_feature)
    return Profile(parts[0].features, totals, sum(part.rows for part in parts))
