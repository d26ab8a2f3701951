"""The monitor's part: when it archives, what it tells, and which segments may go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lakelogs import Writing, archiver, contents
from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EVENTS, OUTCOMES
from shadow_mlops.eventlog.retention import Retention, SegmentInfo
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.monitor.archiving import Archiving
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.loop import Monitor
from shadow_mlops.monitor.publishing import Publisher
from shadow_mlops.monitor.retention import Limits, Retainer, choose
from shadow_mlops.monitor.state import MonitorState
from shadow_mlops.telemetry.metrics import open_metrics

DAY = 86_400.0


class Host:
    """A log on disk and its monitor, on a clock of its own."""

    def __init__(self, folder: Path, max_bytes: int = 10**9) -> None:
        self.folder = folder
        self.log = SegmentLog(folder / "log", segment_bytes=4000)
        self.writing = Writing(self.log)
        self.metrics = open_metrics()
        self.clock = 0.0
        publisher = Publisher(folder / "accounting.json", self.metrics)
        ledger = Ledger(self.log, MonitorState())
        self.archiver = archiver(self.log, folder / "lake", rows=50)
        archiving = Archiving(self.archiver, publisher, clock=lambda: self.clock)
        self.retention = Retention(folder / "log")
        retainer = Retainer(
            self.retention,
            ledger,
            Limits(max_bytes, DAY),
            removed=publisher.removed,
            unarchived=archiving.unarchived,
            lost=publisher.lost,
        )
        self.monitor = Monitor(
            ledger, retainer, publisher, path=folder / "state.json", serving=lambda: (), archiving=archiving
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_metrics_tell_what_the_lake_has_and_what_it_has_not(host: Host) -> None:
    span = host.writing.answer(40)
    host.writing.shadow([span])
    host.writing.happen([("r0", None, "1"), ("r0", None, "1"), ("r1", None, "0"), ("r2", None, "?"), ("x", None, "1")])
    host.writing.close()
    host.monitor.archive()
    host.monitor.round()
    assert host.value("shadow_lake_archived_rows", table="events") == 40
    assert host.value("shadow_lake_lag_rows", stream=OUTCOMES) == 5
    for _ in range(4):
        host.clock += 5.0
        host.monitor.archive()
    host.monitor.round()
    assert host.value("shadow_lake_lag_rows", stream=OUTCOMES) == 0
    assert host.value("shadow_lake_rows", table="pairs") == 2
    assert host.value("shadow_lake_files", table="events") == 1
    found = {
        name: host.value("shadow_lake_outcomes", verdict=name)
        for name in ("joined", "repeated", "invalid", "unmatched")
    }
    assert found == {"joined": 2, "repeated": 1, "invalid": 1, "unmatched": 1}


def test_a_lake_that_cannot_be_written_is_told_once_and_the_rest_goes_on(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.writing.answer(5)
    host.writing.close()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("shadow_mlops.lake.changes.replace_durably", full)
        for _ in range(3):
            host.clock += 5.0
            host.monitor.archive()
            host.monitor.round()
    errors = [each for each in logs if each["log_level"] == "error"]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]["problem"]
    assert host.value("shadow_lake_failing") == 1
    assert host.value("shadow_log_rows", stream=EVENTS) == 5
    assert host.value("shadow_lake_lag_rows", stream=EVENTS) == 5
    host.clock += 5.0
    host.monitor.archive()
    assert host.value("shadow_lake_failing") == 0
    assert len(contents(host.folder / "lake")["events"]) == 5


def test_the_lag_of_an_archive_that_fails_grows_and_what_is_not_known_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "manifest.json").write_text("{")
    host = Host(tmp_path)
    lags = []
    for _ in range(3):
        host.writing.answer(5)
        host.clock += 5.0
        host.monitor.archive()
        host.monitor.round()
        lags.append(host.value("shadow_lake_lag_rows", stream=EVENTS))
    assert lags == [5, 10, 15]
    assert host.value("shadow_lake_failing") == 1
    assert host.value("shadow_lake_rows", table="events") is None


def test_nothing_is_archived_more_often_than_due(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    sizes = [20_000, 20_000, 10, 0]
    monkeypatch.setattr(host.archiver, "round", lambda: (rounds.append(1), sizes.pop(0))[1])
    for _ in range(3):
        host.monitor.archive()  # a backlog is worked off at once
    assert len(rounds) == 3
    host.clock += 4.0
    host.monitor.archive()
    assert len(rounds) == 3
    host.clock += 1.5
    host.monitor.archive()
    assert len(rounds) == 4


def test_what_is_archived_goes_first_and_hard_limits_win() -> None:
    infos = [_info(1), _info(2), _info(3)]
    ages = {1: 30.0, 2: 20.0, 3: 10.0}

    def gone(limit: int, **given) -> list[int]:
        removals = choose(infos, Limits(limit, DAY), ages, free=lambda _: True, passed=lambda _: True, **given)
        return [removal.info.segment for removal in removals]

    assert gone(80, archived=lambda info: info.segment != 1) == [2, 3]
    assert gone(50, archived=lambda info: info.segment != 1) == [2, 3, 1]
    assert gone(80) == [1, 2]


def test_a_log_that_cannot_be_archived_stays_below_its_bytes_and_tells_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, max_bytes=40_000)

    def broken() -> int:
        raise LakeError("the lake is gone")

    with monkeypatch.context() as patch:
        patch.setattr(host.archiver, "round", broken)
        for _ in range(60):
            host.writing.answer(20)
            host.clock += 5.0
            host.monitor.archive()
            host.monitor.round()
            used = sum(file.stat().st_size for file in (tmp_path / "log").rglob("*.seg"))
            assert used <= 40_000
    lost = host.value("shadow_lake_lost_rows_total", stream=EVENTS)
    assert lost
    tombstones = [info for info in host.retention.segments(EVENTS) if info.state == "retired"]
    assert sum(info.rows for info in tombstones) == lost, "the archive must learn what it has missed"
    host.writing.close()
    for _ in range(40):
        host.clock += 5.0
        host.monitor.archive()
    counts = host.archiver.manifest.counts
    assert counts["events"] + counts.get("lost_events", 0) >= 1200 - lost
    assert len(contents(tmp_path / "lake")["events"]) == counts["events"] == 1200 - lost


def _info(segment: int) -> SegmentInfo:
    return SegmentInfo(
        stream=EVENTS,
        segment=segment,
        state="sealed",
        bytes=50,
        rows=1,
        sampled=1,
        created_us=int(time.time() * 1e6),
        writer="w",
        boot=1,
        monotonic_ns=1,
        path=Path(f"{segment}.seg"),
    )
