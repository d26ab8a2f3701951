"""The core of shadowing: a run of events in, one result batch out. It knows neither tails nor processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.challenger.absent import Absent, absent_in
from shadow_mlops.challenger.binding import bind
from shadow_mlops.domain.events import ResultSchema, Span, Status
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import EventBatch, Floats, ResultBatch, Strings
from shadow_mlops.eventlog.seam import Frame, Gone, Skipped


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of n rows.

    Attributes
    ----------
    statuses
        uint8 (n,): PAIRED, TIMED_OUT or ERRORED.
    scores
        float64 (n, k); NaN where the status is not PAIRED.
    latencies
        uint32 (n,): microseconds per row.
    """

    statuses: NDArray[np.uint8]
    scores: Floats
    latencies: NDArray[np.uint32]

    @classmethod
    def failed(cls, count: int, outputs: int, status: Status, seconds: float) -> Scored:
        """All rows share one fate; ``seconds`` is how long the micro-batch took to meet it."""
        return cls(
            np.full(count, status, dtype=np.uint8),
            np.full((count, outputs), np.nan),
            per_row(seconds, count),
        )


Score: TypeAlias = Callable[[Floats, Strings], Scored | None]
"""Scores one micro-batch whatever the model does; None if broken off: nothing may be recorded of it."""


Fill: TypeAlias = Callable[[Absent, Signature, Floats, Strings], NDArray[np.bool_] | None]
"""Completes m rows, which are in the signature's order already, in place; bool (m,): rows that could not be. None: not
now, nothing was changed."""


def per_row(seconds: float, count: int) -> NDArray[np.uint32]:
    """Share of each of ``count`` rows in a duration, in microseconds."""
    return np.full(count, min(round(seconds * 1e6 / max(count, 1)), 2**32 - 1), dtype=np.uint32)


def result_schema(card: ModelCard, *, deployment: str, challenger: str) -> ResultSchema:
    """Who scored, as result frames say it."""
    return ResultSchema(
        deployment=deployment,
        challenger=challenger,
        model=card.name,
        version=card.version,
        registry_version=card.registry_version,
        outputs=card.outputs,
    )


def score_events(
    items: Sequence[Frame | Gone | Skipped],
    score: Score,
    *,
    signature: Signature,
    schema: ResultSchema,
    batch_rows: int,
    fill: Fill | None = None,
) -> ResultBatch | None:
    """Turn consecutive events into the one result batch that accounts for all of them.

    Parameters
    ----------
    items
        As a tail returned them. What is gone or skipped becomes shed spans.
    score
        Called with at most ``batch_rows`` rows at a time, only with rows that are sampled.
    signature
        Of the model that scores.
    fill
        Completes rows in place; those that it could not complete count as errored. None: events are as they are.

    Returns
    -------
    ResultBatch or None
        None if the scoring was broken off, or is to be tried again later.
    """
    batches = [_events(item) for item in items if isinstance(item, Frame)]
    sampled = [_sampled(batch) for batch in batches]
    numbers, strings = _bound(batches, sampled, signature)
    incomplete = None
    if fill is not None:
        incomplete = fill(absent_in(batches, sampled, signature), signature, numbers, strings)
        if incomplete is None:
            return None
    return score_columns(
        numbers,
        strings,
        score,
        sampled=np.concatenate([np.zeros(0, dtype=np.bool_), *sampled]),
        spans=spans_of(items),
        schema=schema,
        batch_rows=batch_rows,
        incomplete=incomplete,
    )


def score_columns(
    numbers: Floats,
    strings: Strings,
    score: Score,
    *,
    sampled: NDArray[np.bool_],
    spans: list[Span],
    schema: ResultSchema,
    batch_rows: int,
    incomplete: NDArray[np.bool_] | None = None,
) -> ResultBatch | None:
    """Score rows that are in the model's order already.

    Parameters
    ----------
    numbers, strings
        (m, …): the sampled rows only.
    sampled
        bool (n,): which of the rows that the spans name and that are not shed are sampled; m of them.
    incomplete
        bool (m,): rows that lack what the model takes; they count as errored and are not given to it. None: no row.

    Returns
    -------
    ResultBatch or None
        None if the scoring was broken off.
    """
    whole, lacking = sampled, np.zeros(0, dtype=np.intp)
    if incomplete is not None and incomplete.any():
        whole, lacking = sampled.copy(), np.flatnonzero(sampled)[incomplete]
        whole[lacking] = False
        numbers, strings = numbers[~incomplete], strings[~incomplete]
    parts: list[Scored] = []
    for start in range(0, len(numbers), batch_rows):
        part = score(numbers[start : start + batch_rows], strings[start : start + batch_rows])
        if part is None:
            return None
        parts.append(part)
    batch = _assemble(spans, whole, parts, schema)
    batch.statuses[lacking] = Status.ERRORED
    return batch


def shed(items: Sequence[Gone | Skipped], schema: ResultSchema) -> ResultBatch:
    """The result batch of events that nobody scores."""
    return _assemble(spans_of(items), np.zeros(0, dtype=np.bool_), [], schema)


def spans_of(items: Sequence[Frame | Gone | Skipped]) -> list[Span]:
    """Spans of the items in their order, neighbours of one kind joined."""
    spans: list[Span] = []
    for item in items:
        missed = not isinstance(item, Frame)
        last = spans[-1] if spans else None
        if (
            last is not None
            and (last.segment, last.shed) == (item.segment, missed)
            and last.first + last.count == item.first
        ):
            spans[-1] = Span(
                last.segment, last.first, last.count + item.count, last.sampled + item.sampled, shed=missed
            )
        else:
            spans.append(Span(item.segment, item.first, item.count, item.sampled, shed=missed))
    return spans


def _events(frame: Frame) -> EventBatch:
    if not isinstance(frame.batch, EventBatch):
        raise TypeError(f"the stream of events holds a {type(frame.batch).__name__}")
    return frame.batch


def _sampled(batch: EventBatch) -> NDArray[np.bool_]:
    return np.ones(len(batch), dtype=np.bool_) if batch.sampled is None else batch.sampled


def _bound(
    batches: Sequence[EventBatch], sampled: Sequence[NDArray[np.bool_]], signature: Signature
) -> tuple[Floats, Strings]:
    # Once bound, frames of different schemas have the same columns and share a micro-batch. Neighbours of one schema
    # are joined before: a quiet day's frames have one row, and binding each cost more than reading it.
    numbers = [np.zeros((0, len(signature.numbers)))]
    strings = [np.zeros((0, len(signature.strings)), dtype=np.object_)]
    rows = iter(sampled)
    for _, neighbours in groupby(batches, key=lambda batch: batch.schema):
        run = list(neighbours)
        chosen = np.concatenate([next(rows) for _ in run])
        bound = bind(run[0].schema, signature).arranged(
            np.concatenate([batch.numbers for batch in run])[chosen],
            np.concatenate([batch.strings for batch in run])[chosen],
        )
        numbers.append(bound[0])
        strings.append(bound[1])
    return np.concatenate(numbers), np.concatenate(strings)


def _assemble(
    spans: list[Span], sampled: NDArray[np.bool_], parts: Sequence[Scored], schema: ResultSchema
) -> ResultBatch:
    count = len(sampled)
    statuses = np.full(count, Status.UNSAMPLED, dtype=np.uint8)
    scores = np.full((count, len(schema.outputs)), np.nan)
    latencies = np.zeros(count, dtype=np.uint32)
    if parts:
        statuses[sampled] = np.concatenate([part.statuses for part in parts])
        scores[sampled] = np.concatenate([part.scores for part in parts])
        latencies[sampled] = np.concatenate([part.latencies for part in parts])
    return ResultBatch(schema=schema, spans=spans, statuses=statuses, scores=scores, latencies=latencies)
