"""One frame: a header that can be trusted by itself, and a body; ``docs/frame-format.md`` has every byte.

The header has a CRC of its own, so that readers may count, skip and seek without touching bodies, and so
that a damaged body costs its own rows only.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

from shadow_mlops.domain.errors import CorruptFrameError
from shadow_mlops.domain.events import EventSchema, OutcomeSchema, ResultSchema
from shadow_mlops.eventlog.columns import Schema, pack_batch, unpack_batch
from shadow_mlops.eventlog.records import Batch, EventBatch, OutcomeBatch, ResultBatch

MAGIC = b"\xffSHF"
"""Begins with a byte that UTF-8 never has: no client's text can look like a frame."""
HEADER_BYTES = 56
MAX_BODY_BYTES = 64 * 2**20
NO_SCHEMA = bytes(8)
_HEADER = struct.Struct("<4sBBHIIQIIQ8sI")
_CRC = struct.Struct("<I")
_CRC_AT = _HEADER.size


class FrameKind(IntEnum):
    """What a frame holds."""

    SCHEMA = 1
    EVENTS = 2
    RESULTS = 3
    OUTCOMES = 4
    SEAL = 5
    TOMBSTONE = 6


_SCHEMAS: dict[FrameKind, type[Schema]] = {
    FrameKind.EVENTS: EventSchema,
    FrameKind.RESULTS: ResultSchema,
    FrameKind.OUTCOMES: OutcomeSchema,
}


_KINDS: dict[type[Batch], FrameKind] = {
    EventBatch: FrameKind.EVENTS,
    ResultBatch: FrameKind.RESULTS,
    OutcomeBatch: FrameKind.OUTCOMES,
}


class FrameHeader(NamedTuple):
    """The fields of a frame's header."""

    kind: int
    length: int
    """Bytes of the body, a multiple of 8."""
    rows: int
    """Rows; in a tombstone those of the whole retired segment."""
    first: int
    """Row of the segment that the frame begins with; in a seal the number of rows in the segment."""
    sampled: int
    body_crc: int
    monotonic_ns: int
    schema: bytes

    @property
    def size(self) -> int:
        """Bytes of header and body."""
        return HEADER_BYTES + self.length

    @property
    def end(self) -> int:
        """Row after the last one."""
        return self.first + self.rows


class EncodedSchema(NamedTuple):
    """A schema as it stands in the log."""

    schema: Schema
    id: bytes
    """First 8 bytes of the BLAKE2b digest (of length 8) of the body."""
    body: bytes


class EncodedBatch(NamedTuple):
    """A batch ready to be framed."""

    kind: int
    rows: int
    """Row numbers that it takes: at least one, so that a position can lie behind a frame that only sheds."""
    sampled: int
    body: bytes


def encode_schema(schema: Schema) -> EncodedSchema:
    """Body and id of a schema frame."""
    kind = next(kind for kind, of in _SCHEMAS.items() if isinstance(schema, of))
    body = msgspec.json.encode((kind.name.lower(), schema))
    body += b" " * (-len(body) & 7)
    return EncodedSchema(schema, hashlib.blake2b(body, digest_size=8).digest(), body)


def decode_schema(body: bytes | memoryview) -> Schema:
    """The schema of a schema frame.

    Raises
    ------
    CorruptFrameError
        If it is none that this release knows.
    """
    try:
        kind, raw = msgspec.json.decode(body, type=tuple[str, msgspec.Raw])
        return msgspec.json.decode(raw, type=_SCHEMAS[FrameKind[kind.upper()]])
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
        raise CorruptFrameError(f"a schema that cannot be read: {error}") from error


def encode_batch(batch: Batch) -> EncodedBatch:
    """Body and counts of a data frame.

    Raises
    ------
    ValueError
        If the batch is empty (only results may be), or an array does not fit its schema.
    """
    n = len(batch)
    if isinstance(batch, EventBatch):
        kind = 2
        sampled = n if batch.sampled is None else int(batch.sampled.sum())
    else:
        kind = 3 if isinstance(batch, ResultBatch) else 4
        sampled = n or 1
    if n == 0 and (kind != 3 or not batch.spans):  # type: ignore[union-attr]
        raise ValueError("a batch without rows")
    return EncodedBatch(kind, n or 1, sampled, pack_batch(batch))


def decode_batch(header: FrameHeader, schema: Schema, body: memoryview) -> Batch:
    """The batch of a data frame whose CRC holds.

    Raises
    ------
    CorruptFrameError
        If the body is not what header and schema say.
    """
    batch = unpack_batch(schema, body, header.rows)
    if _KINDS[type(batch)] != header.kind or (len(batch) or 1) != header.rows:
        raise CorruptFrameError("a frame of another kind or size than its schema says")
    return batch


def pack_frame(
    seed: int,
    kind: int,
    body: bytes,
    *,
    first: int,
    monotonic_ns: int,
    rows: int = 0,
    sampled: int = 0,
    schema: bytes = NO_SCHEMA,
) -> bytes:
    """Bytes of a frame.

    Parameters
    ----------
    seed
        Start value of the CRCs, :func:`~shadow_mlops.eventlog.layout.crc_seed` of the segment.
    """
    head = _HEADER.pack(
        MAGIC, kind, 0, 0, len(body), rows, first, sampled, zlib.crc32(body, seed), monotonic_ns, schema, 0
    )
    return b"".join((head, _CRC.pack(zlib.crc32(head, seed)), body))


def parse_header(data: bytes | memoryview, at: int, seed: int) -> FrameHeader | None:
    """Header at an offset of a buffer; None if there is none whose CRC holds."""
    if len(data) - at < HEADER_BYTES or data[at : at + 4] != MAGIC:
        return None
    if _CRC.unpack_from(data, at + _CRC_AT)[0] != zlib.crc32(data[at : at + _CRC_AT], seed):
        return None
    fields = _HEADER.unpack_from(data, at)
    length = fields[4]
    if length > MAX_BODY_BYTES or length % 8:
        return None
    return FrameHeader(fields[1], *fields[4:11])


def body_holds(header: FrameHeader, body: bytes | memoryview, seed: int) -> bool:
    """Whether the body is the one that was written with the header."""
    return len(body) == header.length and zlib.crc32(body, seed) == header.body_crc
