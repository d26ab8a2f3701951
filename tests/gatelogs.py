"""Logs of a champion and a challenger over hours, for the tests of gates: who asked, what both said, what came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from lakelogs import BINARY
from shadow_mlops.domain.events import (
    EVENTS,
    OUTCOMES,
    EventSchema,
    OutcomeSchema,
    Span,
    Status,
    replays_stream,
    results_stream,
)
from shadow_mlops.eventlog import EventBatch, EventLog, OutcomeBatch, ResultBatch
from shadow_mlops.eventlog.records import NO_TIME
from shadow_mlops.eventlog.seam import Appender
from shadowing import RESULTS

HOUR_US = 3_600_000_000
START_US = 1_780_002_000_000_000 // HOUR_US * HOUR_US
CANARY = msgspec.structs.replace(BINARY, version="c-1", registry_version="2", role="challenger")


class Hours:
    """Writes requests into hours, in the order of the calls."""

    def __init__(self, log: EventLog, *, entities: bool = True) -> None:
        self._events = log.appender(EVENTS, writer="gateway-0")
        self._outcomes = log.appender(OUTCOMES, writer="gateway-0")
        self._results = log.appender(results_stream("challenger"), writer="challenger")
        self._replays: dict[str, Appender] = {}
        self._log = log
        self._entities = entities
        self._number = 0

    def ask(
        self,
        hour: float,
        scores: Sequence[float],
        *,
        entities: Sequence[str] | None = None,
        schema: EventSchema = BINARY,
    ) -> tuple[Span, list[str]]:
        """Answered requests, a second apart, from an hour on; their place and request ids."""
        n = len(scores)
        ids = [f"r{self._number + i}" for i in range(n)]
        self._number += n
        p = np.array(scores, dtype=float)
        given = (
            list(entities) if entities is not None else [f"e-{each}" for each in ids] if self._entities else [None] * n
        )
        segment, row = self._events.append(
            EventBatch(
                schema=schema,
                times=START_US + int(hour * HOUR_US) + np.arange(n, dtype=np.int64) * 1_000_000,
                latencies=np.full(n, 900, dtype=np.uint32),
                request_ids=ids,
                entities=given,
                numbers=np.zeros((n, len(schema.numbers))),
                strings=np.full((n, len(schema.strings)), "text", dtype=np.object_),
                scores=np.stack([1 - p, p], axis=1),
            )
        )
        return Span(segment, row, n, n), ids

    def shadow(
        self,
        span: Span,
        scores: Sequence[float],
        *,
        statuses: Sequence[Status] | None = None,
        version: str = "c-1",
        swapped: bool = False,
    ) -> None:
        """What the other side says; ``swapped``: the lake is told that this is the champion's."""
        said = _said(span, scores, statuses, challenger="challenger", version=version)
        schema = msgspec.structs.replace(said.schema, swapped=swapped)
        self._results.append(replace(said, schema=schema))

    def replay(
        self, span: Span, scores: Sequence[float], *, statuses: Sequence[Status] | None = None, version: str = "c-1"
    ) -> None:
        """What a version said in a replay."""
        stream = replays_stream(version)
        if stream not in self._replays:
            self._replays[stream] = self._log.appender(stream, writer="replay")
        self._replays[stream].append(_said(span, scores, statuses, challenger="replay", version=version))

    def label(self, hour: float, ids: Sequence[str], labels: Sequence[int | str]) -> None:
        """Outcomes that are received at an hour."""
        n = len(ids)
        self._outcomes.append(
            OutcomeBatch(
                schema=OutcomeSchema(deployment="d"),
                received=np.full(n, START_US + int(hour * HOUR_US), dtype=np.int64),
                times=np.full(n, NO_TIME, dtype=np.int64),
                labels=[str(label) for label in labels],
                request_ids=list(ids),
                entities=[None] * n,
            )
        )

    def later(self, hour: float) -> None:
        """Time passes: somebody reports what nobody asked for."""
        self.label(hour, ["unknown"], [0])

    def beat(self) -> None:
        """Let readers have all that was written so far, though more may come."""
        for appender in (self._events, self._results, self._outcomes):
            appender.beat()

    def close(self) -> None:
        for appender in (self._events, self._results, self._outcomes, *self._replays.values()):
            appender.close()


def _said(
    span: Span, scores: Sequence[float], statuses: Sequence[Status] | None, *, challenger: str, version: str
) -> ResultBatch:
    codes = np.array(statuses or [Status.PAIRED] * span.count, dtype=np.uint8)
    p = np.array(scores, dtype=float)
    both = np.stack([1 - p, p], axis=1)
    both[codes != Status.PAIRED] = np.nan
    return ResultBatch(
        schema=msgspec.structs.replace(RESULTS, challenger=challenger, version=version),
        spans=[span],
        statuses=codes,
        scores=both,
        latencies=np.full(span.count, 90, dtype=np.uint32),
    )
