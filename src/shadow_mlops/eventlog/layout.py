"""Where segments are and what they are called: folders, file names, the segment header, the boot counter.

``docs/frame-format.md`` describes every byte.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shadow_mlops.domain.errors import LogError
from shadow_mlops.domain.events import REPLAYS_PREFIX, RESULTS_PREFIX, Stream

SEGMENT_SUFFIX = ".seg"
UNFINISHED_SUFFIX = ".new"
HEADER_BYTES = 256
FORMAT_VERSION = 1
_MAGIC = b"SHDWLOG\n"
_CRC_AT = 236
_BEAT_AT = 240
_WRITER_BYTES = 126
_HEADER = struct.Struct(f"<8sHHIQQqQH{_WRITER_BYTES}s")
_BEAT = struct.Struct("<QII")
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})-([0-9a-f]{16})")
_STREAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)?")
_BOOTS = ".boots"


class SegmentName(NamedTuple):
    """What a segment's file name says; sorts by creation."""

    boot: int
    created_ns: int
    """Monotonic nanoseconds of that boot at creation: every frame of the segment is later."""
    segment: int

    @property
    def text(self) -> str:
        """Name of the file without its suffix."""
        return f"{self.boot:08x}-{self.created_ns:016x}-{self.segment:016x}"

    @classmethod
    def new(cls, boot: int) -> SegmentName:
        """A name that no other segment has."""
        return cls(boot, time.monotonic_ns(), secrets.randbits(63) or 1)

    @classmethod
    def parse(cls, file: str, suffix: str = SEGMENT_SUFFIX) -> SegmentName | None:
        """Read a file name; None if it is not a segment's."""
        match = _NAME.fullmatch(file.removesuffix(suffix)) if file.endswith(suffix) else None
        return None if match is None else cls(int(match[1], 16), int(match[2], 16), int(match[3], 16))


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """First bytes of a segment file."""

    name: SegmentName
    writer: str
    created_us: int
    """Microseconds since 1970 by the wall clock at creation; for people, never for order."""

    def pack(self) -> bytes:
        """The 256 bytes, with a first heart-beat at the creation time."""
        writer = self.writer.encode("utf-8", "replace")[:_WRITER_BYTES]
        head = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            HEADER_BYTES,
            0,
            self.name.segment,
            self.name.boot,
            self.created_us,
            self.name.created_ns,
            len(writer),
            writer,
        ).ljust(_CRC_AT, b"\0")
        return head + struct.pack("<I", zlib.crc32(head)) + pack_beat(self.name, self.name.created_ns)

    @classmethod
    def parse(cls, data: bytes) -> SegmentHeader | None:
        """Read the first bytes of a file; None if they are damaged (order needs the file's name only)."""
        if len(data) < HEADER_BYTES or data[_CRC_AT:_BEAT_AT] != struct.pack("<I", zlib.crc32(data[:_CRC_AT])):
            return None
        magic, version, _, _, segment, boot, created_us, created_ns, length, writer = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != FORMAT_VERSION:
            return None
        text = writer[:length].decode("utf-8", "replace")
        return cls(SegmentName(boot, created_ns, segment), text, created_us)


def crc_seed(segment: int) -> int:
    """Start value of every CRC of a segment, so that no bytes from elsewhere pass for one of its frames."""
    return zlib.crc32(segment.to_bytes(8, "little"))


def pack_beat(name: SegmentName, monotonic_ns: int) -> bytes:
    """Content of the heart-beat slot."""
    return _BEAT.pack(monotonic_ns, zlib.crc32(monotonic_ns.to_bytes(8, "little"), crc_seed(name.segment)), 0)


def write_beat(fd: int, name: SegmentName, monotonic_ns: int) -> None:
    """Promise that all later frames of the segment have a larger monotonic time."""
    os.pwrite(fd, pack_beat(name, monotonic_ns), _BEAT_AT)


def read_beat(fd: int, name: SegmentName) -> int:
    """Newest promise of the segment's writer; its creation time where the slot is damaged or half written."""
    data = os.pread(fd, _BEAT.size, _BEAT_AT)
    if len(data) == _BEAT.size:
        beat = _BEAT.unpack(data)[0]
        if data == pack_beat(name, beat):
            return int(beat)
    return name.created_ns


def writer_gone(fd: int) -> bool:
    """Whether nobody holds the writer's lock on the file; it is tried shared and released at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def stream_folder(root: Path, stream: Stream) -> Path:
    """Folder of a stream.

    Raises
    ------
    LogError
        If the name cannot be a folder below the root.
    """
    if _STREAM.fullmatch(stream) is None:
        raise LogError(f"a stream is named with letters, digits, '_', '-' and '.', not {stream!r}")
    return root / stream


def segment_names(folder: Path, suffix: str = SEGMENT_SUFFIX) -> list[SegmentName]:
    """Names of the segments in a folder, oldest first; empty when there is no such folder."""
    try:
        files = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(name for file in files if (name := SegmentName.parse(file, suffix)) is not None)


def segment_header(root: Path, stream: Stream, segment: int) -> SegmentHeader | None:
    """Header of one segment of a stream; None if it is gone or damaged."""
    folder = root / stream
    name = next((name for name in segment_names(folder) if name.segment == segment), None)
    if name is None:
        return None
    try:
        with (folder / (name.text + SEGMENT_SUFFIX)).open("rb") as file:
            return SegmentHeader.parse(file.read(HEADER_BYTES))
    except FileNotFoundError:
        return None


def list_streams(root: Path) -> list[Stream]:
    """Streams that have at least one segment file."""

    def folders(parent: Path) -> Iterator[str]:
        try:
            with os.scandir(parent) as entries:
                yield from sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return

    names = [name for name in folders(root) if _STREAM.fullmatch(name)]
    for prefix in (RESULTS_PREFIX, REPLAYS_PREFIX):
        names += [prefix + name for name in folders(root / prefix) if _STREAM.fullmatch(name)]
    return [name for name in names if segment_names(root / name)]


def kernel_boot_id() -> str:
    """Identity of this boot of the kernel.

    Raises
    ------
    LogError
        If the system does not tell.
    """
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        else:
            text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except (OSError, subprocess.CalledProcessError) as error:
        raise LogError(f"the system does not tell its boot id, so that the log has no order: {error}") from error
    return re.sub(r"[^0-9a-f]", "", text.lower())


def boot_counter(root: Path, boot_id: str) -> int:
    """Number of this boot in the life of the log, 1 for the first; larger than that of every earlier boot.

    No lock: processes of one boot that race create the same file name, and a boot's smallest number counts.

    Raises
    ------
    LogError
        If the folder cannot be written.
    """
    folder = root / _BOOTS

    def boots() -> list[tuple[int, str]]:
        matches = (re.fullmatch(r"(\d{8})-([0-9a-f]+)", path.name) for path in folder.iterdir())
        return sorted((int(match[1]), match[2]) for match in matches if match is not None)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = boots()
        if boot_id not in {boot for _, boot in known}:
            number = known[-1][0] + 1 if known else 1
            (folder / f"{number:08d}-{boot_id}").touch()
            known = boots()
    except OSError as error:
        raise LogError(f"this boot cannot be numbered in {folder}: {error}") from error
    return next(number for number, boot in known if boot == boot_id)
