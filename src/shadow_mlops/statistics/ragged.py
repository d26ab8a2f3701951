"""Arrays of several features end to end: a thousand bins of one cost nothing to the ten of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Segments:
    """Segments of one long array, one for each feature; ``order`` says whose they are, if not in their order."""

    def __init__(self, sizes: Sequence[int], order: Sequence[int] | None = None) -> None:
        self.sizes = np.array(sizes, dtype=np.int64)
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.order = np.arange(len(sizes)) if order is None else np.array(order)
        self.owners = np.repeat(self.order, self.sizes)

    def places(self, features: Sequence[int]) -> NDArray[np.int64]:
        """Places in the long array that belong to some features."""
        return np.flatnonzero(np.isin(self.owners, features))

    def flat(self, counts: NDArray[np.integer] | Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
        """Counts by feature as one array, checked."""
        if len(counts) != len(self.sizes):
            raise ValueError(f"counts of {len(self.sizes)} features are needed, not of {len(counts)}")
        if isinstance(counts, np.ndarray):
            if counts.ndim != 2 or counts.shape[1] < self.sizes.max():
                raise ValueError(f"padded counts have {self.sizes.max()} columns at least, not shape {counts.shape}")
            inside = np.arange(counts.shape[1]) < self.sizes[:, np.newaxis]
            rows, others = counts[inside], bool(counts[~inside].any())
        else:
            others = any(np.shape(each) != (size,) for each, size in zip(counts, self.sizes, strict=True))
            rows = np.concatenate(counts)
        if others or not np.issubdtype(rows.dtype, np.integer) or (rows < 0).any():
            raise ValueError("counts are whole numbers, 0 or more, for each bin of the reference and no others")
        return rows.astype(np.int64)

    def log_means(self, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each feature the logarithm of the mean of exp(logs) over its segment, in the features' order."""
        largest = np.maximum.reduceat(logs, self.firsts)
        base = np.where(largest > -np.inf, largest, 0.0)
        sums = np.add.reduceat(np.exp(logs - np.repeat(base, self.sizes)), self.firsts)
        means = np.empty(len(self.sizes))
        with np.errstate(divide="ignore"):  # ln 0 of features that have just begun
            means[self.order] = base + np.log(sums / self.sizes)
        return means
