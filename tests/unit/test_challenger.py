"""The challenger on a log in memory, with real scorer processes whose model does what the rows order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

import planted_challenger as planted
from shadow_mlops.challenger import championside
from shadow_mlops.challenger.championside import ChampionSide
from shadow_mlops.challenger.consumer import Consumer, Policy
from shadow_mlops.challenger.reporting import Heartbeat, Reporter
from shadow_mlops.challenger.scorer import Limits, ScorerProcess
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.domain.errors import AppendError
from shadow_mlops.domain.events import EVENTS, Status, results_stream
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.telemetry.metrics import open_metrics
from shadowing import SCHEMA, counted, event_rows, events, fates, result_frames


class Bench:
    """A challenger under test and the log between it and the test."""

    def __init__(self, folder: Path, **policy: int) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.appender = self.log.appender(EVENTS, writer="gateway-0")
        self.wanted: Path | None = planted.prepare(folder / "models")
        self.champion: Path | None = None
        self.stop = False
        self.metrics = open_metrics()
        self.batch_seconds = 0.5
        self.memory_mb = 1000
        self.load_seconds = 30.0
        self.policy = Policy("d", "c", **{"batch_rows": 64, "max_lag": 100_000, **policy})
        self.consumers: list[Consumer] = []
        self.started: list[ScorerProcess] = []

    def consumer(self) -> Consumer:
        reporter = Reporter(self.folder / "beat.json", self.metrics, challenger="c")
        consumer = Consumer(
            self.log,
            self.policy,
            seat=Seat(self._start, replaced=reporter.replaced),
            champion=ChampionSide(Seat(self._start, replaced=reporter.replaced), lambda: self.champion),
            reporter=reporter,
            wanted=lambda: self.wanted,
            stopping=lambda: self.stop,
        )
        self.consumers.append(consumer)
        return consumer

    def _start(self, directory: Path) -> ScorerProcess:
        limits = Limits(self.batch_seconds, self.load_seconds, self.memory_mb * 2**20)
        self.started.append(ScorerProcess(directory, limits=limits, loader=planted.LOADER))
        return self.started[-1]

    def send(self, *values: float, sampled: list[bool] | None = None) -> None:
        self.appender.append(events(values, sampled=sampled))

    def work(self, consumer: Consumer, until: Callable[[], bool] | None = None) -> None:
        """Let it work until each event has a result, or until something else."""
        done = until or (lambda: fates(self.log, "c").keys() == event_rows(self.log))
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, f"not done after 60 s: {counted(self.log, 'c')}"
            if not consumer.step():
                time.sleep(0.002)

    def heartbeat(self) -> Heartbeat:
        return msgspec.json.decode((self.folder / "beat.json").read_bytes(), type=Heartbeat)

    def restarts(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "shadow_scorer_restarts_total", {"challenger": "c", "reason": reason}
            )
            or 0.0
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(planted.FOLDER))
    bench = Bench(tmp_path)
    yield bench
    for consumer in bench.consumers:
        consumer.close()


def test_each_sampled_event_gets_the_score_of_its_own_row(bench: Bench) -> None:
    consumer = bench.consumer()
    values = np.round(np.random.default_rng(1).random(300), 6)
    for start in range(0, 300, 7):
        chosen = [bool(i % 3) for i in range(start, min(start + 7, 300))]
        bench.send(*values[start : start + 7], sampled=chosen)
    bench.work(consumer)
    got = np.concatenate([batch.scores for batch in result_frames(bench.log, "c")])
    statuses = np.concatenate([batch.statuses for batch in result_frames(bench.log, "c")])
    kept = np.arange(300) % 3 != 0
    np.testing.assert_array_equal(got[kept, 1], values[kept])
    assert np.isnan(got[~kept]).all()
    assert (statuses[kept] == Status.PAIRED).all()
    assert (statuses[~kept] == Status.UNSAMPLED).all()
    assert len(result_frames(bench.log, "c")) < 43 / 4, "small frames were not joined into micro-batches"


def test_a_frame_larger_than_a_micro_batch_is_one_result_frame(bench: Bench) -> None:
    bench.send(*np.linspace(0, 1, 200))
    bench.work(bench.consumer())
    (batch,) = result_frames(bench.log, "c")
    np.testing.assert_array_equal(batch.scores[:, 1], np.linspace(0, 1, 200))


@pytest.mark.parametrize(
    ("order", "fate"),
    [(planted.RAISE, "errored"), (planted.ANSWER_NAN, "errored"), (planted.ANSWER_MISSHAPEN, "errored")],
)
def test_only_the_failing_rows_of_a_batch_are_errored(bench: Bench, order: float, fate: str) -> None:
    bench.send(*[0.5] * 20, order, *[0.25] * 10, order)
    bench.work(bench.consumer())
    assert counted(bench.log, "c") == {"paired": 30, fate: 2}
    (batch,) = result_frames(bench.log, "c")
    assert np.isfinite(batch.scores[batch.statuses == Status.PAIRED]).all()
    assert np.isnan(batch.scores[batch.statuses != Status.PAIRED]).all()
    assert len(bench.started) == 1, "a model that only raises needs no new process"


@pytest.mark.parametrize(
    ("order", "fate", "reason"),
    [(planted.HANG, "timed_out", "timeout"), (planted.CRASH, "errored", "died"), (planted.EXIT, "errored", "died")],
)
def test_a_scorer_that_hangs_or_dies_is_replaced_and_the_rest_is_scored(
    bench: Bench, order: float, fate: str, reason: str
) -> None:
    consumer = bench.consumer()
    bench.send(0.5, order, 0.5)
    bench.work(consumer)
    bench.send(0.5, 0.5)
    bench.work(consumer)
    assert counted(bench.log, "c") == {fate: 3, "paired": 2}
    assert bench.restarts(reason) == 1
    assert not psutil.pid_exists(bench.started[0].pid), "the old scorer lives on"


def test_a_leak_is_replaced_between_batches_at_the_cost_of_no_row(bench: Bench) -> None:
    bench.memory_mb, bench.batch_seconds = 250, 30.0
    consumer = bench.consumer()
    bench.send(planted.LEAK)
    bench.work(consumer)
    bench.work(consumer, lambda: bench.restarts("memory") == 1)
    bench.send(0.5)
    bench.work(consumer)
    assert counted(bench.log, "c") == {"paired": 2}


def test_a_leak_while_the_model_runs_costs_the_rows_of_that_batch(bench: Bench) -> None:
    bench.memory_mb, bench.batch_seconds = 250, 60.0
    consumer = bench.consumer()
    bench.send(planted.LEAK_AND_HANG)
    bench.work(consumer)
    assert counted(bench.log, "c") == {"errored": 1}
    assert bench.restarts("memory") == 1


def test_a_killed_scorer_between_batches_costs_no_row(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.send(0.5)
    bench.work(consumer)
    os.kill(bench.started[0].pid, signal.SIGKILL)
    bench.work(consumer, lambda: len(bench.started) == 2)
    bench.send(0.5)
    bench.work(consumer)
    assert counted(bench.log, "c") == {"paired": 2}


def test_a_crash_loop_does_not_spin(bench: Bench) -> None:
    consumer = bench.consumer()
    pauses = []
    for _ in range(4):
        bench.send(planted.CRASH)
        bench.work(consumer)
        pauses.append(consumer._seat._not_before - time.monotonic())
    assert bench.restarts("died") == 4
    assert pauses[3] > pauses[0]
    assert pauses[3] > 0.2, "the fourth pause is eight times the first"


def test_a_new_version_takes_over_and_each_result_names_the_one_that_scored(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.send(0.5)
    bench.work(consumer)
    bench.wanted = planted.prepare(bench.folder / "models", "2.0")
    sent = 1

    def swapped() -> bool:
        nonlocal sent
        bench.send(0.5)
        sent += 1
        return result_frames(bench.log, "c")[-1].schema.version == "2.0"

    bench.work(consumer, swapped)
    bench.work(consumer)
    versions = [batch.schema.version for batch in result_frames(bench.log, "c")]
    assert versions == sorted(versions)
    assert counted(bench.log, "c") == {"paired": sent}
    assert versions.count("1.0") > 1, "the old version stopped before the new one was ready"


@pytest.mark.parametrize("order", ["refuse", "hang"])
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_scoring(bench: Bench, order: str) -> None:
    consumer = bench.consumer()
    bench.send(0.5)
    bench.work(consumer)
    bench.load_seconds = 1.0
    bench.wanted = planted.prepare(bench.folder / "models", "2.0", order=order)
    bench.work(consumer, lambda: bench.restarts("load") >= 1)
    bench.send(0.5)
    bench.work(consumer)
    assert [batch.schema.version for batch in result_frames(bench.log, "c")] == ["1.0", "1.0"]
    bench.work(consumer, lambda: bench.heartbeat().status == "degraded")
    assert bench.heartbeat().version == "1.0"


def test_without_an_alias_it_waits_and_goes_on_when_it_is_back(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.send(0.5)
    bench.work(consumer)
    directory, bench.wanted = bench.wanted, None
    bench.work(consumer, lambda: bench.heartbeat().status == "idle")
    assert not psutil.pid_exists(bench.started[0].pid)
    bench.send(0.5)
    for _ in range(20):
        consumer.step()
    assert counted(bench.log, "c") == {"paired": 1}
    bench.work(consumer, lambda: bench.heartbeat().lag_seconds > 0)
    assert bench.heartbeat().lag_events == 1
    bench.wanted = directory
    bench.work(consumer)
    assert counted(bench.log, "c") == {"paired": 2}


def test_beyond_the_limit_the_oldest_frames_are_shed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(planted.FOLDER))
    bench = Bench(tmp_path, max_lag=100)
    for _ in range(50):
        bench.send(0.1, 0.2, 0.3, 0.4, 0.5, sampled=[True, True, False, True, False])
    consumer = bench.consumer()
    try:
        bench.work(consumer)
    finally:
        consumer.close()
    found = fates(bench.log, "c")
    assert list(found.values())[:150] == ["shed"] * 150, "the oldest go, and no more than needed"
    assert counted(bench.log, "c") == {"shed": 150, "paired": 60, "unsampled": 40}
    shed = [span for batch in result_frames(bench.log, "c") for span in batch.spans if span.shed]
    assert [(span.count, span.sampled) for span in shed] == [(150, 90)]


def test_events_pile_up_and_are_shed_while_no_model_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(planted.FOLDER))
    bench = Bench(tmp_path, max_lag=10)
    bench.wanted = planted.prepare(tmp_path, "broken", order="refuse")
    bench.send(*[0.5] * 5)
    for _ in range(20):
        bench.send(0.5)
    consumer = bench.consumer()
    try:
        bench.work(consumer, lambda: counted(bench.log, "c") == {"shed": 15})
    finally:
        consumer.close()


def test_rows_that_retention_removed_are_recorded_as_shed(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.send(0.5, 0.5)
    bench.work(consumer)
    unread = bench.log.appender(EVENTS, writer="gateway-1")
    segment, _ = unread.append(events([0.1] * 7, sampled=[True] * 4 + [False] * 3))
    unread.close()
    bench.log.retire(segment)
    bench.work(consumer, lambda: len(fates(bench.log, "c")) == 9)
    assert counted(bench.log, "c") == {"paired": 2, "shed": 7}
    assert [span.sampled for batch in result_frames(bench.log, "c") for span in batch.spans if span.shed] == [4]


def test_a_restart_goes_on_where_the_results_end(bench: Bench) -> None:
    first = bench.consumer()
    bench.send(0.1, 0.2)
    bench.work(first)
    bench.send(0.3)  # nobody has taken this one when the process dies
    second = bench.consumer()
    other = bench.log.appender(EVENTS, writer="gateway-1")
    other.append(events([0.4, 0.5]))
    bench.work(second)
    assert counted(bench.log, "c") == {"paired": 5}


def test_what_was_removed_before_the_first_start_is_never_counted(bench: Bench) -> None:
    old = bench.log.appender(EVENTS, writer="gateway-1")
    segment, _ = old.append(events([0.1] * 7))
    old.close()
    bench.log.retire(segment)
    bench.send(0.5)
    bench.work(bench.consumer(), lambda: len(fates(bench.log, "c")) == 1)
    bench.send(0.5)
    bench.work(bench.consumer(), lambda: len(fates(bench.log, "c")) == 2)
    assert counted(bench.log, "c") == {"paired": 2}


def test_results_that_the_log_refuses_are_kept_until_it_takes_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = bench.consumer()
    append, refusals = consumer._appender.append, 3

    def full(batch):
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise AppendError("no space left on device")
        return append(batch)

    monkeypatch.setattr(consumer._appender, "append", full)
    bench.send(0.1, 0.2)
    bench.work(consumer)
    assert refusals == 0
    assert counted(bench.log, "c") == {"paired": 2}


def test_asked_to_end_it_finishes_the_batch_in_work(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.work(consumer, lambda: consumer._seat.card is not None)
    bench.send(0.1)

    def stop_then_wanted() -> Path | None:
        bench.stop = True
        return bench.folder / "models" / "1.0"

    consumer._wanted = stop_then_wanted
    consumer._next_follow = 0.0
    assert consumer.step()
    consumer.run()
    assert counted(bench.log, "c") == {"paired": 1}


def test_a_batch_that_hangs_beyond_the_grace_is_left_for_the_next_start(bench: Bench) -> None:
    bench.batch_seconds = 60.0
    consumer = bench.consumer()
    bench.work(consumer, lambda: consumer._seat.card is not None)
    bench.send(planted.HANG)
    bench.stop = True
    consumer.step()
    assert result_frames(bench.log, "c") == []


def test_features_are_found_by_name_and_those_the_events_lack_are_missing() -> None:
    from shadow_mlops.challenger.binding import bind
    from shadow_mlops.domain.features import Feature, Signature

    batch = events([1.0, 2.0])
    batch.numbers[:, 1] = 7.0
    signature = Signature((Feature("new"), Feature("s", "string"), Feature("b"), Feature("a"), Feature("t", "string")))
    numbers, strings = bind(batch.schema, signature).columns(batch, np.array([False, True]))
    np.testing.assert_array_equal(numbers, [[np.nan, 7.0, 2.0]])
    assert strings.tolist() == [["text", None]]


def test_results_are_counted_by_fate_and_the_heartbeat_tells_version_and_lag(bench: Bench) -> None:
    consumer = bench.consumer()
    bench.send(0.5, planted.RAISE, 0.5, 0.5, sampled=[True, True, True, False])
    bench.work(consumer)
    value = bench.metrics.registry.get_sample_value
    by = {"challenger": "c", "version": "1.0"}
    assert value("shadow_results_total", {**by, "status": "paired"}) == 2
    assert value("shadow_results_total", {**by, "status": "errored"}) == 1
    who = {"model": "planted", "version": "1.0", "role": "challenger"}
    assert value("predictions_total", who) == 2
    assert value("prediction_latency_seconds_count", who) == 2
    bench.work(consumer, lambda: bench.heartbeat().version == "1.0" and bench.heartbeat().lag_events == 0)
    assert bench.heartbeat().lag_seconds == 0
    bench.stop = False
    assert results_stream("c") in bench.log.streams()


def test_what_this_challenger_answered_in_a_canary_step_the_champion_shadows(bench: Bench) -> None:
    bench.champion = planted.prepare(bench.folder / "models", "0.9")
    canary = msgspec.structs.replace(SCHEMA, model="planted", version="1.0", role="challenger")
    other = msgspec.structs.replace(canary, version="7.0")  # another challenger's canary: that one's business
    consumer = bench.consumer()
    for first in range(0, 60, 3):
        bench.send(*[first / 100, first / 100 + 0.001])
        bench.appender.append(events([first / 100 + 0.002], schema=canary))
        bench.appender.append(events([first / 100 + 0.003], schema=other))
    bench.work(consumer)
    assert counted(bench.log, "c") == {"paired": 80}
    by = {False: [], True: []}
    for batch in result_frames(bench.log, "c"):
        assert batch.schema.version == ("0.9" if batch.schema.swapped else "1.0")
        by[batch.schema.swapped] += batch.scores[:, 1].tolist()
    assert sorted(by[True]) == pytest.approx([first / 100 + 0.002 for first in range(0, 60, 3)])
    assert len(by[False]) == 60
    assert len(bench.started) == 2


def test_the_champions_scorer_is_only_taken_for_a_canary_and_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.champion = planted.prepare(bench.folder / "models", "0.9")
    consumer = bench.consumer()
    bench.send(0.5)
    bench.work(consumer)
    assert len(bench.started) == 1
    canary = msgspec.structs.replace(SCHEMA, model="planted", version="1.0", role="challenger")
    bench.appender.append(events([0.25], schema=canary))
    bench.work(consumer)
    assert len(bench.started) == 2
    monkeypatch.setattr(championside, "_IDLE", 0.0)
    bench.work(consumer, lambda: not psutil.pid_exists(bench.started[1].pid))
    bench.send(0.5)
    bench.work(consumer)
    assert counted(bench.log, "c") == {"paired": 3}
