"""Retention on real segment files: bytes stay below what is declared, and nothing that is needed goes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

import pytest

from shadow_mlops.challenger.recovery import recover_position
from shadow_mlops.domain.events import EVENTS, Span, Status, results_stream
from shadow_mlops.eventlog import Frame, Gone
from shadow_mlops.eventlog.retention import Retention, SegmentInfo
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.loop import Monitor
from shadow_mlops.monitor.publishing import Publisher
from shadow_mlops.monitor.retention import Limits, Retainer, age_of_segments, choose
from shadow_mlops.monitor.state import read_state
from shadow_mlops.telemetry.metrics import open_metrics
from shadowing import RESULTS, events, fates, results

SEGMENT = 8_000
DAY = 86_400.0


class Host:
    """A log on disk, its monitor, and a challenger driven by the test."""

    def __init__(self, folder: Path, *, max_bytes: int = 60_000, max_age: float = DAY) -> None:
        self.folder, self.limits = folder, Limits(max_bytes, max_age)
        self.log = SegmentLog(folder / "log", segment_bytes=SEGMENT)
        self.gateway = self.log.appender(EVENTS, writer="gateway-0")
        self.serving: set[str] = {"c"}
        self.start_monitor()

    def start_monitor(self) -> None:
        self.metrics = open_metrics()
        publisher = Publisher(self.folder / "published.json", self.metrics)
        self.ledger = Ledger(self.log, read_state(self.folder / "state.json"))
        self.retention = Retention(self.folder / "log")
        retainer = Retainer(self.retention, self.ledger, self.limits, removed=publisher.removed)
        self.monitor = Monitor(
            self.ledger, retainer, publisher, path=self.folder / "state.json", serving=lambda: self.serving
        )

    def start_challenger(self, name: str = "c") -> None:
        position = recover_position(self.log, name)
        self.tail = self.log.tail(EVENTS, position)
        self.results = self.log.appender(results_stream(name), writer=name)

    def shadow(self) -> None:
        for item in self.tail.poll(1_000_000):
            span = Span(item.segment, item.first, item.count, item.sampled, shed=isinstance(item, Gone))
            statuses = [Status.PAIRED] * item.count if isinstance(item, Frame) else []
            self.results.append(results([span], statuses, RESULTS))

    def used(self) -> int:
        return sum(file.stat().st_size for file in (self.folder / "log").rglob("*.seg"))

    def retained(self, stream: str = EVENTS) -> list[SegmentInfo]:
        return [info for info in self.retention.segments(stream) if info.state != "retired"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_log_stays_below_its_bytes_with_a_reader_that_stands_still(host: Host) -> None:
    host.start_challenger()
    host.gateway.append(events([0] * 10))
    host.shadow()
    sent = 10
    for _ in range(60):
        for _ in range(2):
            host.gateway.append(events([0] * 20))
            sent += 20
        host.monitor.round()
        assert host.used() <= host.limits.max_bytes
    assert len(host.retained()) < len(host.retention.segments(EVENTS)), "nothing was removed"
    totals = host.ledger.totals("c")
    assert (totals.sampled, totals.paired, totals.pending, totals.imbalance) == (sent, 10, sent - 10, 0)
    host.shadow()  # it runs again
    host.monitor.round()
    totals = host.ledger.totals("c")
    assert totals.shed > 0
    assert (totals.paired + totals.shed, totals.pending, totals.imbalance) == (sent, 0, 0)
    assert host.ledger.violations == 0
    for _ in range(3):
        host.monitor.round()
    assert host.retention.segments(EVENTS) == host.retained(), "tombstones outlived their readers"


def test_a_challenger_that_is_gone_has_no_metrics_until_it_is_back(host: Host) -> None:
    def told() -> set[str]:
        gauges = (host.metrics.accounting, host.metrics.shadow_lag_events, host.metrics.shadow_lag_seconds)
        samples = [sample for gauge in gauges for sample in gauge.collect()[0].samples]
        return {sample.labels["challenger"] for sample in samples if not math.isnan(sample.value)}

    host.start_challenger()
    host.gateway.append(events([0] * 10))
    host.shadow()
    host.monitor.round()
    assert told() == {"c"}
    host.serving = set()
    host.monitor.round()
    assert told() == {"c"}, "it has no version any more, and still runs"
    host.results.close()
    host.gateway.append(events([0] * 10))
    host.monitor.round()
    assert told() == set()
    assert host.ledger.totals("c").pending == 10, "its account is kept"
    host.serving = {"c"}
    host.monitor.round()
    assert told() == {"c"}


def test_what_all_have_read_goes_before_what_one_has_not(host: Host) -> None:
    infos = [_info(1, EVENTS, 50), _info(2, EVENTS, 50), _info(3, EVENTS, 50), _info(4, "outcomes", 10)]
    ages = {1: 40.0, 2: 30.0, 3: 20.0, 4: 35.0}
    gone = choose(infos, Limits(110, DAY), ages, free=lambda _: True, passed=lambda segment: segment != 1)
    assert [(removal.info.segment, removal.reason) for removal in gone] == [(4, "bytes"), (2, "bytes"), (3, "bytes")]
    gone = choose(infos, Limits(50, DAY), ages, free=lambda _: True, passed=lambda segment: segment != 1)
    assert [removal.info.segment for removal in gone] == [4, 2, 3, 1]


def test_old_segments_go_whoever_waits_for_them_and_living_ones_never() -> None:
    infos = [_info(1, EVENTS, 5), _info(2, EVENTS, 5, "live"), _info(3, EVENTS, 5), _info(4, EVENTS, 5, "dead")]
    gone = choose(
        infos, Limits(1000, DAY), {1: 2 * DAY, 2: 2 * DAY, 3: 0.5 * DAY, 4: 3 * DAY},
        free=lambda _: True, passed=lambda _: False,
    )  # fmt: skip
    assert [(removal.info.segment, removal.reason) for removal in gone] == [(1, "age"), (4, "age")]


def test_a_step_of_the_wall_clock_makes_no_segment_older(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic_ns()
    infos = [_info(1, EVENTS, 5, boot=2, monotonic_ns=now - 10**9), _info(2, EVENTS, 5, boot=1)]
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall + 400 * DAY)
    ages = age_of_segments(infos)
    assert 1 <= ages[1] < 60
    assert ages[2] > 300 * DAY, "of another boot only the wall clock tells"


def test_results_stay_as_long_as_anything_is_left_of_their_events(host: Host) -> None:
    host.start_challenger()
    for _ in range(80):
        host.gateway.append(events([0] * 20))
        host.shadow()
        host.monitor.round()
        retained = {(info.segment, row) for info in host.retained() for row in range(info.rows)}
        assert retained <= fates(host.log, "c").keys()
    assert len(host.retention.segments(results_stream("c"))) < 80
    # A restart neither repeats nor loses any of them.
    host.results.close()
    host.start_challenger()
    assert host.tail.backlog() == 0
    host.gateway.append(events([0] * 7))
    host.shadow()
    host.monitor.round()
    totals = host.ledger.totals("c")
    assert (totals.sampled, totals.paired, totals.imbalance) == (1607, 1607, 0)
    assert host.ledger.violations == 0


def test_result_segments_do_go_in_the_end(tmp_path: Path) -> None:
    host = Host(tmp_path, max_bytes=30_000)
    host.start_challenger()
    for _ in range(400):
        host.gateway.append(events([0] * 20))
        host.shadow()
        host.monitor.round()
        assert host.used() <= host.limits.max_bytes
    value = host.metrics.registry.get_sample_value
    removed = value("shadow_log_segments_removed_total", {"stream": results_stream("c"), "reason": "bytes"})
    assert removed
    assert host.ledger.totals("c").imbalance == 0
    assert len(host.ledger.state.segments) < 20, "the books keep what is forgotten"
    assert len(host.ledger.state.references[results_stream("c")]) < 20


def test_a_monitor_that_dies_anywhere_in_its_round_counts_nothing_twice(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    host.start_challenger()
    sent = 0
    for i in range(120):
        host.gateway.append(events([0] * 20, sampled=[True] * 15 + [False] * 5))
        sent += 15
        if i % 3 == 0:
            for item in host.tail.poll(50):
                span = Span(item.segment, item.first, item.count, item.sampled, shed=isinstance(item, Gone))
                paired = [Status.PAIRED] * item.sampled + [Status.UNSAMPLED] * (item.count - item.sampled)
                host.results.append(results([span], paired if isinstance(item, Frame) else []))
        victim, name = [
            (host.retention, "retire"), (host.retention, "forget"), (host.ledger, "read"), (os, "replace"),
            (host.ledger, "_check"),
        ][i % 5]  # fmt: skip
        if i % 2:
            real = getattr(victim, name)

            def killed(*args, _real=real):
                _real(*args)
                raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(victim, name, killed)
                if i % 4 == 1:
                    host.monitor._next_save = 0.0
                with contextlib.suppress(Killed):
                    host.monitor.round()
            host.ledger.close()
            host.start_monitor()
        host.monitor.round()
        totals = host.ledger.totals("c")
        assert (totals.sampled, totals.imbalance) == (sent, 0)
    assert host.ledger.violations == 0
    assert len(host.retained()) < len(host.retention.segments(EVENTS)) or totals.shed


def test_a_challenger_that_was_given_up_holds_nothing_any_more(tmp_path: Path) -> None:
    host = Host(tmp_path, max_age=0.2)
    host.start_challenger()
    host.gateway.append(events([0] * 20))
    host.shadow()
    host.results.close()
    host.monitor.round()
    assert "c" in host.ledger.state.accounts
    host.serving = set()
    time.sleep(0.3)
    host.monitor.round()
    host.monitor.round()
    assert host.ledger.state.accounts == {}
    assert host.retention.segments(results_stream("c")) == []


def test_what_is_not_saved_is_not_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shadow_mlops.monitor.loop.replace_durably", full)
    for _ in range(60):
        host.gateway.append(events([0] * 20))
        host.monitor.round()
    assert len(host.retained()) == len(host.retention.segments(EVENTS))
    assert host.used() > host.limits.max_bytes


def _info(
    segment: int, stream: str, size: int, state: str = "sealed", *, boot: int = 1, monotonic_ns: int = 1 << 62
) -> SegmentInfo:
    return SegmentInfo(
        stream=stream,
        segment=segment,
        state=state,  # type: ignore[arg-type]
        bytes=size,
        rows=1,
        sampled=1,
        created_us=int(time.time() * 1e6),
        writer="w",
        boot=boot,
        monotonic_ns=monotonic_ns,
        path=Path(f"{segment}.seg"),
    )
