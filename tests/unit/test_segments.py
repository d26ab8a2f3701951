"""The files of the event log: rotation, full disks, liveness, boots, damage, vanishing files."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

import frame_checker
from logrows import events, ids_of, read_all, schema
from shadow_mlops.domain.errors import AppendError, LogError
from shadow_mlops.domain.events import EVENTS, event_id
from shadow_mlops.eventlog import appending, reading, tailing
from shadow_mlops.eventlog.layout import SegmentHeader, SegmentName, boot_counter, kernel_boot_id
from shadow_mlops.eventlog.seam import Gone
from shadow_mlops.eventlog.segments import SegmentLog


def files(root: Path) -> list[Path]:
    return sorted(root.glob("events/*.seg"))


def kill(appender: Any) -> None:
    """What the kernel does to a killed writer's descriptor."""
    os.close(appender._segment.fd)


def test_the_checker_reads_what_the_log_wrote(tmp_path: Path) -> None:
    appender = SegmentLog(tmp_path).appender(EVENTS, writer="gateway-0")
    sampled = np.array([True, False] + [True] * 8)
    batch = events(
        [f"r{i}" for i in range(10)],
        sampled=sampled,
        entities=[None] * 10,
        strings=np.full((10, 1), None, dtype=object),
    )
    segment, _ = appender.append(batch)
    (report,) = frame_checker.read_log(tmp_path)
    assert (report.segment, report.rows, report.sealed, report.set_aside) == (segment, 10, False, 0)
    assert [item.request_id for item in report.items] == batch.request_ids
    assert [item.sampled for item in report.items] == sampled.tolist()
    assert [item.numbers for item in report.items] == [tuple(row) for row in batch.numbers.tolist()]
    appender.close()
    (report,) = frame_checker.read_log(tmp_path)
    assert (report.rows, report.sealed) == (10, True)
    header = SegmentHeader.parse(report.path.read_bytes())
    assert header is not None
    assert (header.writer, header.name.segment) == ("gateway-0", segment)


def test_a_full_segment_is_sealed_and_another_begun(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=5000)
    appender = log.appender(EVENTS, writer="w")
    tail = log.tail(EVENTS)
    seen, places = [], []
    for number in range(100):
        segment, row = appender.append(events([str(number)]))
        places.append(event_id(segment, row))
        seen += ids_of(tail.poll(1000))
    assert seen == [str(number) for number in range(100)]
    assert len(set(places)) == 100
    reports = list(frame_checker.read_log(tmp_path))
    assert [report.sealed for report in reports] == [True] * (len(reports) - 1) + [False]
    assert len(reports) > 3
    assert all(report.path.stat().st_size < 5600 for report in reports)
    again = log.tail(EVENTS)
    assert again.backlog() == 100
    assert ids_of(read_all(again, 7)) == seen


def test_an_old_segment_is_sealed_even_when_idle(tmp_path: Path) -> None:
    appender = SegmentLog(tmp_path, max_age_seconds=0).appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    appender.beat()
    assert len(files(tmp_path)) == 2
    appender.beat()  # an empty one does not age
    appender.append(events(["b"]))
    assert len(files(tmp_path)) == 2
    appender.append(events(["c"]))
    assert [report.rows for report in frame_checker.read_log(tmp_path)] == [1, 1, 1]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, fail: Any) -> None:
    """Replace a call of ``os`` for the writing half only."""

    class Faulty:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(os, attribute)

    faulty = Faulty()
    setattr(faulty, name, fail)
    monkeypatch.setattr(appending, "os", faulty)


def test_a_short_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    tail = log.tail(EVENTS)
    appender.append(events(["a"]))
    failing(monkeypatch, "pwrite", lambda fd, data, at: os.pwrite(fd, data[: len(data) // 2], at))
    for _ in range(3):
        with pytest.raises(AppendError):
            appender.append(events(["lost"], of=schema(5)))
    assert ids_of(tail.poll(9)) == ["a"]
    monkeypatch.undo()
    # The schema's frame was taken back, too, so it has to be written now.
    _, row = appender.append(events(["b"], of=schema(5)))
    assert row == 1
    assert ids_of(tail.poll(9)) == ["b"]
    (report,) = frame_checker.read_log(tmp_path)
    assert report.set_aside == 0


def test_a_segment_whose_end_cannot_be_cut_off_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    tail = log.tail(EVENTS)
    first, _ = appender.append(events(["a"]))
    failing(monkeypatch, "pwrite", lambda fd, data, at: os.pwrite(fd, data[:100], at))

    def no_truncation(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    appending.os.ftruncate = no_truncation
    with pytest.raises(AppendError, match="given up"):
        appender.append(events(["lost"]))
    monkeypatch.undo()
    second, row = appender.append(events(["b"]))
    assert (second != first, row) == (True, 0)
    assert ids_of(read_all(tail)) == ["a", "b"]


def test_a_full_disk_at_rotation_keeps_the_old_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path, segment_bytes=600)
    appender = log.appender(EVENTS, writer="w")
    first, _ = appender.append(events(["a", "b", "c"]))

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    failing(monkeypatch, "open", no_space)
    assert appender.append(events(["d"])) == (first, 3)
    monkeypatch.undo()
    monkeypatch.setattr(appending, "_RETRY_ROTATION_NS", 0)
    appender._no_rotation_before_ns = 0
    assert appender.append(events(["e"]))[1] == 0
    assert ids_of(read_all(log.tail(EVENTS))) == list("abcde")


def test_a_gateway_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    log.appender("outcomes", writer="w").close()

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    failing(monkeypatch, "open", no_space)
    appender = log.appender(EVENTS, writer="w")
    with pytest.raises(AppendError, match="full"):
        appender.append(events(["a"]))
    appender.beat()
    appender.sync()
    monkeypatch.undo()
    appender.append(events(["b"]))
    assert ids_of(log.tail(EVENTS).poll(9)) == ["b"]


def test_a_failed_sync_is_told_and_the_file_not_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    first, _ = appender.append(events(["a"]))

    def no_sync(fd: int) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(appending, "sync_data", no_sync)
    with pytest.raises(LogError, match="disk"):
        appender.sync()
    assert appender.append(events(["b"]))[0] != first
    assert ids_of(read_all(log.tail(EVENTS))) == ["a", "b"]


def test_a_torn_tail_waits_for_the_writer_and_is_final_without_it(tmp_path: Path) -> None:
    found: list[tuple[str, int]] = []
    log = SegmentLog(tmp_path, on_set_aside=lambda stream, size: found.append((stream, size)))
    appender = log.appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    tail = log.tail(EVENTS)
    (path,) = files(tmp_path)
    whole = path.stat().st_size
    appender.append(events(["b"]))
    data = path.read_bytes()
    os.truncate(path, whole + 100)
    assert ids_of(tail.poll(9)) == ["a"]
    assert tail.poll(9) == []
    assert found == []
    path.write_bytes(data)  # the write goes on
    assert ids_of(tail.poll(9)) == ["b"]
    os.truncate(path, len(data) - 1)
    late = log.tail(EVENTS)
    kill(appender)
    with capture_logs() as lines:
        assert ids_of(read_all(late)) == ["a"]
    assert found == [(EVENTS, len(data) - 1 - whole)]
    (line,) = lines
    assert (line["log_level"], line["offset"], line["bytes"]) == ("warning", whole, len(data) - 1 - whole)
    assert line["file"] == str(path)


def test_what_a_writer_wrote_last_is_read_although_it_is_found_gone_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    tail = log.tail(EVENTS)
    assert ids_of(tail.poll(9)) == ["a"]

    def appends_and_goes(fd: int) -> bool:
        appender.append(events(["b"]))
        monkeypatch.undo()
        kill(appender)
        return True

    monkeypatch.setattr(reading, "writer_gone", appends_and_goes)
    assert ids_of(read_all(tail)) == ["b"]
    assert tail.poll(9) == []


def test_a_segment_is_seen_although_the_time_of_its_folder_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailing, "_RACY_SECONDS", 60)
    log = SegmentLog(tmp_path)
    log.appender(EVENTS, writer="w").append(events(["a"]))
    tail = log.tail(EVENTS)
    assert ids_of(tail.poll(9)) == ["a"]
    before = (tmp_path / "events").stat().st_mtime_ns
    log.appender(EVENTS, writer="w").append(events(["b"]))
    os.utime(tmp_path / "events", ns=(before, before))
    assert ids_of(tail.poll(9)) == ["b"]


def test_rows_in_a_hole_are_gone_by_the_next_frame(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    segment, _ = appender.append(events(["a"]))
    (path,) = files(tmp_path)
    start = path.stat().st_size
    appender.append(events(["b", "c"], sampled=np.array([True, False])))
    end = path.stat().st_size
    appender.append(events(["d"]))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * (end - start))
    for tail in (log.tail(EVENTS), log.tail(EVENTS, {segment: 1}), log.tail(EVENTS, {segment: 2})):
        done = tail.position().get(segment, 0)
        items = tail.poll(9)
        lost = next(item for item in items if isinstance(item, Gone))
        first = max(done, 1)
        assert lost == Gone(segment, first, 3 - first, 3 - first)
        assert ids_of(items) == ["d"] if done else ["a", "d"]
        assert tail.position() == {segment: 4}


def test_a_damaged_segment_header_costs_nothing(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    (path,) = files(tmp_path)
    with path.open("r+b") as file:
        file.write(os.urandom(256))
    assert ids_of(log.tail(EVENTS).poll(9)) == ["a"]


def test_frames_of_another_segment_are_no_frames(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    one, two = (log.appender(EVENTS, writer=f"w{i}") for i in range(2))
    one.append(events(["a"]))
    two.append(events(["b"]))
    kill(one)
    source, target = files(tmp_path)
    if b"CUST-a" not in source.read_bytes():
        source, target = target, source
    with source.open("ab") as file:
        file.write(target.read_bytes()[256:])
    assert sorted(ids_of(read_all(log.tail(EVENTS)))) == ["a", "b"]


def test_a_long_hole_is_looked_through_in_pieces(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    segment, _ = appender.append(events(["a"]))
    appender._segment.offset += 100 * 2**20  # as a loss of power leaves a file: length without content
    appender._segment.row += 5
    appender.append(events(["b"]))
    tail = log.tail(EVENTS)
    tracemalloc.start()
    items = read_all(tail)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ids_of(items) == ["a", "b"]
    assert items[1] == Gone(segment, 1, 5, 5)
    assert peak < 2**21


def test_a_position_inside_a_frame_is_refused(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    segment, _ = log.appender(EVENTS, writer="w").append(events(["a", "b"]))
    with pytest.raises(LogError, match="inside a frame"):
        log.tail(EVENTS, {segment: 1}).poll(9)


def test_unfinished_and_foreign_files_are_not_read(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.appender(EVENTS, writer="w").append(events(["a"]))
    (path,) = files(tmp_path)
    path.with_suffix(".new").write_bytes(path.read_bytes())
    (path.parent / "notes.seg").write_text("hello")
    (path.parent / "README").write_text("hello")
    assert ids_of(read_all(log.tail(EVENTS))) == ["a"]


def test_a_file_that_vanishes_is_read_to_its_end_if_open(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=300)
    appender = log.appender(EVENTS, writer="w")
    for number in range(6):
        appender.append(events([str(number)] * 2))
    tail = log.tail(EVENTS)
    assert ids_of(tail.poll(1)) == ["0", "0"]
    _, opened, waiting, following, *_ = files(tmp_path)
    for path in (opened, waiting):
        path.unlink()
    assert ids_of(read_all(tail)) == [str(n) for n in (1, 3, 4, 5) for _ in range(2)]
    assert SegmentName.parse(waiting.name).segment not in tail.position()
    assert SegmentName.parse(following.name).segment in tail.position()


def test_a_folder_may_come_and_go(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    tail = log.tail(EVENTS)
    assert (tail.poll(9), tail.backlog(), tail.skip(9), tail.poll_ordered(9)) == ([], 0, [], [])
    log.appender(EVENTS, writer="w").append(events(["a"]))
    assert ids_of(tail.poll(9)) == ["a"]
    for path in files(tmp_path):
        path.unlink()
    (tmp_path / "events").rmdir()
    assert tail.poll(9) == []


def test_a_long_backlog_holds_few_files_open(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=300)
    appender = log.appender(EVENTS, writer="w")
    for number in range(200):
        appender.append(events([str(number)]))
    before = psutil.Process().num_fds()
    tail = log.tail(EVENTS)
    assert tail.backlog() == 200
    seen = ids_of(tail.poll(50))
    assert psutil.Process().num_fds() <= before + 2
    assert seen + ids_of(read_all(tail)) == [str(number) for number in range(200)]


def test_boots_are_numbered_in_order(tmp_path: Path) -> None:
    assert boot_counter(tmp_path, "aaaa") == 1
    assert boot_counter(tmp_path, "bbbb") == 2
    assert boot_counter(tmp_path, "aaaa") == 1
    assert boot_counter(tmp_path, "cccc") == 3
    (tmp_path / ".boots" / "00000004-bbbb").touch()  # lost a race
    assert boot_counter(tmp_path, "bbbb") == 2
    assert len(kernel_boot_id()) == 32


def test_an_earlier_boot_comes_first_whatever_its_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for boot, start in (("1", 900), ("2", 5), ("3", 500)):
        clock = iter(range(start * 10**9, (start + 1) * 10**9))
        monkeypatch.setattr("shadow_mlops.eventlog.segments.kernel_boot_id", lambda boot=boot: boot * 8)
        monkeypatch.setattr("time.monotonic_ns", lambda clock=clock: next(clock))
        appender = SegmentLog(tmp_path).appender(EVENTS, writer="w")
        for number in range(3):
            appender.append(events([f"{boot}-{number}"]))
            expected.append(f"{boot}-{number}")
        appender.close()
    monkeypatch.undo()
    assert ids_of(read_all(SegmentLog(tmp_path).tail(EVENTS), 2)) == expected


def test_times_grow_even_if_the_clock_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    monkeypatch.setattr("time.monotonic_ns", lambda: 10**9)
    appender = log.appender(EVENTS, writer="w")
    for number in range(3):
        appender.append(events([str(number)]))
    times = [frame.monotonic_ns for frame in log.tail(EVENTS).poll(9)]
    assert times == sorted(set(times))


@pytest.mark.parametrize("stream", ["", "../etc", "a/b/c", "/etc", "a//b", ".boots", "a b"])
def test_stream_names_cannot_leave_the_folder(tmp_path: Path, stream: str) -> None:
    with pytest.raises(LogError):
        SegmentLog(tmp_path).tail(stream)
