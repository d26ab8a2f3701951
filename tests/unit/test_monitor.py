"""The books of the monitor: conserved, independent of what challengers say, exact across restarts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from shadow_mlops.domain.events import EVENTS, Span, Status, results_stream
from shadow_mlops.durable import replace_durably
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.monitor.account import Totals
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.publishing import accounting
from shadow_mlops.monitor.repeats import RepeatedIds
from shadow_mlops.monitor.sampleindex import SampleIndex
from shadow_mlops.monitor.state import MonitorState, read_state
from shadowing import RESULTS, SCHEMA, events, results

P, T, E, U = Status.PAIRED, Status.TIMED_OUT, Status.ERRORED, Status.UNSAMPLED


class Books:
    """A log, one gateway and one challenger that says whatever the test wants."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.gateway = self.log.appender(EVENTS, writer="gateway-0")
        self.challenger = self.log.appender(results_stream("c"), writer="c")
        self.ledger = Ledger(self.log, MonitorState())

    def restart(self) -> None:
        saved = msgspec.json.decode(msgspec.json.encode(self.ledger.state), type=MonitorState)
        self.ledger.close()
        self.ledger = Ledger(self.log, saved)

    def read(self) -> Totals:
        self.ledger.read()
        return self.ledger.totals("c")


@pytest.fixture
def books() -> Books:
    return Books()


def test_every_fate_is_counted_and_the_rest_is_pending(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 4, sampled=[True, True, True, False]))
    books.gateway.append(events([0] * 3))
    books.gateway.append(events([0] * 2))
    books.challenger.append(results([Span(segment, 0, 4, 3), Span(segment, 4, 3, 3, shed=True)], [P, T, E, U]))
    assert books.read() == Totals(sampled=8, paired=1, timed_out=1, errored=1, shed=3, pending=2)
    assert books.ledger.violations == 0
    assert books.ledger.lag("c").events == 2


def test_a_result_that_is_written_twice_breaks_conservation(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 2))
    books.gateway.append(events([0] * 5))
    books.challenger.append(results([Span(segment, 0, 2, 2)], [P, P]))
    assert books.read().imbalance == 0
    books.challenger.append(results([Span(segment, 0, 2, 2)], [P, P]))
    assert books.read().imbalance == -2
    assert books.ledger.violations == 1


def test_events_that_are_passed_over_break_conservation(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 2))
    books.gateway.append(events([0] * 3))
    books.challenger.append(results([Span(segment, 2, 3, 3)], [P, P, P]))
    assert books.read().imbalance == 2
    assert books.ledger.violations == 1


def test_a_wrong_count_of_sampled_rows_is_found(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 4, sampled=[True, True, False, False]))
    books.challenger.append(results([Span(segment, 0, 4, 3)], [P, P, P, U]))
    assert books.read().imbalance == -1
    assert books.ledger.violations == 1


def test_restarts_at_any_moment_keep_the_totals_exact(books: Books) -> None:
    segment, done, expected = 0, 0, Totals(0, 0, 0, 0, 0, 0)
    for i in range(12):
        segment, _ = books.gateway.append(events([0] * 3, sampled=[True, False, True]))
        if i % 4 == 3:  # the challenger catches up in steps, so that restarts fall in the middle of segments
            rows = 3 * (i + 1) - done - 3
            statuses = [P, U, P] * (rows // 3)
            books.challenger.append(results([Span(segment, done, rows, 2 * rows // 3)], statuses))
            done += rows
        if i % 2:
            books.restart()
        got = books.read()
        assert got.imbalance == 0
        expected = Totals(2 * (i + 1), 2 * done // 3, 0, 0, 0, 2 * (i + 1) - 2 * done // 3)
        assert got == expected
    assert books.ledger.violations == 0
    assert books.ledger.state.events == 36


def test_a_challenger_that_comes_later_is_counted_from_the_oldest_retained_event(books: Books) -> None:
    old = books.log.appender(EVENTS, writer="gateway-1")
    removed, _ = old.append(events([0] * 5))
    old.close()
    segment, _ = books.gateway.append(events([0] * 4, sampled=[True, True, True, False]))
    books.challenger.append(results([Span(removed, 0, 5, 5), Span(segment, 0, 4, 3)], [P] * 8 + [U]))
    books.read()
    books.ledger.state.segments[removed].retired = True
    books.log.retire(removed)
    late = books.log.appender(results_stream("late"), writer="late")
    books.ledger.read()
    assert books.ledger.totals("late") == Totals(3, 0, 0, 0, 0, 3)
    late.append(results([Span(segment, 0, 4, 3)], [P, E, P, U], RESULTS))
    books.ledger.read()
    assert books.ledger.totals("late") == Totals(3, 2, 0, 1, 0, 0)
    assert books.read() == Totals(8, 8, 0, 0, 0, 0)
    assert books.ledger.violations == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_removed_segment_ends_in_the_books_as_shed(books: Books, restarted: bool) -> None:
    old = books.log.appender(EVENTS, writer="gateway-1")
    segment, _ = old.append(events([0] * 4, sampled=[True, False, True, False]))
    old.append(events([0] * 6, sampled=[True] * 5 + [False]))
    old.close()
    books.challenger.append(results([Span(segment, 0, 4, 2)], [P, U, P, U]))
    books.read()
    books.ledger.state.segments[segment].retired = True
    books.log.retire(segment)
    if restarted:
        books.restart()
    assert books.read() == Totals(7, 2, 0, 0, 0, 5)
    assert not books.ledger.passed(segment)
    books.challenger.append(results([Span(segment, 4, 6, 5, shed=True)], []))
    assert books.read() == Totals(7, 2, 0, 0, 5, 0)
    assert books.ledger.passed(segment)
    books.ledger.close_segment(segment)
    books.log.forget(segment)
    books.restart()
    assert books.read() == Totals(7, 2, 0, 0, 5, 0)
    assert books.ledger.violations == 0


def test_the_age_of_the_oldest_pending_event_is_the_lag(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 2, age=500))
    books.gateway.append(events([0] * 2, age=100))
    books.challenger.append(results([Span(segment, 0, 2, 2)], [P, P]))
    books.read()
    assert 100 <= books.ledger.lag("c").seconds < 110
    books.challenger.append(results([Span(segment, 2, 2, 2)], [P, P]))
    books.read()
    assert books.ledger.lag("c").seconds == 0


def test_what_is_published_has_the_contract_s_names(books: Books) -> None:
    segment, _ = books.gateway.append(events([0] * 2))
    books.challenger.append(results([Span(segment, 0, 2, 2)], [P, E]))
    books.read()
    published = msgspec.to_builtins(accounting(books.ledger))
    assert published["events"] == 2
    assert published["challengers"]["c"] == {
        "version": "c-1", "sampled": 2, "paired": 1, "timed_out": 0, "shed": 0, "errored": 1, "pending": 0,
        "lag_events": 0, "lag_seconds": 0.0,
    }  # fmt: skip
    assert books.ledger.state.versions == {"champion-1": 2, "c-1": 1}


def test_versions_that_nobody_registered_are_counted_up_to_a_bound_and_registered_ones_always(books: Books) -> None:
    for number in range(1100):
        foreign = msgspec.structs.replace(SCHEMA, version=f"build-{number}", registry_version="")
        books.gateway.append(events([0] * 2, schema=foreign))
    segment, _ = books.gateway.append(events([0]))
    books.challenger.append(results([Span(segment, 0, 2, 2)], [P, P]))
    with capture_logs() as logs:
        books.read()
        books.restart()
        books.read()
    versions = books.ledger.state.versions
    assert len(versions) == 1003
    assert versions["build-0"] == versions["build-999"] == 2
    assert (versions["__other__"], versions["champion-1"], versions["c-1"]) == (200, 1, 2)
    assert [each["first"] for each in logs if "too many versions" in each["event"]] == ["build-1000"]


def test_repeated_request_ids_are_counted_within_a_bounded_window() -> None:
    seen = RepeatedIds(window=1000)
    assert seen.count(f"r{i}" for i in range(1000)) == 0
    assert seen.count(["r999", "r999", "r1"]) == 2
    assert seen.count(f"s{i}" for i in range(1000)) == 0
    assert len(seen._young) + len(seen._old) <= 1000


def test_the_index_answers_only_what_it_knows() -> None:
    index = SampleIndex(10, 4)
    index.add(10, 5, 0, at=None)
    index.add(15, 5, 5, at=1.0)
    index.add(20, 4, 2, at=2.0)
    assert [index.before(row) for row in (9, 10, 13, 15, 17, 20, 22, 24, 25)] == [
        None, 4, 4, 4, 6, 9, None, 11, None,
    ]  # fmt: skip
    assert index.happened(14) is None
    assert index.happened(23) == 2.0


def test_long_runs_of_wholly_sampled_frames_cost_no_memory() -> None:
    index = SampleIndex()
    for row in range(100_000):
        index.add(row, 1, 1, at=row / 100_000)
    assert len(index._ends) == 2
    assert len(index._mark_rows) == 1
    assert index.before(77_777) == 77_777


def test_a_damaged_state_is_set_aside_and_counting_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "accounting.json"
    assert read_state(path) == MonitorState()
    replace_durably(path, msgspec.json.encode(MonitorState(events=7)))
    assert read_state(path).events == 7
    path.write_bytes(b'{"events": 7')
    assert read_state(path) == MonitorState()
    assert (tmp_path / "accounting.damaged").read_bytes() == b'{"events": 7'
