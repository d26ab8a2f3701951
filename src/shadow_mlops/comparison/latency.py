"""Quantiles of latency from counts of logarithmic buckets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKET_SQL = """
CREATE OR REPLACE TEMP MACRO latency_bucket(us) AS
CASE WHEN us < 2048 THEN us ELSE (us >> (floor(log2(us))::INTEGER - 10)) << (floor(log2(us))::INTEGER - 10) END
"""
"""A latency's bucket: microseconds below 2,048 are kept, above that the 11 leading bits (width below 0.1 %)."""


def quantile_ms(buckets: NDArray[np.int64], counts: NDArray[np.int64], share: float) -> float | None:
    """Smallest latency that at least this share of the rows does not exceed, in milliseconds.

    Parameters
    ----------
    buckets
        Lower edges as :data:`BUCKET_SQL` gives them, in microseconds; shape (n,), in any order.
    counts
        Rows in each; shape (n,).

    Returns
    -------
    float or None
        Middle of the bucket, so exact below 2.048 ms and within 0.05 % above; None without rows.

    Examples
    --------
    >>> quantile_ms(np.array([300, 100, 4096]), np.array([1, 97, 2]), 0.99)
    4.0975
    """
    if not len(buckets):
        return None
    order = np.argsort(buckets)
    reached = np.cumsum(counts[order])
    edge = int(buckets[order][np.searchsorted(reached, share * reached[-1])])
    width = 1 << max(edge.bit_length() - 11, 0)
    return (edge + (width - 1) / 2) / 1e3
