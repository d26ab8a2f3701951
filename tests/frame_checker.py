"""Reads an event log by ``docs/frame-format.md`` alone: without product code it can bear witness against it.

python tests/frame_checker.py LOG_FOLDER
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = b"\xffSHF"
SCHEMA, EVENTS, RESULTS, OUTCOMES, SEAL, TOMBSTONE = range(1, 7)


@dataclass
class EventRow:
    stream: str
    segment: int
    row: int
    request_id: str
    sampled: bool
    schema: dict
    numbers: tuple[float, ...]
    scores: tuple[float, ...]
    time: int


@dataclass
class ResultFrame:
    stream: str
    segment: int
    row: int
    schema: dict
    spans: list[tuple[int, int, int, int, bool]]
    statuses: list[int]


@dataclass
class OutcomeRow:
    stream: str
    segment: int
    row: int
    request_id: str | None
    entity: str | None
    label: str


@dataclass
class SegmentReport:
    """What one file holds."""

    stream: str
    segment: int
    path: Path
    rows: int = 0
    sealed: bool = False
    retired: int | None = None
    """Rows of the retired segment."""
    set_aside: int = 0
    """Bytes that are no frame."""
    items: list[EventRow | ResultFrame | OutcomeRow] = field(default_factory=list)


def _header(data: bytes, at: int, seed: int) -> tuple[int, int, int, int, int, bytes] | None:
    if data[at : at + 4] != MAGIC or len(data) - at < 56:
        return None
    kind, length, rows, first, _, body_crc, _, schema = struct.unpack_from("<4xB3xIIQIIQ8s", data, at)
    (crc,) = struct.unpack_from("<I", data, at + 52)
    if crc != zlib.crc32(data[at : at + 52], seed) or at + 56 + length > len(data):
        return None
    return kind, length, rows, first, body_crc, schema


def _columns(body: bytes) -> dict[int, tuple[int, bytes]]:
    (count,) = struct.unpack_from("<I", body)
    at = 8 + 8 * count
    columns = {}
    for number in range(count):
        tag, form, length = struct.unpack_from("<BB2xI", body, 8 + 8 * number)
        columns[tag] = (form, body[at : at + length])
        at += length
    return columns


def _texts(column: tuple[int, bytes]) -> list[str | None]:
    form, data = column
    if form == 7:
        return [*data.decode("utf-8", "surrogatepass").split("\0")]
    assert form == 6
    (count,) = struct.unpack_from("<I", data)
    lengths = struct.unpack_from(f"<{count}i", data, 4)
    text = data[4 + 4 * count :].decode("utf-8", "surrogatepass")
    starts = itertools.accumulate((max(n, 0) for n in lengths), initial=0)
    return [None if n < 0 else text[a : a + n] for a, n in zip(starts, lengths, strict=False)]


def _matrix(data: bytes, rows: int, code: str) -> list[tuple]:
    size = struct.calcsize(code)
    width = len(data) // size // rows if rows else 0
    return [struct.unpack_from(f"<{width}{code}", data, i * width * size) for i in range(rows)]


def _events(report: SegmentReport, schema: dict, first: int, rows: int, body: bytes) -> None:
    columns = _columns(body)
    ids = _texts(columns[5])
    assert len(ids) == rows, f"{report.path}: {len(ids)} request ids in a frame of {rows} rows"
    bits = columns[10][1] if 10 in columns else None
    numbers, scores = _matrix(columns[2][1], rows, "d"), _matrix(columns[3][1], rows, "d")
    times = struct.unpack(f"<{rows}q", columns[1][1])
    for i, request_id in enumerate(ids):
        sampled = bits is None or bool(bits[i // 8] >> (7 - i % 8) & 1)
        place = (report.stream, report.segment, first + i)
        report.items.append(EventRow(*place, request_id or "", sampled, schema, numbers[i], scores[i], times[i]))


def _results(report: SegmentReport, schema: dict, first: int, rows: int, body: bytes) -> None:
    columns = _columns(body)
    flat = struct.unpack(f"<{len(columns[11][1]) // 8}q", columns[11][1])
    spans = [(*flat[i : i + 4], bool(flat[i + 4])) for i in range(0, len(flat), 5)]
    statuses = list(columns[12][1])
    assert rows == max(len(statuses), 1), f"{report.path}: {len(statuses)} statuses in a frame of {rows} rows"
    report.items.append(ResultFrame(report.stream, report.segment, first, schema, spans, statuses))


def _outcomes(report: SegmentReport, schema: dict, first: int, rows: int, body: bytes) -> None:
    columns = _columns(body)
    labels = _texts(columns[14])
    ids = _texts(columns[5]) if 5 in columns else [None] * rows
    entities = _texts(columns[6]) if 6 in columns else [None] * rows
    for i, (request_id, entity, label) in enumerate(zip(ids, entities, labels, strict=True)):
        report.items.append(OutcomeRow(report.stream, report.segment, first + i, request_id, entity, label))


def read_segment(stream: str, path: Path) -> SegmentReport:
    segment = int(path.stem.split("-")[2], 16)
    seed = zlib.crc32(segment.to_bytes(8, "little"))
    report = SegmentReport(stream, segment, path)
    data = path.read_bytes()
    schemas: dict[bytes, dict] = {}
    at = 256
    while at < len(data):
        header = _header(data, at, seed)
        if header is None or header[3] < report.rows:
            following = data.find(MAGIC, at + 1)
            end = len(data) if following < 0 else following
            report.set_aside += end - at
            at = end
            continue
        kind, length, rows, first, body_crc, schema = header
        body = data[at + 56 : at + 56 + length]
        at += 56 + length
        if kind == TOMBSTONE:
            report.retired = rows
            continue
        report.rows = first + rows
        if zlib.crc32(body, seed) != body_crc or (kind in (EVENTS, RESULTS, OUTCOMES) and schema not in schemas):
            report.set_aside += 56 + length
        elif kind == SCHEMA:
            schemas[schema] = json.loads(body)[1]
        elif kind == SEAL:
            report.sealed = True
            report.set_aside += len(data) - at
            break
        else:
            read = {EVENTS: _events, RESULTS: _results, OUTCOMES: _outcomes}[kind]
            read(report, schemas[schema], first, rows, body)
    return report


def read_log(root: Path) -> Iterator[SegmentReport]:
    """Every segment below the folder, oldest first within a stream."""
    for path in sorted(root.glob("**/*.seg")):
        yield read_segment(path.parent.relative_to(root).as_posix(), path)


def request_ids(root: Path) -> list[str]:
    """Request id of every event in the log, as often as it is there."""
    return [item.request_id for report in read_log(root) for item in report.items if isinstance(item, EventRow)]


def accounted(root: Path, stream: str) -> dict[tuple[int, int], list[str]]:
    """What one challenger's results say of each event: (segment, row) -> statuses, ``"shed"`` among them."""
    names = ("paired", "timed_out", "errored", "unsampled")
    told: dict[tuple[int, int], list[str]] = {}
    for report in read_log(root):
        for frame in report.items:
            if not isinstance(frame, ResultFrame) or frame.stream != stream:
                continue
            statuses = iter(frame.statuses)
            for segment, first, count, _, shed in frame.spans:
                for row in range(first, first + count):
                    told.setdefault((segment, row), []).append("shed" if shed else names[next(statuses)])
    return told


if __name__ == "__main__":
    for each in read_log(Path(sys.argv[1])):
        state = "retired" if each.retired is not None else "sealed" if each.sealed else "open"
        print(f"{each.stream} {each.segment:016x} {state} rows={each.rows} set_aside={each.set_aside}")
