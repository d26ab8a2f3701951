"""Frames of the log as rows of the lake: events and outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shadow_mlops.domain.events import NO_AGE, EventSchema
from shadow_mlops.eventlog.records import NO_TIME, EventBatch, Floats, OutcomeBatch
from shadow_mlops.eventlog.seam import Frame
from shadow_mlops.lake.decisions import decide
from shadow_mlops.lake.manifest import schema_hash
from shadow_mlops.lake.tables import EVENTS, NUMBER_PREFIX, OUTCOMES, STRING_PREFIX, TIME

_MOST_US = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class EventRows:
    """Events of consecutive frames.

    Attributes
    ----------
    data
        Columns of ``events`` and of all features that one of the rows has.
    schemas
        Hash -> schema of the rows.
    """

    data: pa.Table
    schemas: dict[str, EventSchema]


def event_rows(frames: Sequence[Frame]) -> EventRows:
    """Events as they are archived, in the order of the frames."""
    schemas: dict[str, EventSchema] = {}
    tables = []
    for schema, run in _runs(frames):
        key = schema_hash(schema)
        schemas[key] = schema
        tables.append(_events(schema, key, run))
    return EventRows(pa.concat_tables(tables, promote_options="default") if tables else EVENTS.empty_table(), schemas)


def outcome_rows(frames: Sequence[Frame]) -> pa.Table:
    """Outcomes as they are archived, in the order of the frames."""
    batches = [frame.batch for frame in frames if isinstance(frame.batch, OutcomeBatch)]
    if not batches:
        return OUTCOMES.empty_table()
    times = np.concatenate([batch.times for batch in batches])
    columns = {
        **places(frames),
        "received": _times(np.concatenate([batch.received for batch in batches])),
        "time": _times(times, mask=times == NO_TIME),
        "label": _texts(list(chain.from_iterable(batch.labels for batch in batches))),
        "request_id": _optional([batch.request_ids for batch in batches], batches),
        "entity": _optional([batch.entities for batch in batches], batches),
    }
    return pa.table(columns, schema=OUTCOMES)


def places(frames: Sequence[Frame]) -> dict[str, NDArray[np.int64] | NDArray[np.int32]]:
    """Columns segment, row, boot and monotonic_ns of the rows of frames."""
    counts = np.array([len(frame.batch) for frame in frames])
    starts = np.array([frame.first for frame in frames]) - (np.cumsum(counts) - counts)
    return {
        "segment": np.repeat(np.array([frame.segment for frame in frames], dtype=np.int64), counts),
        "row": (np.repeat(starts, counts) + np.arange(counts.sum())).astype(np.int32),
        "boot": np.repeat(np.array([frame.boot for frame in frames], dtype=np.int32), counts),
        "monotonic_ns": np.repeat(np.array([frame.monotonic_ns for frame in frames], dtype=np.int64), counts),
    }


def latencies_us(parts: Iterable[NDArray[np.uint32]]) -> NDArray[np.int32]:
    """Latencies in microseconds, 35 minutes at the most."""
    whole: NDArray[np.uint32] = np.concatenate([*parts])
    return np.minimum(whole, _MOST_US).astype(np.int32)


def score_lists(scores: Floats) -> pa.ListArray:
    """One list per row; null where the row has no score.

    >>> score_lists(np.array([[0.25, 0.75], [np.nan, np.nan]])).to_pylist()
    [[0.25, 0.75], None]
    """
    n, k = scores.shape
    absent = np.isnan(scores).all(axis=1)
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
    values = pa.array(np.ascontiguousarray(scores).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(absent) if absent.any() else None)


def _runs(frames: Sequence[Frame]) -> Iterator[tuple[EventSchema, list[Frame]]]:
    # By identity first: each reader of a segment decodes a schema once, and comparing them costs more than a row.
    for _, same in groupby(frames, key=lambda frame: id(frame.batch.schema)):
        run = list(same)
        schema = run[0].batch.schema
        if isinstance(schema, EventSchema):
            yield schema, run


def _events(schema: EventSchema, key: str, frames: Sequence[Frame]) -> pa.Table:
    batches = [frame.batch for frame in frames if isinstance(frame.batch, EventBatch)]
    n = sum(len(batch) for batch in batches)
    scores = np.concatenate([batch.scores for batch in batches])
    score, label = decide(schema, schema.outputs, scores)
    columns = {
        **places(frames),
        "time": _times(np.concatenate([batch.times for batch in batches])),
        "request_id": _texts(list(chain.from_iterable(batch.request_ids for batch in batches))),
        "entity": _texts(list(chain.from_iterable(batch.entities for batch in batches))),
        "model": pa.repeat(schema.model, n),
        "registry_version": pa.repeat(schema.registry_version, n),
        "role": pa.repeat(schema.role, n),
        "task": pa.repeat(schema.task, n),
        "schema": pa.repeat(key, n),
        "sampled": np.concatenate([_sampled(batch) for batch in batches]),
        "latency_us": latencies_us(batch.latencies for batch in batches),
        "version": pa.repeat(schema.version, n),
        "score": score,
        "label": label,
        "scores": score_lists(scores),
        "origins": _origins(batches, n),
        "ages": _ages(batches, n),
    }
    fixed = pa.table({name: columns[name] for name in EVENTS.names}, schema=EVENTS)
    return _with_features(fixed, schema, batches)


def _with_features(table: pa.Table, schema: EventSchema, batches: Sequence[EventBatch]) -> pa.Table:
    numbers = np.ascontiguousarray(np.concatenate([batch.numbers for batch in batches]).T)
    absent = np.isnan(numbers)
    for name, values, mask in zip(schema.numbers, numbers, absent, strict=True):
        table = table.append_column(NUMBER_PREFIX + name, pa.array(values, mask=mask if mask.any() else None))
    strings = np.concatenate([batch.strings for batch in batches])
    for i, name in enumerate(schema.strings):
        table = table.append_column(STRING_PREFIX + name, _texts(strings[:, i].tolist()))
    return table


def _origins(batches: Sequence[EventBatch], n: int) -> pa.Array:
    if all(batch.origins is None for batch in batches):
        return pa.nulls(n, pa.list_(pa.uint8()))
    width = len(batches[0].schema.numbers) + len(batches[0].schema.strings)
    absent = np.repeat([batch.origins is None for batch in batches], [len(batch) for batch in batches])
    parts = [np.zeros((len(b), width), np.uint8) if b.origins is None else b.origins for b in batches]
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    values = pa.array(np.concatenate(parts).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(absent) if absent.any() else None)


def _ages(batches: Sequence[EventBatch], n: int) -> pa.Array:
    if all(batch.ages is None for batch in batches):
        return pa.nulls(n, pa.list_(pa.uint32()))
    width = len(batches[0].schema.numbers) + len(batches[0].schema.strings)
    absent = np.repeat([batch.ages is None for batch in batches], [len(batch) for batch in batches])
    parts = [np.full((len(b), width), NO_AGE, np.uint32) if b.ages is None else b.ages for b in batches]
    flat = np.concatenate(parts).reshape(-1)
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(
        offsets, pa.array(flat, mask=flat == NO_AGE), mask=pa.array(absent) if absent.any() else None
    )


def _sampled(batch: EventBatch) -> NDArray[np.bool_]:
    return np.ones(len(batch), dtype=np.bool_) if batch.sampled is None else batch.sampled


def _times(values: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(values, pa.int64(), mask=mask).cast(TIME)


def _optional(parts: Sequence[Sequence[str | None]], batches: Sequence[OutcomeBatch]) -> pa.Array:
    filled = (part or [None] * len(batch) for part, batch in zip(parts, batches, strict=True))
    return _texts(list(chain.from_iterable(filled)))


def _texts(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        # The log takes half a surrogate pair, Parquet does not, and one such text must not stop all archiving.
        whole = [None if value is None else value.encode("utf-8", "replace").decode("utf-8") for value in values]
        return pa.array(whole, pa.string())
