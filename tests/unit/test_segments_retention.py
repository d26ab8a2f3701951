"""Retention and syncing of the event log's files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from logrows import events, ids_of, read_all
from shadow_mlops.domain.errors import ConflictError, LogError
from shadow_mlops.domain.events import EVENTS, OUTCOMES
from shadow_mlops.eventlog import syncing
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.seam import Gone
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.eventlog.syncing import Syncer


def test_segments_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    retention = Retention(tmp_path)
    assert retention.segments() == []
    sealed, killed, live = (log.appender(EVENTS, writer=f"w{i}") for i in range(3))
    for number, appender in enumerate((sealed, killed, live)):
        for _ in range(number + 1):
            appender.append(events(["a", "b"], sampled=np.array([True, False])))
    sealed.close()
    os.close(killed._segment.fd)
    infos = {info.writer: info for info in retention.segments()}
    assert [(infos[f"w{i}"].state, infos[f"w{i}"].rows, infos[f"w{i}"].sampled) for i in range(3)] == [
        ("sealed", 2, 1),
        ("dead", 4, 2),
        ("live", 6, 3),
    ]
    assert retention.total_bytes() == sum(path.stat().st_size for path in tmp_path.glob("events/*"))
    live.append(events(["c"]))
    live.close()
    (info,) = [info for info in retention.segments(EVENTS) if info.writer == "w2"]
    assert (info.state, info.rows, info.sampled) == ("sealed", 7, 4)


def test_a_retired_segment_is_small_and_its_open_readers_read_on(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    retention = Retention(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    rng = np.random.default_rng(1)
    sampled = 0
    for number in range(500):
        mask = rng.random(2) < 0.1
        sampled += int(mask.sum())
        segment, _ = appender.append(events([f"{number}a", f"{number}b"], sampled=mask))
    appender.close()
    reading, late = log.tail(EVENTS), log.tail(EVENTS)
    first = reading.poll(1)
    (info,) = retention.segments()
    freed = retention.retire(info)
    (left,) = retention.segments()
    assert (left.state, left.rows, left.sampled, left.writer) == ("retired", 1000, sampled, "w")
    assert left.bytes == info.bytes - freed == info.path.stat().st_size < info.bytes / 100
    assert retention.total_bytes() == left.bytes
    assert len(ids_of(first + read_all(reading))) == 1000
    assert late.poll(1) == [Gone(segment, 0, 1000, sampled)]
    with pytest.raises(ConflictError):
        retention.retire(left)
    retention.forget(left)
    assert retention.segments() == []


def test_what_is_not_retired_is_not_forgotten_and_what_lives_is_not_retired(tmp_path: Path) -> None:
    retention = Retention(tmp_path)
    appender = SegmentLog(tmp_path).appender(EVENTS, writer="w")
    (info,) = retention.segments()
    with pytest.raises(ConflictError):
        retention.retire(info)
    appender.close()
    (info,) = retention.segments()
    with pytest.raises(ConflictError):
        retention.forget(info)


def test_a_full_disk_leaves_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    retention = Retention(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    appender.close()
    (info,) = retention.segments()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(LogError, match="full"):
            retention.retire(info)
    assert ids_of(log.tail(EVENTS).poll(9)) == ["a"]
    assert list(tmp_path.glob("**/*.new")) == []


def test_a_damaged_tombstone_still_tells_its_rows(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    retention = Retention(tmp_path)
    appender = log.appender(EVENTS, writer="w")
    segment, _ = appender.append(events(["a", "b"], sampled=np.array([True, False])))
    appender.close()
    (info,) = retention.segments()
    retention.retire(info)
    data = bytearray(info.path.read_bytes())
    data[256 + 56 + 20] ^= 255
    info.path.write_bytes(data)
    assert log.tail(EVENTS, {}).poll(9) == [Gone(segment, 0, 2, 1)]


def test_unfinished_files_of_killed_writers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    log.appender(EVENTS, writer="w")
    (path,) = tmp_path.glob("events/*.seg")
    left = path.with_suffix(".new")
    left.write_bytes(b"")
    retention = Retention(tmp_path)
    assert retention.remove_unfinished() == 0  # it could be one that is being made
    monkeypatch.setattr("shadow_mlops.eventlog.retention._UNFINISHED_NS", 0)
    assert retention.remove_unfinished() == 1
    assert (left.exists(), path.exists()) == (False, True)


def test_the_syncer_syncs_what_has_grown(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    syncer = Syncer(tmp_path)
    assert syncer.sync() == 0
    one, two = log.appender(EVENTS, writer="w"), log.appender(OUTCOMES, writer="w")
    assert syncer.sync() == 2
    assert syncer.sync() == 0
    one.append(events(["a"]))
    assert syncer.sync() == 1
    one.append(events(["a"]))
    one.close()
    assert syncer.sync() == 1
    two.close()
    assert syncer.sync() == 1
    assert syncer.sync() == 0


def test_a_file_that_cannot_be_synced_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SegmentLog(tmp_path).appender(EVENTS, writer="w")
    syncer = Syncer(tmp_path)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "disk")

    with monkeypatch.context() as patch:
        patch.setattr(syncing, "sync_data", fail)
        with pytest.raises(LogError, match="disk"):
            syncer.sync()
    assert syncer.sync() == 1
