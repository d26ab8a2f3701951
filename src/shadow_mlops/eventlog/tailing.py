"""The reading half: one cursor over all segments of a stream, merged in order of time."""

from __future__ import annotations

import heapq
import time
from bisect import insort
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import structlog

from shadow_mlops.domain.events import Stream
from shadow_mlops.eventlog.layout import SEGMENT_SUFFIX, segment_names
from shadow_mlops.eventlog.passing import join
from shadow_mlops.eventlog.reading import Head, SegmentReader
from shadow_mlops.eventlog.seam import Frame, Gone, Position, Skipped

log = structlog.get_logger()

OnSetAside: TypeAlias = Callable[[Stream, int], None]
"""Called with the stream and the number of bytes that were no frame."""
Key: TypeAlias = tuple[int, int, int, int]
"""Boot, monotonic time, segment, row: the order across segments."""

_RACY_SECONDS = 0.05  # the time stamp of a folder moves in steps of up to 10 ms: two changes may share one
_EVERYTHING: Key = (2**63, 0, 0, 0)


class SegmentTail:
    """One reader of one stream of segment files."""

    def __init__(
        self, stream: Stream, folder: Path, position: Position | None, on_set_aside: OnSetAside | None = None
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._on_set_aside = on_set_aside
        self._start: dict[int, int] = dict(position or {})
        self._readers: dict[int, SegmentReader] = {}
        self._waiting: list[SegmentReader] = []
        """Not yet begun by this process, oldest first."""
        self._active: list[SegmentReader] = []
        """Open, and not yet read to their end."""
        self._stamp: int | None = None
        self._stamp_seen = 0.0
        self._settled = False
        self._horizon = (0, 0)
        self._discover()
        if position is None:
            for reader in self._waiting:
                reader.pass_over_tombstone()
            self._waiting = [reader for reader in self._waiting if not reader.ended]

    def poll(self, max_rows: int) -> list[Frame | Gone]:
        """Whole frames that follow the position, see :meth:`~shadow_mlops.eventlog.seam.Tail.poll`."""
        self._discover()
        return self._take(max_rows, _EVERYTHING)

    def poll_ordered(self, max_rows: int) -> list[Frame | Gone]:
        """As :meth:`poll`, but only frames that no later append of a living writer can precede.

        Whatever the polling and the writers' speed, the sequence is the same. A living writer holds it back
        until it appends or beats (:meth:`~shadow_mlops.eventlog.appending.SegmentAppender.beat`).
        """
        # Promises first, folder second: a segment that the listing lacks is younger than each promise.
        promises = {reader.name.segment: reader.promise() for reader in self._unfinished()}
        self._discover()
        promises |= {r.name.segment: r.promise() for r in self._unfinished() if r.name.segment not in promises}
        held = [(boot, ns, 2**63, 0) for boot, ns in filter(None, promises.values())]
        watermark = min(held, default=_EVERYTHING)
        self._horizon = watermark[:2]
        return self._take(max_rows, watermark)

    def horizon(self) -> tuple[int, int]:
        """Boot and monotonic time that all frames exceed which :meth:`poll_ordered` has still to return."""
        return self._horizon

    def backlog(self) -> int:
        """Rows that :meth:`poll` or :meth:`skip` would still return, those of :class:`Gone` included."""
        self._discover()
        return sum(reader.rows_left() for reader in self._unfinished())

    def skip(self, rows: int) -> list[Skipped | Gone]:
        """Pass over whole frames, oldest first, until at least ``rows`` rows are passed or none is left."""
        passed: list[Skipped | Gone] = []
        done = 0
        if rows <= 0:
            return passed
        self._discover()
        for reader, head in self._heads(_EVERYTHING, bodies=False):
            items = reader.skip(head)
            passed += items
            done += sum(item.count for item in items)
            if done >= rows:
                break
        return join(passed)

    def position(self) -> Position:
        """Rows done of each segment that was begun and is not yet forgotten."""
        return {segment: reader.row for segment, reader in self._readers.items() if reader.begun}

    def close(self) -> None:
        """Close the files."""
        for reader in self._active:
            reader.close()

    def _take(self, max_rows: int, watermark: Key) -> list[Frame | Gone]:
        taken: list[Frame | Gone] = []
        rows = 0
        for reader, head in self._heads(watermark, bodies=True):
            if rows and rows + head.rows > max_rows:
                break
            taken += reader.take(head)
            rows += head.rows
        return taken

    def _heads(self, watermark: Key, *, bodies: bool) -> Iterator[tuple[SegmentReader, Head]]:
        """Next frames in order. The caller takes each one before it asks for the next."""
        heads: list[tuple[Key, SegmentReader, Head]] = []

        def offer(reader: SegmentReader) -> None:
            head = reader.head(bodies=bodies)
            if head is not None:
                heapq.heappush(heads, (head.key, reader, head))

        self._active = [reader for reader in self._active if not reader.ended]
        for reader in self._active:
            reader.refresh()
            offer(reader)
        while True:
            # A file is opened when its turn comes, so that a long backlog holds few of them open.
            while self._waiting and (not heads or self._waiting[0].name[:2] <= heads[0][0][:2]):
                reader = self._waiting.pop(0)
                if reader.open():
                    self._active.append(reader)
                    offer(reader)
            if not heads or heads[0][0] > watermark:
                break
            _, reader, head = heapq.heappop(heads)
            yield reader, head
            offer(reader)

    def _unfinished(self) -> list[SegmentReader]:
        return [reader for reader in (*self._active, *self._waiting) if not reader.ended]

    def _discover(self) -> None:
        """Learn of new segments and of forgotten ones."""
        try:
            stamp = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        now = time.monotonic()
        if stamp != self._stamp:
            self._stamp, self._stamp_seen, self._settled = stamp, now, False
        if self._settled:
            return
        self._settled = now - self._stamp_seen > _RACY_SECONDS
        names = segment_names(self._folder)
        for name in names:
            if name.segment not in self._readers:
                reader = SegmentReader(
                    name,
                    self._folder / (name.text + SEGMENT_SUFFIX),
                    self._start.pop(name.segment, None),
                    self._count_set_aside,
                )
                self._readers[name.segment] = reader
                insort(self._waiting, reader, key=lambda waiting: waiting.name)
        for segment in self._readers.keys() - {name.segment for name in names}:
            self._forget(segment)

    def _count_set_aside(self, size: int) -> None:
        if self._on_set_aside is not None:
            self._on_set_aside(self._stream, size)

    def _forget(self, segment: int) -> None:
        reader = self._readers[segment]
        if not reader.ended:
            if reader not in self._waiting:
                return  # its open file can still be read to the end
            self._waiting.remove(reader)
            log.warning("segment_vanished", stream=self._stream, segment=reader.name.text, rows_done=reader.row)
        del self._readers[segment]
