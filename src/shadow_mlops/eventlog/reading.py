"""One reader's cursor in one segment file: what comes next there, and whether more may come."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from shadow_mlops.domain.errors import CorruptFrameError, LogError
from shadow_mlops.eventlog.columns import Schema
from shadow_mlops.eventlog.frames import HEADER_BYTES as FRAME_HEADER_BYTES
from shadow_mlops.eventlog.frames import FrameKind, decode_batch, decode_schema, parse_header
from shadow_mlops.eventlog.layout import HEADER_BYTES, SegmentName, crc_seed, read_beat, writer_gone
from shadow_mlops.eventlog.records import Batch
from shadow_mlops.eventlog.seam import Frame, Gone, Skipped
from shadow_mlops.eventlog.tombstones import Tombstone
from shadow_mlops.eventlog.walking import FrameWalker, Step

log = structlog.get_logger()

_READ_BYTES = 256 * 1024
_WALK_BYTES = 16 * 1024  # a walk over headers: one frame of a busy gateway, or tens of a quiet one
_DATA = (FrameKind.EVENTS, FrameKind.RESULTS, FrameKind.OUTCOMES)


class Head(NamedTuple):
    """What a reader returns next."""

    key: tuple[int, int, int, int]
    rows: int
    step: Step | None
    """None: a tombstone."""
    body: memoryview | None
    """None: it is not wanted, or damaged for good."""


class SegmentReader:
    """One cursor in one segment.

    Parameters
    ----------
    name, path
        The segment and its file.
    row
        Rows of it that are done; None: it has not been begun.
    on_set_aside
        Called with the number of bytes that are no frame.
    """

    def __init__(self, name: SegmentName, path: Path, row: int | None, on_set_aside: Callable[[int], object]) -> None:
        self.name = name
        self.begun = row is not None
        self.ended = False
        self.row = row or 0
        self._path = path
        self._on_set_aside = on_set_aside
        self._fd = -1
        self._walker: FrameWalker | None = None
        self._ahead: FrameWalker | None = None
        self._schemas: dict[bytes, Schema] = {}
        self._writer_gone = False
        self._tombstone: Tombstone | None = None
        self._total: int | None = None
        """Rows of the segment, once no more can come."""

    def open(self) -> bool:
        """Open the file and go to the first row that is not done; False if there is nothing to read in it.

        Raises
        ------
        LogError
            If the cursor is inside a frame: it is not one that a reader has given.
        """
        if not self._open_file():
            self.ended = True
            return False
        if self.begun and self._tombstone is None and self._sealed_rows() == self.row:
            self._end()
            return False
        self._walker = FrameWalker(self._fd, self.name.segment, read_bytes=_WALK_BYTES)
        self._walker.refresh()
        if self._tombstone is None:
            self._seek(self._walker)
        self._walker.read_bytes = _READ_BYTES
        self._walker.set_aside = self._set_aside
        return True

    def refresh(self) -> None:
        """Look at the file's size again."""
        if self._walker is not None:
            self._walker.refresh()

    def head(self, *, bodies: bool) -> Head | None:
        """What comes next; None if there is nothing (yet), or nothing ever (``ended``)."""
        walker = self._walker
        if walker is None or self.ended:
            return None
        if self._tombstone is not None:
            return Head((self.name.boot, self.name.created_ns, self.name.segment, self.row), 0, None, None)
        while (step := self._step(walker)) is not None:
            kind = step.header.kind
            if kind in _DATA:
                return self._data_head(walker, step, bodies=bodies)
            if kind == FrameKind.SEAL:
                if step.header.first > self.row:
                    return Head(self._key(step), 0, step, None)
                self._end()
                break
            if kind == FrameKind.SCHEMA and not self._learn(walker, step):
                break
            walker.advance(step)
        return None

    def take(self, head: Head) -> list[Frame | Gone]:
        """The frame, before it the rows that are missing in front of it; the cursor goes behind it."""
        items: list[Frame | Gone] = [*self._pass(head)]
        if head.step is not None and head.step.header.kind != FrameKind.SEAL:
            header = head.step.header
            batch = self._decode(head.step, head.body)
            if batch is None:
                items.append(Gone(self.name.segment, header.first, header.rows, header.sampled))
            else:
                place = (self.name.segment, header.first, header.rows, header.sampled)
                items.append(Frame(*place, self.name.boot, header.monotonic_ns, batch))
        return items

    def skip(self, head: Head) -> list[Skipped | Gone]:
        """As :meth:`take`, without looking at what the frame holds."""
        items: list[Skipped | Gone] = [*self._pass(head)]
        if head.step is not None and head.step.header.kind != FrameKind.SEAL:
            header = head.step.header
            items.append(Skipped(self.name.segment, header.first, header.rows, header.sampled))
        return items

    def rows_left(self) -> int:
        """Rows between the cursor and the newest one."""
        if self.ended or not self._look():
            return 0
        rows = self._total if self._total is not None else self._walk_ahead().row
        self._unlook()
        return max(rows - self.row, 0)

    def promise(self) -> tuple[int, int] | None:
        """Boot and monotonic time that all rows yet to come exceed; None: no more can come."""
        if self.ended or self._writer_gone or not self._look():
            return None
        result = None
        if self._total is None:
            if writer_gone(self._fd):
                self._writer_gone = True
            else:
                beat = read_beat(self._fd, self.name)
                result = (self.name.boot, max(beat, self._walk_ahead().last_ns))
        self._unlook()
        return result

    def pass_over_tombstone(self) -> None:
        """If the segment is retired, count its rows as done."""
        if self._open_file() and self._tombstone is not None:
            self.row = self._tombstone.rows
            self._end()
        self._close_file()

    def close(self) -> None:
        """Close the file; the cursor stays."""
        self._close_file()
        self._walker = None

    def _key(self, step: Step) -> tuple[int, int, int, int]:
        return self.name.boot, step.header.monotonic_ns, self.name.segment, step.header.first

    def _pass(self, head: Head) -> list[Gone]:
        """Move the cursor; what is missing between it and the frame."""
        self.begun = True
        start = self.row
        if head.step is None or self._walker is None:
            tombstone = self._tombstone or Tombstone.of([])
            self.row = max(tombstone.rows, start)
            sampled = tombstone.sampled_after(start)
            self._end()
            return [Gone(self.name.segment, start, self.row - start, sampled)] if self.row > start else []
        header = head.step.header
        self._walker.advance(head.step)
        self.row = header.end
        if header.kind == FrameKind.SEAL:
            self._end()
        missing = header.first - start
        return [Gone(self.name.segment, start, missing, missing)] if missing > 0 else []

    def _open_file(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            log.warning("segment_vanished", file=str(self._path), rows_done=self.row)
            return False
        walker = FrameWalker(self._fd, self.name.segment, read_bytes=_WALK_BYTES)
        walker.refresh()
        step = walker.peek(final=False)
        if step is not None and step.header.kind == FrameKind.TOMBSTONE:
            body = walker.body(step)
            try:
                self._tombstone = Tombstone.unpack(body) if body is not None else None
            except CorruptFrameError as error:
                log.warning("tombstone_damaged", file=str(self._path), error=str(error))
            # A damaged one still tells its rows and, from the beginning, how many were sampled.
            self._tombstone = self._tombstone or Tombstone.of([(step.header.rows, step.header.sampled)])
            self._total = self._tombstone.rows
        return True

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end(self) -> None:
        self.begun = self.ended = True
        self.close()
        self._ahead = None

    def _look(self) -> bool:
        """Make the file readable for a question about it, and see whether it has been sealed."""
        if self._total is None and self._fd < 0 and not self._open_file():
            return False
        if self._total is None:
            self._total = self._sealed_rows()
        return True

    def _unlook(self) -> None:
        if self._walker is None:
            self._close_file()

    def _sealed_rows(self) -> int | None:
        end = os.fstat(self._fd).st_size - FRAME_HEADER_BYTES
        data = os.pread(self._fd, FRAME_HEADER_BYTES, end) if end >= HEADER_BYTES else b""
        header = parse_header(data, 0, crc_seed(self.name.segment))
        return header.first if header is not None and header.kind == FrameKind.SEAL else None

    def _walk_ahead(self) -> FrameWalker:
        ahead = self._ahead
        if ahead is None:
            ahead = self._ahead = FrameWalker(self._fd, self.name.segment, read_bytes=_WALK_BYTES)
        ahead.fd = self._fd
        if self._walker is not None and self._walker.offset > ahead.offset:
            ahead.offset, ahead.row, ahead.last_ns = (
                self._walker.offset,
                self._walker.row,
                self._walker.last_ns,
            )
        ahead.refresh()
        while (step := ahead.peek(final=False)) is not None:
            ahead.advance(step)
        return ahead

    def _seek(self, walker: FrameWalker) -> None:
        while walker.row < self.row and (step := walker.peek(final=False)) is not None:
            header = step.header
            if header.kind == FrameKind.SEAL or (header.kind in _DATA and header.first >= self.row):
                return
            if header.kind in _DATA and header.end > self.row:
                raise LogError(f"row {self.row} of segment {self.name.text} is inside a frame")
            if header.kind == FrameKind.SCHEMA:
                self._learn(walker, step)
            walker.advance(step)

    def _step(self, walker: FrameWalker) -> Step | None:
        """The next frame; where there is none, whether there ever will be one is found out."""
        step = walker.peek(final=self._writer_gone)
        if step is None and not self._writer_gone and writer_gone(self._fd):
            self._writer_gone = True
            walker.refresh()  # what it wrote last is in view now
            step = walker.peek(final=True)
        if step is None and self._writer_gone:
            self._end()
        return step

    def _data_head(self, walker: FrameWalker, step: Step, *, bodies: bool) -> Head | None:
        body = walker.body(step) if bodies else None
        if bodies and body is None and not self._lost(walker, step):
            return None
        return Head(self._key(step), step.header.rows, step, body)

    def _decode(self, step: Step, body: memoryview | None) -> Batch | None:
        header = step.header
        schema = self._schemas.get(header.schema)
        if body is None or schema is None:
            reason = "the CRC of a body does not hold" if body is None else "the schema of a frame is lost"
            self._set_aside(step.offset, header.size, reason)
            return None
        try:
            return decode_batch(header, schema, body)
        except CorruptFrameError as error:
            self._set_aside(step.offset, header.size, str(error))
            return None

    def _lost(self, walker: FrameWalker, step: Step) -> bool:
        if not self._writer_gone and writer_gone(self._fd):
            self._writer_gone = True
            walker.refresh()
        return walker.body_lost(step, final=self._writer_gone)

    def _learn(self, walker: FrameWalker, step: Step) -> bool:
        """Read a schema; False if it must be looked at again."""
        body = walker.body(step)
        if body is None:
            if not self._lost(walker, step):
                return False
            self._set_aside(step.offset, step.header.size, "the CRC of a schema does not hold")
            return True
        try:
            self._schemas[step.header.schema] = decode_schema(body)
        except CorruptFrameError as error:
            self._set_aside(step.offset, step.header.size, str(error))
        return True

    def _set_aside(self, offset: int, size: int, reason: str = "not a frame") -> None:
        log.warning("log_bytes_set_aside", file=str(self._path), offset=offset, bytes=size, reason=reason)
        self._on_set_aside(size)
