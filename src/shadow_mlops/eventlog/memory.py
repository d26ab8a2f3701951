"""The event log in one process: for tests, one-off commands and trying things out."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

from shadow_mlops.domain.errors import AppendError, ConflictError, LogError
from shadow_mlops.domain.events import Stream
from shadow_mlops.eventlog.columns import Schema
from shadow_mlops.eventlog.frames import FrameHeader, decode_batch, encode_batch
from shadow_mlops.eventlog.passing import join
from shadow_mlops.eventlog.records import Batch
from shadow_mlops.eventlog.seam import Frame, Gone, Position, Skipped

_BOOT = 1


@dataclass(frozen=True, slots=True)
class _Stored:
    """A frame as bytes: the writer's arrays may change later, and readers get what a file would give."""

    header: FrameHeader
    schema: Schema
    body: bytes


@dataclass(slots=True)
class _Segment:
    id: int
    frames: list[_Stored] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    retired: bool = False
    sealed: bool = False
    beat_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def rows(self) -> int:
        return self.ends[-1] if self.ends else 0

    def index(self, row: int) -> int:
        """Frame that begins at the row."""
        if row == 0:
            return 0
        try:
            return self.ends.index(row) + 1
        except ValueError:
            raise LogError(f"row {row} of segment {self.id:016x} is inside a frame") from None


class MemoryAppender:
    """The only writer of its segment."""

    def __init__(self, segment: _Segment) -> None:
        self._segment = segment

    def append(self, batch: Batch) -> tuple[int, int]:
        """Keep a copy of the batch, see :meth:`~shadow_mlops.eventlog.seam.Appender.append`."""
        if self._segment.sealed:
            raise AppendError("the appender is closed")
        kind, rows, sampled, body = encode_batch(batch)
        segment = self._segment
        now = max(time.monotonic_ns(), segment.beat_ns + 1)
        first = segment.rows
        header = FrameHeader(kind, len(body), rows, first, sampled, 0, now, b"")
        segment.frames.append(_Stored(header, batch.schema, body))
        segment.ends.append(first + rows)
        segment.beat_ns = now
        return segment.id, first

    def beat(self) -> None:
        """Promise ordered readers that all later appends are later than now."""
        self._segment.beat_ns = max(self._segment.beat_ns, time.monotonic_ns())

    def sync(self) -> None:
        """Memory does not survive a loss of power; there is nothing to wait for."""

    def close(self) -> None:
        """Seal the segment."""
        self._segment.sealed = True


class MemoryTail:
    """One reader of one stream."""

    def __init__(self, segments: dict[int, _Segment], position: Position | None) -> None:
        self._segments = segments
        self._done: dict[int, int] = dict(position or {})
        self._horizon = (0, 0)
        if position is None:
            self._done |= {segment.id: segment.rows for segment in self._all() if segment.retired}

    def poll(self, max_rows: int) -> list[Frame | Gone]:
        """Whole frames that follow the position."""
        return self._poll(max_rows, None)

    def poll_ordered(self, max_rows: int) -> list[Frame | Gone]:
        """As :meth:`poll`, but only frames that no later append of an open segment can precede."""
        held = min((segment.beat_ns for segment in self._all() if not segment.sealed), default=None)
        self._horizon = (2**63, 0) if held is None else (_BOOT, held)
        return self._poll(max_rows, held)

    def horizon(self) -> tuple[int, int]:
        """Boot and monotonic time that all frames exceed which :meth:`poll_ordered` has still to return."""
        return self._horizon

    def backlog(self) -> int:
        """Rows that :meth:`poll` or :meth:`skip` would still return, those of ``Gone`` included."""
        return sum(max(segment.rows - self._done.get(segment.id, 0), 0) for segment in self._all())

    def skip(self, rows: int) -> list[Skipped | Gone]:
        """Pass over whole frames, oldest first, until at least ``rows`` rows are passed or none is left."""
        passed: list[Skipped | Gone] = []
        done = 0
        while done < rows and (turn := self._next(None)) is not None:
            segment, stored = turn
            if stored is None:
                passed.append(self._gone(segment))
            else:
                header = stored.header
                passed.append(Skipped(segment.id, header.first, header.rows, header.sampled))
                self._done[segment.id] = header.end
            done += passed[-1].count
        return join(passed)

    def position(self) -> Position:
        """Rows done of each segment that was begun and is not yet forgotten."""
        known = self._segments
        return {segment: row for segment, row in self._done.items() if segment in known}

    def close(self) -> None:
        """Nothing is held open."""

    def _all(self) -> list[_Segment]:
        return list(self._segments.values())

    def _poll(self, max_rows: int, watermark: int | None) -> list[Frame | Gone]:
        taken: list[Frame | Gone] = []
        rows = 0
        while (turn := self._next(watermark)) is not None:
            segment, stored = turn
            if stored is None:
                taken.append(self._gone(segment))
                continue
            header = stored.header
            if rows and rows + header.rows > max_rows:
                break
            rows += header.rows
            batch = decode_batch(header, stored.schema, memoryview(stored.body))
            place = (segment.id, header.first, header.rows, header.sampled)
            taken.append(Frame(*place, _BOOT, header.monotonic_ns, batch))
            self._done[segment.id] = header.end
        return taken

    def _next(self, watermark: int | None) -> tuple[_Segment, _Stored | None] | None:
        """Segment whose turn it is, and its frame; None for the frame: the segment is retired."""
        best: tuple[_Segment, _Stored | None] | None = None
        best_ns = 0
        for segment in self._all():
            row = self._done.get(segment.id, 0)
            if row >= segment.rows:
                continue
            if segment.retired:
                return segment, None
            stored = segment.frames[segment.index(row)]
            if best is None or stored.header.monotonic_ns < best_ns:
                best, best_ns = (segment, stored), stored.header.monotonic_ns
        return None if best is not None and watermark is not None and best_ns > watermark else best

    def _gone(self, segment: _Segment) -> Gone:
        row = self._done.get(segment.id, 0)
        sampled = sum(stored.header.sampled for stored in segment.frames[segment.index(row) :])
        self._done[segment.id] = segment.rows
        return Gone(segment.id, row, segment.rows - row, sampled)


class MemoryLog:
    """Streams as lists. Any number of threads may read while others write.

    Examples
    --------
    >>> log = MemoryLog()
    >>> appender = log.appender("events", writer="gateway-0")
    >>> log.tail("events").poll(100), log.streams()
    ([], ['events'])
    """

    def __init__(self) -> None:
        self._streams: dict[Stream, dict[int, _Segment]] = {}
        self._lock = threading.Lock()

    def appender(self, stream: Stream, *, writer: str) -> MemoryAppender:  # noqa: ARG002 - files record the writer
        """Open a new segment of the stream."""
        segment = _Segment(secrets.randbits(63) or 1)
        with self._lock:
            self._streams.setdefault(stream, {})[segment.id] = segment
        return MemoryAppender(segment)

    def tail(self, stream: Stream, position: Position | None = None) -> MemoryTail:
        """Read the stream from a position; None: from its oldest retained row."""
        with self._lock:
            return MemoryTail(self._streams.setdefault(stream, {}), position)

    def streams(self) -> list[Stream]:
        """Streams that have at least one segment."""
        with self._lock:
            return [stream for stream, segments in self._streams.items() if segments]

    def retire(self, segment: int) -> None:
        """Remove the frames of a closed segment; readers that have not seen them get ``Gone``.

        Raises
        ------
        ConflictError
            If it is still written to.
        """
        for segments in self._streams.values():
            if segment in segments:
                if not segments[segment].sealed:
                    raise ConflictError(f"segment {segment:016x} is still written to")
                segments[segment].retired = True

    def forget(self, segment: int) -> None:
        """Drop what is known of a retired segment."""
        for segments in self._streams.values():
            if segment in segments and segments[segment].retired:
                del segments[segment]
