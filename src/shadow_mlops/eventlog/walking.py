"""Walking through the frames of one segment file, past whatever is damaged, without reading it whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from shadow_mlops.eventlog.frames import HEADER_BYTES as FRAME_HEADER_BYTES
from shadow_mlops.eventlog.frames import MAGIC, FrameHeader, FrameKind, body_holds, parse_header
from shadow_mlops.eventlog.layout import HEADER_BYTES, crc_seed

SetAside = Callable[[int, int], None]
"""Called with offset and length of bytes that are no frame."""
_SCAN_BYTES = 64 * 1024
_NOTHING = memoryview(b"")


class Step(NamedTuple):
    """A frame at the walker's place."""

    offset: int
    header: FrameHeader

    @property
    def end(self) -> int:
        """Offset after the frame."""
        return self.offset + self.header.size


class FrameWalker:
    """A cursor over the frame headers of one file.

    Parameters
    ----------
    fd
        Open for reading; stays the caller's.
    segment
        Its id, the seed of the CRCs.
    read_bytes
        Bytes fetched at once. Small values suit walks over headers only.
    set_aside
        Told of each run of bytes that is no frame, once it is final.
    """

    def __init__(self, fd: int, segment: int, *, read_bytes: int, set_aside: SetAside | None = None) -> None:
        self.fd = fd
        self.seed = crc_seed(segment)
        self.offset = HEADER_BYTES
        self.row = 0
        """Rows before the offset, those lost in holes included."""
        self.last_ns = 0
        """Monotonic time of the newest frame that was passed."""
        self.size = 0
        self.read_bytes = read_bytes
        self.set_aside = set_aside
        self._buffer = _NOTHING
        self._buffer_at = 0
        self._scanned = -1

    def refresh(self) -> None:
        """Look at the file's size again."""
        size = os.fstat(self.fd).st_size
        if size != self.size:
            self.size = size
            self._buffer = _NOTHING  # what was read may have been a write in progress, since taken back

    def bytes_at(self, offset: int, length: int) -> memoryview:
        """Bytes of the file, fewer at its end."""
        length = max(min(length, self.size - offset), 0)
        start = offset - self._buffer_at
        if start < 0 or start + length > len(self._buffer):
            wanted = min(max(length, self.read_bytes), self.size - offset)
            self._buffer = memoryview(os.pread(self.fd, wanted, offset))
            self._buffer_at, start = offset, 0
        return self._buffer[start : start + length]

    def peek(self, *, final: bool) -> Step | None:
        """The next whole frame, None if there is none (yet).

        Parameters
        ----------
        final
            The writer is gone: what is no frame now will never be one, and is set aside to the file's end.
        """
        if self.size <= self.offset:
            return None
        step = self._frame_at(self.offset) or self._behind_hole(final=final)
        if step is None:
            self._buffer = _NOTHING
            if final:
                self._report(self.offset, self.size)
                self.offset = self.size
        elif step.offset > self.offset:
            self._report(self.offset, step.offset)
            self.offset = step.offset
        return step

    def body_lost(self, step: Step, *, final: bool) -> bool:
        """Whether a body with a wrong CRC stays so: its writer is gone, or has written a frame behind it."""
        self._buffer = _NOTHING
        self.refresh()
        return self.body(step) is None and (final or self._scan(step.end) is not None)

    def advance(self, step: Step) -> None:
        """Go behind a frame; its rows are done."""
        self.offset = step.end
        self.last_ns = step.header.monotonic_ns
        if step.header.kind != FrameKind.TOMBSTONE:
            self.row = max(self.row, step.header.end)

    def body(self, step: Step) -> memoryview | None:
        """Body of a frame, None if its CRC does not hold."""
        body = self.bytes_at(step.offset + FRAME_HEADER_BYTES, step.header.length)
        return body if body_holds(step.header, body, self.seed) else None

    def _frame_at(self, offset: int) -> Step | None:
        return self._whole(offset, parse_header(self.bytes_at(offset, FRAME_HEADER_BYTES), 0, self.seed))

    def _whole(self, offset: int, header: FrameHeader | None) -> Step | None:
        if header is None or header.first < self.row or offset + header.size > self.size:
            return None
        return Step(offset, header)

    def _behind_hole(self, *, final: bool) -> Step | None:
        # While the writer lives, unfinished and damaged frames look alike; only a frame behind one tells.
        if not final and self._scanned == self.size:
            return None
        step = self._scan(self.offset + 1)
        if step is None:
            self._scanned = self.size
        elif not final:
            self._buffer = _NOTHING
            return self._frame_at(self.offset) or step
        return step

    def _scan(self, at: int) -> Step | None:
        while at <= self.size - FRAME_HEADER_BYTES:
            data = os.pread(self.fd, min(_SCAN_BYTES, self.size - at), at)
            found = data.find(MAGIC)
            while found >= 0:
                step = self._whole(at + found, parse_header(data, found, self.seed))
                if step is not None:
                    return step
                found = data.find(MAGIC, found + 1)
            at += max(len(data) - FRAME_HEADER_BYTES + 1, 1)
        return None

    def _report(self, start: int, end: int) -> None:
        if self.set_aside is not None:
            self.set_aside(start, end - start)
