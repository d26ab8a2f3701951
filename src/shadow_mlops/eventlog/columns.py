"""Batches as bytes and back: the bodies of frames, as self-describing columns.

A column that a reader does not know is passed over, so that columns can be added; one is never retyped.
Arrays are little-endian, as on every machine that this runs on.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import CorruptFrameError
from shadow_mlops.domain.events import EventSchema, OutcomeSchema, ResultSchema, Span
from shadow_mlops.eventlog.records import Batch, EventBatch, OutcomeBatch, ResultBatch

Schema: TypeAlias = EventSchema | ResultSchema | OutcomeSchema
Column: TypeAlias = tuple[int, int, bytes]


class Tag(IntEnum):
    """What a column means. Numbers are never used again for something else."""

    TIMES = 1
    NUMBERS = 2
    SCORES = 3
    LATENCIES = 4
    REQUEST_IDS = 5
    ENTITIES = 6
    STRING_CODES = 7
    STRING_VALUES = 8
    ORIGINS = 9
    SAMPLED = 10
    SPANS = 11
    STATUSES = 12
    RECEIVED = 13
    LABELS = 14
    RUNS = 15
    AGES = 16


class Form(IntEnum):
    """How the bytes of a column are to be read."""

    INT64 = 1
    FLOAT64 = 2
    UINT32 = 3
    UINT8 = 4
    BITS = 5
    TEXTS = 6
    SEPARATED_TEXTS = 7
    DEFLATED_UINT32 = 8


_DTYPES: dict[int, np.dtype[Any]] = {
    Form.INT64: np.dtype("<i8"),
    Form.FLOAT64: np.dtype("<f8"),
    Form.UINT32: np.dtype("<u4"),
    Form.UINT8: np.dtype("|u1"),
}
_SEPARATOR = "\0"
_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<BBHI")
_ABSENT = (0, memoryview(b""))
_PADDING = tuple(bytes(n) for n in range(8))
# Plain integers: an enum's attribute look-up costs more than the rest of a column on the request path.
_I64, _F64, _U32, _U8, _BITS, _TEXTS, _SEPARATED = (int(f) for f in tuple(Form)[:7])
_TABLES = tuple(struct.Struct("<II" + "BBHI" * n) for n in range(16))


def pack_columns(columns: Sequence[Column]) -> bytes:
    """A frame's body: table of columns, then their bytes, padded to a multiple of 8."""
    entries: list[int] = []
    for tag, form, data in columns:
        entries += (tag, form, 0, len(data))
    count = len(columns)
    body = b"".join((_TABLES[count].pack(count, 0, *entries), *[data for _, _, data in columns]))
    return body + _PADDING[-len(body) & 7]


def unpack_columns(body: memoryview) -> dict[int, tuple[int, memoryview]]:
    """Tag -> form and bytes.

    Raises
    ------
    CorruptFrameError
        If the table reaches beyond the body.
    """
    if len(body) < 8:
        raise CorruptFrameError("a body without a table of columns")
    count = _COUNT.unpack_from(body)[0]
    start = 8 + count * _ENTRY.size
    if start > len(body):
        raise CorruptFrameError(f"a table of {count} columns in {len(body)} bytes")
    columns = {}
    for tag, form, _, length in _ENTRY.iter_unpack(body[8:start]):
        if start + length > len(body):
            raise CorruptFrameError(f"column {tag} of {length} bytes reaches beyond its frame")
        columns[tag] = (form, body[start : start + length])
        start += length
    return columns


def _sized(data: bytes, expected: int, name: str) -> bytes:
    # The one check that keeps an array of another type or shape out of the log, at the price of a comparison.
    if len(data) != expected:
        raise ValueError(f"{name}: {len(data)} bytes where type and shape ask for {expected}")
    return data


def _pack_texts(tag: int, values: Sequence[str | None], expected: int, name: str) -> Column:
    count = len(values)
    if count != expected:
        raise ValueError(f"{name}: {count} values where {expected} are due")
    try:
        text = _SEPARATOR.join(values)  # type: ignore[arg-type]
    except TypeError:
        text = ""
    # Cut at a separator, texts are read an order of magnitude faster than by their lengths.
    if text.count(_SEPARATOR) == count - 1 and (text or count > 1):
        return tag, _SEPARATED, text.encode("utf-8", "surrogatepass")
    blob = "".join([value for value in values if value is not None]).encode("utf-8", "surrogatepass")
    lengths = array("i", [-1 if value is None else len(value) for value in values])
    return tag, _TEXTS, _COUNT.pack(count) + lengths.tobytes() + blob


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CorruptFrameError(f"a text column is not UTF-8: {error}") from error


def _unpack_texts(data: memoryview) -> list[str | None]:
    if len(data) < 4:
        raise CorruptFrameError("a text column without its count")
    count = _COUNT.unpack_from(data)[0]
    start = 4 + 4 * count
    if start > len(data):
        raise CorruptFrameError(f"a text column of {count} values in {len(data)} bytes")
    lengths = array("i", bytes(data[4:start]))
    text = _text(data[start:])
    ends = list(accumulate((max(length, 0) for length in lengths), initial=0))
    if ends[-1] != len(text) or (count and min(lengths) < -1):
        raise CorruptFrameError("the lengths of a text column do not fit its text")
    return [None if n < 0 else text[a : a + n] for a, n in zip(ends, lengths, strict=False)]


class _Reader:
    """The columns of one body, checked for form and size as they are taken."""

    def __init__(self, body: memoryview) -> None:
        self._columns = unpack_columns(body)

    def __contains__(self, tag: int) -> bool:
        return tag in self._columns

    def raw(self, tag: Tag, form: Form) -> memoryview:
        found, data = self._columns.get(tag, _ABSENT)
        if found != form:
            raise CorruptFrameError(f"column {tag.name} is missing or has form {found}, not {form.name}")
        return data

    def array(self, tag: Tag, form: Form, *shape: int) -> NDArray[Any]:
        data = self.raw(tag, form)
        dtype = _DTYPES[form]
        if len(data) != dtype.itemsize * math.prod(shape):
            raise CorruptFrameError(f"column {tag.name} has {len(data)} bytes, not {shape} of {dtype}")
        return np.ndarray(shape, dtype, data)

    def texts(self, tag: Tag, count: int | None) -> list[str | None]:
        form, data = self._columns.get(tag, _ABSENT)
        values: list[str | None] = []
        values += _text(data).split(_SEPARATOR) if form == _SEPARATED else _unpack_texts(self.raw(tag, Form.TEXTS))
        if count is not None and len(values) != count:
            raise CorruptFrameError(f"column {tag.name} has {len(values)} values, not {count}")
        return values

    def present(self, tag: Tag, count: int | None) -> list[str]:
        values = self.texts(tag, count)
        if None in values:
            raise CorruptFrameError(f"column {tag.name} lacks a value")
        return values  # type: ignore[return-value]


def _pack_events(batch: EventBatch) -> list[Column]:
    n = len(batch.request_ids)
    schema = batch.schema
    wide = n * 8
    strings = len(schema.strings)
    columns: list[Column] = [
        (1, _I64, _sized(batch.times.tobytes(), wide, "times")),
        (2, _F64, _sized(batch.numbers.tobytes(), wide * len(schema.numbers), "numbers")),
        (3, _F64, _sized(batch.scores.tobytes(), wide * len(schema.outputs), "scores")),
        (4, _U32, _sized(batch.latencies.tobytes(), n * 4, "latencies")),
        _pack_texts(5, batch.request_ids, n, "request_ids"),
        _pack_texts(6, batch.entities, n, "entities"),
    ]
    if strings:
        flat = batch.strings.ravel().tolist()
        if len(flat) != n * strings:
            raise ValueError(f"strings: shape {batch.strings.shape} where ({n}, {strings}) is due")
        values = dict.fromkeys(flat)
        values.pop(None, None)
        codes = {value: code for code, value in enumerate(values, 1)}
        codes[None] = 0
        columns.append((7, _U32, array("I", map(codes.__getitem__, flat)).tobytes()))
        columns.append(_pack_texts(8, list(values), len(values), "strings"))
    if batch.origins is not None:
        expected = n * (len(schema.numbers) + strings)
        columns.append((9, _U8, _sized(batch.origins.tobytes(), expected, "origins")))
    if batch.sampled is not None:
        columns.append((10, _BITS, _sized(np.packbits(batch.sampled).tobytes(), (n + 7) // 8, "sampled")))
    if batch.ages is not None:
        wanted = 4 * n * (len(schema.numbers) + strings)
        columns.append((16, _U32, _sized(batch.ages.tobytes(), wanted, "ages")))
    return columns


def _unpack_events(schema: EventSchema, reader: _Reader, n: int) -> EventBatch:
    strings = np.empty((n, len(schema.strings)), dtype=object)
    if schema.strings:
        table = np.array([None, *reader.present(Tag.STRING_VALUES, None)], dtype=object)
        codes = reader.array(Tag.STRING_CODES, Form.UINT32, n, len(schema.strings))
        try:
            strings = table[codes]
        except IndexError as error:
            raise CorruptFrameError(f"a string code names no value: {error}") from error
    width = len(schema.numbers) + len(schema.strings)
    sampled = None
    if Tag.SAMPLED in reader:
        bits = reader.raw(Tag.SAMPLED, Form.BITS)
        if len(bits) != (n + 7) // 8:
            raise CorruptFrameError(f"column SAMPLED has {len(bits)} bytes for {n} rows")
        sampled = np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(np.bool_)
    return EventBatch(
        schema=schema,
        times=reader.array(Tag.TIMES, Form.INT64, n),
        latencies=reader.array(Tag.LATENCIES, Form.UINT32, n),
        request_ids=reader.present(Tag.REQUEST_IDS, n),
        entities=reader.texts(Tag.ENTITIES, n),
        numbers=reader.array(Tag.NUMBERS, Form.FLOAT64, n, len(schema.numbers)),
        strings=strings,
        scores=reader.array(Tag.SCORES, Form.FLOAT64, n, len(schema.outputs)),
        origins=reader.array(Tag.ORIGINS, Form.UINT8, n, width) if Tag.ORIGINS in reader else None,
        sampled=sampled,
        ages=reader.array(Tag.AGES, Form.UINT32, n, width) if Tag.AGES in reader else None,
    )


def _pack_results(batch: ResultBatch) -> list[Column]:
    m = len(batch.statuses)
    due = sum(span.count for span in batch.spans if not span.shed)
    if due != m:
        raise ValueError(f"spans account for {due} scored rows, the arrays have {m}")
    flat = [x for s in batch.spans for x in (s.segment, s.first, s.count, s.sampled, int(s.shed))]
    return [
        (11, _I64, array("q", flat).tobytes()),
        (3, _F64, _sized(batch.scores.tobytes(), m * 8 * len(batch.schema.outputs), "scores")),
        (4, _U32, _sized(batch.latencies.tobytes(), m * 4, "latencies")),
        (12, _U8, _sized(batch.statuses.tobytes(), m, "statuses")),
    ]


def _unpack_results(schema: ResultSchema, reader: _Reader) -> ResultBatch:
    statuses = reader.raw(Tag.STATUSES, Form.UINT8)
    m = len(statuses)
    rows = len(reader.raw(Tag.SPANS, Form.INT64)) // 40
    flat = reader.array(Tag.SPANS, Form.INT64, rows, 5).tolist()
    spans = [Span(segment, first, count, sampled, bool(shed)) for segment, first, count, sampled, shed in flat]
    if sum(span.count for span in spans if not span.shed) != m:
        raise CorruptFrameError("the spans of a result frame do not add up to its rows")
    return ResultBatch(
        schema=schema,
        spans=spans,
        statuses=np.frombuffer(statuses, np.uint8),
        scores=reader.array(Tag.SCORES, Form.FLOAT64, m, len(schema.outputs)),
        latencies=reader.array(Tag.LATENCIES, Form.UINT32, m),
    )


def _pack_outcomes(batch: OutcomeBatch) -> list[Column]:
    n = len(batch.labels)
    columns: list[Column] = [
        (13, _I64, _sized(batch.received.tobytes(), n * 8, "received")),
        (1, _I64, _sized(batch.times.tobytes(), n * 8, "times")),
        _pack_texts(14, batch.labels, n, "labels"),
    ]
    if batch.request_ids:
        columns.append(_pack_texts(5, batch.request_ids, n, "request_ids"))
    if batch.entities:
        columns.append(_pack_texts(6, batch.entities, n, "entities"))
    return columns


def _unpack_outcomes(schema: OutcomeSchema, reader: _Reader, n: int) -> OutcomeBatch:
    return OutcomeBatch(
        schema=schema,
        received=reader.array(Tag.RECEIVED, Form.INT64, n),
        times=reader.array(Tag.TIMES, Form.INT64, n),
        labels=reader.present(Tag.LABELS, n),
        request_ids=reader.texts(Tag.REQUEST_IDS, n) if Tag.REQUEST_IDS in reader else [],
        entities=reader.texts(Tag.ENTITIES, n) if Tag.ENTITIES in reader else [],
    )


def pack_batch(batch: Batch) -> bytes:
    """Body of the frame of a batch.

    Raises
    ------
    ValueError
        If an array has another type or shape than the batch's schema asks for.
    """
    if isinstance(batch, EventBatch):
        return pack_columns(_pack_events(batch))
    return pack_columns(_pack_results(batch) if isinstance(batch, ResultBatch) else _pack_outcomes(batch))


def unpack_batch(schema: Schema, body: memoryview, count: int) -> Batch:
    """The batch that :func:`pack_batch` made; its arrays are read-only views of the body.

    Parameters
    ----------
    schema
        The schema that the frame names.
    body
        Bytes whose CRC holds.
    count
        Rows by the frame's header.

    Raises
    ------
    CorruptFrameError
        If the body is no such batch.
    """
    reader = _Reader(body)
    if isinstance(schema, EventSchema):
        return _unpack_events(schema, reader, count)
    if isinstance(schema, ResultSchema):
        return _unpack_results(schema, reader)
    return _unpack_outcomes(schema, reader, count)
