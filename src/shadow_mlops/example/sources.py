"""What the example's feature store knows: customers as Parquet files, one for each feature view."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shadow_mlops.example.columns import ENTITY, NAMES
from shadow_mlops.example.generator import generate

VIEWS: Mapping[str, tuple[str, ...]] = {"churn_stats": NAMES[:19], "customer_demographics": NAMES[19:]}
"""File, without ``.parquet`` -> its features."""
STORED_CUSTOMERS = 5000
_SEED = 2
_TIME = pa.timestamp("us", "UTC")  # DuckDB cannot read nanoseconds


def write_sources(
    folder: Path, *, customers: int = STORED_CUSTOMERS, seed: int = _SEED, now: datetime | None = None
) -> None:
    """Write the sources that ``feature_repo/definitions.py`` names.

    Parameters
    ----------
    customers
        How many; CUST-001 and on.
    seed
        Of the customers.
    now
        The newest values are of the hour before; None: this moment.
    """
    drawn = generate(customers, seed=seed)
    columns = drawn.columns()
    newest = now or datetime.now(UTC)
    ages = np.random.default_rng(seed).uniform(0, timedelta(hours=1) / timedelta(microseconds=1), customers)
    times = pa.array(round(newest.timestamp() * 1e6) - ages.astype(np.int64)).cast(_TIME)
    folder.mkdir(parents=True, exist_ok=True)
    for name, features in VIEWS.items():
        table = pa.table(
            {
                ENTITY: columns[ENTITY],
                "event_timestamp": times,
                "created": times,
                **{feature: columns[feature] for feature in features},
            }
        )
        fresh = folder / f"{name}.parquet.new"
        pq.write_table(table, fresh)
        fresh.replace(folder / f"{name}.parquet")


if __name__ == "__main__":
    write_sources(Path(sys.argv[1]))
