"""Result frames as rows that wait for the champion's side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import ResultSchema, Span, Status, Stream
from shadow_mlops.eventlog.records import Floats, ResultBatch
from shadow_mlops.eventlog.seam import Frame
from shadow_mlops.lake.feed import Taken

STATUSES = ("paired", "timed_out", "errored", "shed")
"""Names of the codes of :attr:`Candidates.statuses`, the first three as :class:`~shadow_mlops.domain.events.Status`."""
SHED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """n rows of results of one stream and one version, of events that are sought in the lake.

    Attributes
    ----------
    segments, rows
        int64 (n,), int32 (n,): the event.
    statuses
        uint8 (n,), see :data:`STATUSES`. Shed rows are of all events of their spans, whether sampled or not.
    latencies
        uint32 (n,): microseconds.
    scores
        float64 (n, len(schema.outputs)), NaN where the status is not ``paired``.
    boots, times, frame_segments, frame_rows
        int32, int64, int64, int32 (n,): of the result frame, and the row in its stream.
    turns
        int64 (n,): place of the frame among all that were taken.
    expected
        Rows that the lake should get or has: all that are not shed, and the sampled ones of shed spans.
    again
        Rows that were left out, since another piece, or this one, has an earlier result of the event and version.
    """

    stream: Stream
    schema: ResultSchema
    turns: NDArray[np.int64]
    segments: NDArray[np.int64]
    rows: NDArray[np.int32]
    statuses: NDArray[np.uint8]
    latencies: NDArray[np.uint32]
    scores: Floats
    boots: NDArray[np.int32]
    times: NDArray[np.int64]
    frame_segments: NDArray[np.int64]
    frame_rows: NDArray[np.int32]
    expected: int
    again: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: NDArray[np.int64]) -> Candidates:
        """Some of the rows, in the order given."""
        names = ("turns", "segments", "rows", "statuses", "latencies", "scores", "boots", "times", "frame_segments")
        picked = {name: getattr(self, name)[chosen] for name in (*names, "frame_rows")}
        return replace(self, **picked)


def candidates(taken: Sequence[Taken], max_rows: int) -> Iterator[Candidates]:
    """Rows of the result frames, in pieces of one stream and version and of about ``max_rows`` rows.

    The pieces of one stream and version come in the order of the log. Of several results of one event and version the
    first in the log is left, wherever a piece is not the first that has it: :attr:`Candidates.again` counts the others.
    """
    frames: dict[Stream, list[tuple[int, Frame]]] = {}
    streams: dict[str, set[Stream]] = {}
    for turn, (stream, item) in enumerate(taken):
        if isinstance(item, Frame) and isinstance(item.batch, ResultBatch):
            frames.setdefault(stream, []).append((turn, item))
            streams.setdefault(item.batch.schema.version, set()).add(stream)
    rivals: set[Stream] = set().union(*(names for names in streams.values() if len(names) > 1))
    for stream in sorted(frames.keys() - rivals):
        for piece in _stream_pieces(stream, frames[stream], max_rows):
            yield from _firsts([piece])
    if rivals:  # a replay beside the live challenger of the same version
        yield from _firsts([p for stream in sorted(rivals) for p in _stream_pieces(stream, frames[stream], max_rows)])


def _firsts(pieces: Sequence[Candidates]) -> list[Candidates]:
    versions = {version: code for code, version in enumerate(sorted({piece.schema.version for piece in pieces}))}
    codes = np.repeat([versions[piece.schema.version] for piece in pieces], [len(piece) for piece in pieces])
    keys = (
        np.concatenate([piece.turns for piece in pieces]),
        np.concatenate([piece.rows for piece in pieces]),
        np.concatenate([piece.segments for piece in pieces]),
        codes,
    )
    order = np.lexsort(keys)
    same = np.ones(len(order), dtype=np.bool_)
    same[:1] = False
    for key in keys[1:]:
        same[1:] &= key[order][1:] == key[order][:-1]
    if not same.any():
        return list(pieces)
    kept = np.ones(len(order), dtype=np.bool_)
    kept[order[same]] = False
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    return [
        replace(piece.at(np.flatnonzero(mask)), again=int((~mask).sum()))
        for piece, mask in zip(pieces, np.split(kept, ends), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows of one span that one frame accounts for."""

    turn: int
    frame: Frame
    span: Span
    start: int
    """Place of its first row in the arrays of the frame."""


def _stream_pieces(stream: Stream, frames: Sequence[tuple[int, Frame]], max_rows: int) -> Iterator[Candidates]:
    # One open piece for each version: in a canary step the two sides' frames alternate, and a piece for each turn
    # would cost a query for a handful of rows.
    pieces: dict[ResultSchema, list[_Stretch]] = {}
    rows: dict[ResultSchema, int] = {}
    for turn, frame in frames:
        batch, start = _results(frame), 0
        schema = batch.schema
        for span in batch.spans:
            if pieces.get(schema) and rows[schema] + span.count > max_rows:
                yield _candidates(stream, pieces.pop(schema))
                rows[schema] = 0
            pieces.setdefault(schema, []).append(_Stretch(turn, frame, span, start))
            rows[schema] = rows.get(schema, 0) + span.count
            start += 0 if span.shed else span.count
    for schema, piece in pieces.items():
        if rows[schema]:
            yield _candidates(stream, piece)


def _candidates(stream: Stream, stretches: Sequence[_Stretch]) -> Candidates:
    counts = np.array([each.span.count for each in stretches])
    shed = np.repeat([each.span.shed for each in stretches], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)

    def spread(values: list[int]) -> NDArray[np.int64]:
        return np.repeat(np.array(values, dtype=np.int64), counts)

    parts = [_arrays(each) for each in stretches]
    starts = spread([each.frame.first + each.start for each in stretches])
    first = spread([each.frame.first for each in stretches])
    whole = Candidates(
        stream=stream,
        schema=_results(stretches[0].frame).schema,
        turns=spread([each.turn for each in stretches]),
        segments=spread([each.span.segment for each in stretches]),
        rows=(spread([each.span.first for each in stretches]) + within).astype(np.int32),
        statuses=np.concatenate([part[0] for part in parts]),
        latencies=np.concatenate([part[1] for part in parts]),
        scores=np.concatenate([part[2] for part in parts]),
        boots=spread([each.frame.boot for each in stretches]).astype(np.int32),
        times=spread([each.frame.monotonic_ns for each in stretches]),
        frame_segments=spread([each.frame.segment for each in stretches]),
        frame_rows=np.where(shed, first, starts + within).astype(np.int32),
        expected=0,
    )
    wanted = shed | (whole.statuses != Status.UNSAMPLED)
    expected = int((wanted & ~shed).sum()) + sum(each.span.sampled for each in stretches if each.span.shed)
    return replace(whole.at(np.flatnonzero(wanted)), expected=expected)


def _arrays(stretch: _Stretch) -> tuple[NDArray[np.uint8], NDArray[np.uint32], Floats]:
    batch, count = _results(stretch.frame), stretch.span.count
    if stretch.span.shed:
        nothing = np.full((count, len(batch.schema.outputs)), np.nan)
        return np.full(count, SHED, dtype=np.uint8), np.zeros(count, dtype=np.uint32), nothing
    end = stretch.start + count
    return batch.statuses[stretch.start : end], batch.latencies[stretch.start : end], batch.scores[stretch.start : end]


def _results(frame: Frame) -> ResultBatch:
    if not isinstance(frame.batch, ResultBatch):
        raise TypeError(f"a stream of results holds a {type(frame.batch).__name__}")
    return frame.batch
