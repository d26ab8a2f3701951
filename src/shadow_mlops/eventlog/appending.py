"""The writing half: one writer, one open segment file, one ``write`` per append."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import structlog

from shadow_mlops.domain.errors import AppendError, LogError
from shadow_mlops.eventlog.columns import Schema
from shadow_mlops.eventlog.frames import (
    MAX_BODY_BYTES,
    EncodedSchema,
    FrameKind,
    encode_batch,
    encode_schema,
    pack_frame,
)
from shadow_mlops.eventlog.layout import (
    HEADER_BYTES,
    SEGMENT_SUFFIX,
    UNFINISHED_SUFFIX,
    SegmentHeader,
    SegmentName,
    crc_seed,
    write_beat,
)
from shadow_mlops.eventlog.records import Batch

log = structlog.get_logger()

_MAX_ROWS = 2**31  # an event id has 32 bits for the row
# Creating a file costs 0.1 ms and more: not on each append to a full disk.
_RETRY_ROTATION_NS = 1_000_000_000
# macOS has no fdatasync
sync_data = getattr(os, "fdatasync", os.fsync)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _OpenSegment:
    """A segment file whose lock this process holds."""

    __slots__ = ("encoded", "expires_ns", "fd", "name", "offset", "row", "seed")

    def __init__(self, folder: Path, boot: int, writer: str, max_age_ns: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = SegmentName.new(boot)
        unfinished = folder / (self.name.text + UNFINISHED_SUFFIX)
        self.fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = SegmentHeader(self.name, writer, time.time_ns() // 1000).pack()
            if os.pwrite(self.fd, data, 0) != HEADER_BYTES:
                raise OSError("no room for a segment header")  # noqa: TRY301 - as if the write had said so
            unfinished.rename(folder / (self.name.text + SEGMENT_SUFFIX))
        except OSError:
            os.close(self.fd)
            unfinished.unlink(missing_ok=True)
            raise
        self.seed = crc_seed(self.name.segment)
        self.offset = HEADER_BYTES
        self.row = 0
        self.expires_ns = self.name.created_ns + max_age_ns
        self.encoded: dict[Schema, EncodedSchema] = {}
        """Schemas whose frames are in this segment."""

    def write(self, data: bytes) -> None:
        """Add bytes at the end, all or none.

        Raises
        ------
        OSError
            Nothing was added.
        _TornError
            Part was added and cannot be taken away.
        """
        try:
            written = os.pwrite(self.fd, data, self.offset)
            if written == len(data):
                self.offset += written
                return
            raise OSError(f"{written} of {len(data)} bytes fitted")  # noqa: TRY301 - as if the write had said so
        except OSError as error:
            try:
                os.ftruncate(self.fd, self.offset)
            except OSError as second:
                raise _TornError(f"{error}; and its end cannot be cut off: {second}") from error
            raise

    def close(self, monotonic_ns: int) -> None:
        """Seal if there is room for it, and let the lock go: either tells readers that this was all."""
        try:
            self.write(pack_frame(self.seed, FrameKind.SEAL, b"", first=self.row, monotonic_ns=monotonic_ns))
        except (OSError, _TornError) as error:
            log.warning("segment_not_sealed", segment=self.name.text, error=str(error))
        finally:
            os.close(self.fd)


class _TornError(Exception):
    """A segment ends in part of a frame."""


class SegmentAppender:
    """The only writer of its segments.

    Not for several threads. A process with an open appender must not fork without exec: a child that inherits
    the descriptor keeps the lock, and with it the readers' belief that the writer lives.
    """

    def __init__(self, folder: Path, *, boot: int, writer: str, segment_bytes: int, max_age_seconds: float) -> None:
        self._folder = folder
        self._boot = boot
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._max_age_ns = int(max_age_seconds * 1e9)
        self._segment: _OpenSegment | None = None
        self._closed = False
        self._last_ns = 0
        self._no_rotation_before_ns = 0
        self._newest_schema: EncodedSchema | None = None
        self._unsynced_folder = True
        try:
            self._open()
        except OSError as error:  # a full disk must not keep a gateway from starting: each append says what is wrong
            log.warning("segment_not_created", folder=str(folder), error=str(error))

    def append(self, batch: Batch) -> tuple[int, int]:
        """Write the batch as one frame, wholly or not at all.

        Returns
        -------
        tuple of int
            Segment id, and the row in it of the batch's first row.

        Raises
        ------
        AppendError
            Nothing of the batch is in the log; a later append may succeed.
        ValueError
            The batch is empty, or an array does not fit its schema.
        """
        kind, rows, sampled, body = encode_batch(batch)
        if len(body) > MAX_BODY_BYTES:
            raise AppendError(f"a frame of {len(body)} bytes is larger than {MAX_BODY_BYTES}")
        segment = self._ready()
        encoded = self._newest_schema
        if encoded is None or encoded.schema is not batch.schema:
            encoded = self._newest_schema = segment.encoded.get(batch.schema) or encode_schema(batch.schema)
        now = self._tick()
        data = pack_frame(
            segment.seed,
            kind,
            body,
            first=segment.row,
            monotonic_ns=now,
            rows=rows,
            sampled=sampled,
            schema=encoded.id,
        )
        new = encoded.schema not in segment.encoded
        if new:
            data = (
                pack_frame(
                    segment.seed,
                    FrameKind.SCHEMA,
                    encoded.body,
                    first=segment.row,
                    monotonic_ns=now,
                    schema=encoded.id,
                )
                + data
            )
        try:
            segment.write(data)
        except OSError as error:
            raise AppendError(f"nothing was appended to {segment.name.text}: {error}") from error
        except _TornError as error:
            self._abandon()
            raise AppendError(f"segment {segment.name.text} is given up: {error}") from error
        if new:
            segment.encoded[encoded.schema] = encoded
        first = segment.row
        segment.row += rows
        return segment.name.segment, first

    def beat(self) -> None:
        """Promise ordered readers that all later appends are later than now; seal a segment that is too old.

        Raises
        ------
        LogError
            If the promise cannot be written: ordered readers wait until the next beat or append.
        """
        if self._closed:
            raise LogError("the appender is closed")
        segment = self._segment
        if segment is None:
            return
        now = time.monotonic_ns()
        if now >= segment.expires_ns and segment.row:
            segment = self._rotate(segment, now)
        self._last_ns = max(now, self._last_ns)
        try:
            write_beat(segment.fd, segment.name, self._last_ns)
        except OSError as error:
            raise LogError(f"heart-beat of {segment.name.text}: {error}") from error

    def sync(self) -> None:
        """Return when everything appended so far survives a loss of power.

        Raises
        ------
        LogError
            If the disk does not take it; what was appended since the last sync may be lost with the power.
        """
        segment = self._segment
        if segment is None:
            return
        try:
            sync_data(segment.fd)
            if self._unsynced_folder:
                for folder in (self._folder, *self._folder.parents[:2]):
                    sync_folder(folder)
                self._unsynced_folder = False
        except OSError as error:
            # The kernel forgets pages it failed to write: a second sync of the file would wrongly succeed.
            self._abandon()
            raise LogError(f"segment {segment.name.text} cannot be synced: {error}") from error

    def close(self) -> None:
        """Seal the segment; no append may follow. Closing twice is allowed."""
        self._closed = True
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close(self._tick())

    def _tick(self) -> int:
        now = time.monotonic_ns()
        self._last_ns = now if now > self._last_ns else self._last_ns + 1
        return self._last_ns

    def _open(self) -> _OpenSegment:
        segment = self._segment = _OpenSegment(self._folder, self._boot, self._writer, self._max_age_ns)
        self._unsynced_folder = True
        return segment

    def _ready(self) -> _OpenSegment:
        if self._closed:
            raise AppendError("the appender is closed")
        segment = self._segment
        if segment is None:
            try:
                return self._open()
            except OSError as error:
                raise AppendError(f"no segment can be created in {self._folder}: {error}") from error
        if segment.offset >= self._segment_bytes or segment.row >= _MAX_ROWS:
            return self._rotate(segment, time.monotonic_ns())
        now = time.monotonic_ns()
        return self._rotate(segment, now) if now >= segment.expires_ns and segment.row else segment

    def _rotate(self, old: _OpenSegment, now: int) -> _OpenSegment:
        if now < self._no_rotation_before_ns:
            return old
        try:
            new = self._open()
        except OSError as error:
            self._no_rotation_before_ns = now + _RETRY_ROTATION_NS
            log.warning("segment_not_rotated", segment=old.name.text, error=str(error))
            return old
        old.close(self._tick())  # after the new one is there: a reader that sees the seal finds the successor
        return new

    def _abandon(self) -> None:
        if self._segment is not None:
            os.close(self._segment.fd)
            self._segment = None
