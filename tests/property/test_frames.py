"""Whatever happens to the bytes: only appended rows come out, at their place, and nothing crashes."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import frame_checker
from logrows import events, ids_of, read_all, schema
from shadow_mlops.domain.errors import CorruptFrameError
from shadow_mlops.domain.events import EVENTS, OutcomeSchema, ResultSchema
from shadow_mlops.eventlog.columns import unpack_batch
from shadow_mlops.eventlog.frames import HEADER_BYTES, decode_schema, parse_header
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.seam import Frame, Gone, Skipped
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.eventlog.tombstones import Tombstone

SIZES = (1, 3, 1, 8, 2, 1, 5)
TOTAL = sum(SIZES)
ACTIONS = ["append0", "append1", "append2", "beat0", "beat1", "beat2", "poll", "close1", "open1"]
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _damaged_log(damage: Any, *, close: bool) -> tuple[Path, int, Path]:
    root = Path(tempfile.mkdtemp())
    appender = SegmentLog(root).appender(EVENTS, writer="w")
    row = 0
    segment = 0
    for number, n in enumerate(SIZES):
        of = schema(number % 3 + 1)
        sampled = np.arange(n) % 2 == 0 if number % 2 else None
        segment, _ = appender.append(events([str(row + i) for i in range(n)], of=of, sampled=sampled))
        row += n
    if close:
        appender.close()
    else:
        os.close(appender._segment.fd)  # as kill -9 does
    (path,) = root.glob("events/*.seg")
    path.write_bytes(damage(path.read_bytes()))
    return root, segment, path


flips = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=6)
cuts = st.tuples(st.floats(0, 1), st.floats(0, 1))


def _flip(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    out = bytearray(data)
    for place, change in changes:
        out[int(place * len(out))] ^= change
    return bytes(out)


def _cut_out(data: bytes, ends: tuple[float, float]) -> bytes:
    a, b = sorted(int(end * len(data)) for end in ends)
    return data[:a] + data[b:]


def _insert(data: bytes, ends: tuple[float, float], junk: bytes) -> bytes:
    a, b = sorted(int(end * len(data)) for end in ends)
    return data[:a] + junk + data[a:b] + data[b:]


def _repeat(data: bytes, ends: tuple[float, float]) -> bytes:
    a, b = sorted(256 + int(end * (len(data) - 256)) for end in ends)
    return data[:b] + data[a:b] + data[b:]


damages = st.one_of(
    cuts.map(lambda e: lambda d: _repeat(d, e)),
    st.just(lambda d: _repeat(d, (0, 1))),
    flips.map(lambda c: lambda d: _flip(d, c)),
    cuts.map(lambda e: lambda d: _cut_out(d, e)),
    st.floats(0, 1).map(lambda p: lambda d: d[: int(p * len(d))]),
    st.tuples(cuts, st.binary(max_size=300)).map(lambda x: lambda d: _insert(d, *x)),
    st.tuples(cuts, cuts).map(lambda x: lambda d: _insert(_cut_out(d, x[0]), x[1], d[256:400])),
)


@RELAXED
@given(damage=damages, close=st.booleans(), max_rows=st.integers(1, 10))
def test_only_whole_rows_come_out_of_a_damaged_file(damage: Any, close: bool, max_rows: int) -> None:
    root, segment, _ = _damaged_log(damage, close=close)
    tail = SegmentLog(root).tail(EVENTS, {})
    items = read_all(tail, max_rows)
    row = 0
    for item in items:
        assert item.segment == segment
        assert item.first == row  # spans leave nothing out and overlap nowhere
        row += item.count
        if isinstance(item, Frame):
            assert item.batch.request_ids == [str(item.first + i) for i in range(item.count)]
    assert row <= TOTAL
    assert tail.position().get(segment, 0) == row
    assert tail.backlog() == 0
    assert tail.poll(9) == []

    told = [r for report in frame_checker.read_log(root) for r in _checked(report)]
    assert ids_of(items) == told


def _checked(report: frame_checker.SegmentReport) -> list[str]:
    return [item.request_id for item in report.items if isinstance(item, frame_checker.EventRow)]


@RELAXED
@given(damage=damages, close=st.booleans())
def test_every_way_to_pass_damage_counts_the_same_rows(damage: Any, close: bool) -> None:
    root, _, _ = _damaged_log(damage, close=close)
    log = SegmentLog(root)
    polled = log.tail(EVENTS, {})
    positions, sampled = [{}], 0
    counts = [(0, 0)]
    rows = 0
    while items := polled.poll(1):
        rows += sum(item.count for item in items)
        sampled += sum(item.sampled for item in items)
        counts.append((rows, sampled))
        positions.append(dict(polled.position()))
    assert log.tail(EVENTS, {}).backlog() == rows
    skipped = log.tail(EVENTS, {}).skip(10**6)
    assert all(isinstance(item, Skipped | Gone) for item in skipped)
    assert (sum(i.count for i in skipped), sum(i.sampled for i in skipped)) == (rows, sampled)
    for position, (done, _) in zip(positions, counts, strict=True):
        assert sum(item.count for item in log.tail(EVENTS, position).poll(10**6)) == rows - done

    retention = Retention(root)
    (info,) = retention.segments()
    assert (info.rows, info.sampled) == (rows, sampled)
    retention.retire(info)
    for position, (done, seen) in zip(positions, counts, strict=True):
        gone = log.tail(EVENTS, position).poll(10**6)
        assert sum(item.count for item in gone) == rows - done
        assert sum(item.sampled for item in gone) == sampled - seen


@RELAXED
@given(place=st.floats(0, 0.9999), change=st.integers(1, 255), ahead=st.integers(1, 4))
def test_a_living_writer_is_read_past_damage(place: float, change: int, ahead: int) -> None:
    """Frames behind the damage come out while the writer lives; the newest may have to wait for it to end."""
    root = Path(tempfile.mkdtemp())
    log = SegmentLog(root)
    appender = log.appender(EVENTS, writer="w")
    for number in range(5):
        appender.append(events([str(number)]))
    (path,) = root.glob("events/*.seg")
    data = path.read_bytes()
    offset = 256 + int(place * (len(data) - 256))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([data[offset] ^ change]))
    tail = log.tail(EVENTS)
    seen = read_all(tail)
    for number in range(5, 5 + ahead):
        appender.append(events([str(number)]))
        seen += read_all(tail)
    appender.close()
    seen += read_all(tail)
    assert [item.first for item in seen] == list(itertools.accumulate((item.count for item in seen[:-1]), initial=0))
    assert sum(item.count for item in seen) == 5 + ahead
    lost = sum(item.count for item in seen if isinstance(item, Gone))
    assert ids_of(seen) == [str(i.first) for i in seen if isinstance(i, Frame)]
    # A damaged schema takes all that names it; anything else one frame.
    assert lost in (1, 5 + ahead)


@RELAXED
@given(
    st.lists(
        st.sampled_from(["append0", "append1", "append2", "beat0", "beat1", "beat2", "poll", "close1", "open1"]),
        max_size=60,
    )
)
def test_ordered_reading_is_the_same_whatever_the_polling(actions: list[str]) -> None:
    root = Path(tempfile.mkdtemp())
    log = SegmentLog(root)
    writers = {i: log.appender(EVENTS, writer=f"w{i}") for i in range(3)}
    eager = log.tail(EVENTS)
    seen: list[str] = []
    appended: list[str] = []
    for number, action in enumerate(actions):
        kind, who = action[:-1], action[-1]
        if action == "poll":
            seen += ids_of(eager.poll_ordered(3))
        elif kind == "close":
            writers[1].close()
        elif kind == "open":
            writers[1].close()
            writers[1] = log.appender(EVENTS, writer="w1")
        elif kind == "beat" and not writers[int(who)]._closed:
            writers[int(who)].beat()
        elif kind == "append" and not writers[int(who)]._closed:
            writers[int(who)].append(events([str(number)]))
            appended.append(str(number))
        assert seen == appended[: len(seen)]
    for writer in writers.values():
        writer.close()
    while items := eager.poll_ordered(5):
        seen += ids_of(items)
    assert seen == appended


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 40), st.sampled_from(["events", "results", "outcomes"]))
@example(b"\xff" * 64, 1, "events")
@example(b"\x01\0\0\0\0\0\0\0\x05\x06\0\0\x04\0\0\0\xff\xff\xff\x7f", 1, "events")
def test_the_decoder_survives_any_bytes(data: bytes, count: int, kind: str) -> None:
    of = {
        "events": schema(2, 2),
        "results": ResultSchema(
            deployment="d", challenger="c", model="m", version="1", registry_version="1", outputs=("v",)
        ),
        "outcomes": OutcomeSchema(deployment="d"),
    }[kind]
    with contextlib.suppress(CorruptFrameError):  # some bytes happen to be a batch
        unpack_batch(of, memoryview(data), count)
    with pytest.raises(CorruptFrameError):
        decode_schema(data)
    with pytest.raises(CorruptFrameError):
        Tombstone.unpack(memoryview(data))
    assert parse_header(data, 0, 0) is None


@settings(max_examples=300, deadline=None)
@given(damage=flips)
def test_the_decoder_survives_damaged_columns(damage: list[tuple[float, int]]) -> None:
    """As if the CRC had held by chance."""
    root = Path(tempfile.mkdtemp())
    batch = events(["a", "b", "c"], of=schema(2, 2), sampled=np.array([True, False, True]))
    SegmentLog(root).appender(EVENTS, writer="w").append(batch)
    (path,) = root.glob("events/*.seg")
    data = path.read_bytes()
    body = data[data.rindex(b"\xffSHF") + HEADER_BYTES :]
    try:
        read = unpack_batch(batch.schema, memoryview(_flip(body, damage)), 3)
    except CorruptFrameError:
        return
    assert len(read) == 3


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda t: (t[0], min(t)))))
def test_tombstones_count_from_every_frame(frames: list[tuple[int, int]]) -> None:
    tombstone = Tombstone.of(frames)
    assert tombstone.rows == sum(rows for rows, _ in frames)
    row = 0
    for number, (rows, _) in enumerate(frames):
        assert tombstone.sampled_after(row) == sum(sampled for _, sampled in frames[number:])
        row += rows
    assert tombstone.sampled_after(row) == 0
