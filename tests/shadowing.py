"""Events to shadow, and what became of them, for the tests of challenger and monitor."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from shadow_mlops.domain.events import EVENTS, EventSchema, ResultSchema, Span, Status, results_stream
from shadow_mlops.eventlog import EventBatch, EventLog, Frame, ResultBatch

SCHEMA = EventSchema(
    deployment="d",
    task="binary",
    model="m",
    version="champion-1",
    registry_version="1",
    numbers=("a", "b"),
    strings=("s",),
    outputs=("0", "1"),
)
RESULTS = ResultSchema(
    deployment="d", challenger="c", model="m", version="c-1", registry_version="2", outputs=("0", "1")
)
_ids = itertools.count()


def events(
    values: Sequence[float], *, sampled: Sequence[bool] | None = None, age: float = 0.0, schema: EventSchema = SCHEMA
) -> EventBatch:
    """A frame of events whose first number is given."""
    n = len(values)
    numbers = np.zeros((n, len(schema.numbers)))
    numbers[:, 0] = values
    return EventBatch(
        schema=schema,
        times=np.full(n, int((time.time() - age) * 1e6), dtype=np.int64),
        latencies=np.ones(n, dtype=np.uint32),
        request_ids=[f"r{next(_ids)}" for _ in range(n)],
        entities=[None] * n,
        numbers=numbers,
        strings=np.full((n, len(schema.strings)), "text", dtype=np.object_),
        scores=np.full((n, 2), 0.5),
        sampled=None if sampled is None else np.array(sampled, dtype=np.bool_),
    )


def results(spans: Sequence[Span], statuses: Sequence[Status], schema: ResultSchema = RESULTS) -> ResultBatch:
    """A result frame."""
    n = len(statuses)
    return ResultBatch(
        schema=schema,
        spans=list(spans),
        statuses=np.array(statuses, dtype=np.uint8),
        scores=np.full((n, 2), 0.5),
        latencies=np.ones(n, dtype=np.uint32),
    )


def result_frames(log: EventLog, challenger: str) -> list[ResultBatch]:
    """Every result frame of a challenger."""
    tail = log.tail(results_stream(challenger))
    frames = []
    while items := tail.poll(1_000_000):
        frames += [item.batch for item in items if isinstance(item, Frame)]
    return frames


def fates(log: EventLog, challenger: str) -> dict[tuple[int, int], str]:
    """(segment, row) -> status in lower case or ``shed``; fails on a row with two results."""
    found: dict[tuple[int, int], str] = {}
    for batch in result_frames(log, challenger):
        names = (Status(status).name.lower() for status in batch.statuses)
        for span in batch.spans:
            for row in range(span.first, span.first + span.count):
                assert (span.segment, row) not in found, f"row {row} has two results"
                found[span.segment, row] = "shed" if span.shed else next(names)
        assert next(names, None) is None, "a result belongs to no span"
    return found


def counted(log: EventLog, challenger: str) -> Counter[str]:
    """Rows by fate."""
    return Counter(fates(log, challenger).values())


def event_rows(log: EventLog) -> set[tuple[int, int]]:
    """Every (segment, row) of the events."""
    tail = log.tail(EVENTS)
    rows = set()
    while items := tail.poll(1_000_000):
        rows |= {(item.segment, row) for item in items for row in range(item.first, item.first + item.count)}
    return rows
