"""Batches for tests of the event log."""

from __future__ import annotations

from typing import Any

import numpy as np

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Frame


def schema(numbers: int = 2, strings: int = 1, **more: Any) -> EventSchema:
    values = {
        "deployment": "churn",
        "task": "binary",
        "model": "churn",
        "version": "2.1.0",
        "registry_version": "1",
        "numbers": tuple(f"n{i}" for i in range(numbers)),
        "strings": tuple(f"s{i}" for i in range(strings)),
        "outputs": ("0", "1"),
    }
    return EventSchema(**(values | more))


def events(ids: list[str], *, of: EventSchema | None = None, **columns: Any) -> EventBatch:
    of = of or schema()
    n, k = len(ids), len(of.numbers)
    values: dict[str, Any] = {
        "times": np.arange(n, dtype=np.int64),
        "latencies": np.full(n, 7, dtype=np.uint32),
        "entities": [f"CUST-{each}" for each in ids],
        "numbers": np.arange(n * k, dtype=np.float64).reshape(n, k),
        "strings": np.full((n, len(of.strings)), "x", dtype=object),
        "scores": np.full((n, len(of.outputs)), 0.5),
    }
    return EventBatch(schema=of, request_ids=ids, **(values | columns))


def ids_of(items: list[Any]) -> list[str]:
    return [each for item in items if isinstance(item, Frame) for each in item.batch.request_ids]


def read_all(tail: Any, max_rows: int = 1000) -> list[Any]:
    items: list[Any] = []
    while new := tail.poll(max_rows):
        items += new
    return items
