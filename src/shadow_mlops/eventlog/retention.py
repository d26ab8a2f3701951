"""What the log occupies, and how it gets smaller: segments become tombstones, tombstones are forgotten."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import structlog

from shadow_mlops.domain.errors import ConflictError, LogError
from shadow_mlops.domain.events import Stream
from shadow_mlops.eventlog.frames import FrameKind
from shadow_mlops.eventlog.layout import (
    HEADER_BYTES,
    SEGMENT_SUFFIX,
    UNFINISHED_SUFFIX,
    SegmentHeader,
    SegmentName,
    list_streams,
    segment_names,
    stream_folder,
    writer_gone,
)
from shadow_mlops.eventlog.tombstones import Tombstone
from shadow_mlops.eventlog.walking import FrameWalker

log = structlog.get_logger()

State: TypeAlias = Literal["live", "sealed", "dead", "retired"]
"""``dead``: its writer ended without sealing it."""
_WALK_BYTES = 16 * 1024
_SPARE_BYTES = 128 * 1024  # a tombstone of 64 MiB of single rows, each second sampled, has 43 KiB
_UNFINISHED_NS = 60 * 10**9  # between the creation of a file and its renaming lie microseconds


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment, or what is left of it."""

    stream: Stream
    segment: int
    state: State
    bytes: int
    rows: int
    sampled: int
    created_us: int
    """Microseconds since 1970 by the wall clock at its creation; 0 if its header is damaged."""
    writer: str
    boot: int
    monotonic_ns: int
    """Time of its last frame in that boot (of its creation, if it has none)."""
    path: Path


class _Counted:
    """Rows of one segment, counted as far as it has been walked."""

    def __init__(self, name: SegmentName, path: Path) -> None:
        self.name = name
        self.path = path
        self.info: SegmentInfo | None = None
        """Final: neither sealed, dead nor retired segments change."""
        self._walker: FrameWalker | None = None
        self._sampled = 0
        self._last_row = 0
        self._sealed = False

    def look(self, stream: Stream) -> SegmentInfo:
        """Walk over what is new. Raises FileNotFoundError if it has been forgotten meanwhile."""
        if self.info is not None:
            return self.info
        fd = os.open(self.path, os.O_RDONLY)
        try:
            final = writer_gone(fd)
            header = SegmentHeader.parse(os.pread(fd, HEADER_BYTES, 0))
            walker = self._walker
            if walker is None:
                walker = self._walker = FrameWalker(fd, self.name.segment, read_bytes=_WALK_BYTES)
            walker.fd = fd
            walker.refresh()
            retired = self._count(walker, final=final)
        finally:
            os.close(fd)
        state: State = "retired" if retired else "sealed" if self._sealed else "dead" if final else "live"
        info = SegmentInfo(
            stream=stream,
            segment=self.name.segment,
            state=state,
            bytes=walker.size,
            rows=self._last_row,
            sampled=self._sampled,
            created_us=header.created_us if header is not None else 0,
            writer=header.writer if header is not None else "",
            boot=self.name.boot,
            monotonic_ns=walker.last_ns or self.name.created_ns,
            path=self.path,
        )
        if state != "live":
            self.info, self._walker = info, None
        return info

    def _count(self, walker: FrameWalker, *, final: bool) -> bool:
        while not self._sealed and (step := walker.peek(final=final)) is not None:
            header = step.header
            walker.advance(step)
            if header.kind == FrameKind.TOMBSTONE:
                self._last_row, self._sampled = header.rows, header.sampled
                return True
            # Rows lost in a hole count as sampled, for here as for every reader nothing is known of them.
            self._sampled += header.sampled + header.first - self._last_row
            self._last_row = header.end
            self._sealed = header.kind == FrameKind.SEAL
        return False


class Retention:
    """Lists, retires and forgets segments. One process of the host may have one (the monitor).

    Parameters
    ----------
    root
        Folder of the log.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spare = root / ".spare"
        self._known: dict[Path, _Counted] = {}

    def segments(self, stream: Stream | None = None) -> list[SegmentInfo]:
        """All segments, or those of one stream, oldest first within a stream.

        What has ended is read once; of a living segment only what is new.
        """
        if self._root.is_dir():
            self._reserve()
        found: dict[Path, _Counted] = {}
        infos: list[SegmentInfo] = []
        for each in list_streams(self._root) if stream is None else [stream]:
            folder = stream_folder(self._root, each)
            for name in segment_names(folder):
                path = folder / (name.text + SEGMENT_SUFFIX)
                counted = found[path] = self._known.get(path) or _Counted(name, path)
                try:
                    infos.append(counted.look(each))
                except FileNotFoundError:
                    del found[path]
        self._known = found if stream is None else self._known | found
        return infos

    def total_bytes(self) -> int:
        """Bytes of all segments and tombstones."""
        return sum(info.bytes for info in self.segments())

    def retire(self, info: SegmentInfo) -> int:
        """Replace a segment by a tombstone; readers that have it open read on, others get ``Gone``.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        ConflictError
            If its writer lives, or it is retired already.
        LogError
            If the tombstone cannot be written; the segment stays.
        """
        if info.state in ("live", "retired"):
            raise ConflictError(f"segment {info.path.name} is {info.state}")
        name = SegmentName(info.boot, SegmentName.parse(info.path.name)[1], info.segment)  # type: ignore[index]
        data = self._tombstone(info.path, name).pack(
            SegmentHeader(name, info.writer, info.created_us), info.monotonic_ns
        )
        self._reserve()
        try:
            with self._spare.open("r+b") as file:
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            self._spare.replace(info.path)
        except OSError as error:
            raise LogError(f"segment {info.path.name} cannot be retired: {error}") from error
        self._reserve()
        self._known.pop(info.path, None)
        return info.bytes - len(data)

    def forget(self, info: SegmentInfo) -> None:
        """Remove a tombstone: no reader will learn any more that there was such a segment.

        Raises
        ------
        ConflictError
            If the segment is not retired.
        """
        if info.state != "retired":
            raise ConflictError(f"segment {info.path.name} is {info.state}, only retired ones are forgotten")
        info.path.unlink(missing_ok=True)
        self._known.pop(info.path, None)

    def remove_unfinished(self) -> int:
        """Remove files that a killed writer left under their temporary name; how many."""
        removed = 0
        folders = [self._root, *(path for path in self._root.glob("**/") if path != self._root)]
        for folder in folders:
            for name in segment_names(folder, UNFINISHED_SUFFIX):
                path = folder / (name.text + UNFINISHED_SUFFIX)
                if time.monotonic_ns() - name.created_ns > _UNFINISHED_NS and _unlocked(path):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _reserve(self) -> None:
        # Blocks for the next tombstone: on a full disk retention is what makes room again, and must not need any.
        # As much as there is room for will do: what is missing is tried again, and most tombstones are small.
        with contextlib.suppress(OSError), self._spare.open("ab") as file:
            file.write(bytes(max(_SPARE_BYTES - file.tell(), 0)))

    def _tombstone(self, path: Path, name: SegmentName) -> Tombstone:
        frames: list[tuple[int, int]] = []
        with path.open("rb") as file:
            if not writer_gone(file.fileno()):
                raise ConflictError(f"segment {path.name} is live")
            walker = FrameWalker(file.fileno(), name.segment, read_bytes=_WALK_BYTES)
            walker.refresh()
            while (step := walker.peek(final=True)) is not None:
                header = step.header
                if header.first > walker.row:
                    frames.append((header.first - walker.row,) * 2)
                if header.rows:
                    frames.append((header.rows, header.sampled))
                walker.advance(step)
                if header.kind == FrameKind.SEAL:
                    break
        return Tombstone.of(frames)


def _unlocked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return writer_gone(fd)
    finally:
        os.close(fd)
