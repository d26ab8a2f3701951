"""Cohorts close at a place of the log that no timing moves, and each entity gives one value."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gatelogs import CANARY, HOUR_US, START_US, Hours
from lakelogs import archiver
from shadow_mlops.comparison.cohorts import Cohort, Matchup, first_cohort, next_cohort
from shadow_mlops.comparison.units import differences, labelled, service, units_of
from shadow_mlops.domain.deployment import Duration, Labels
from shadow_mlops.domain.events import Status
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect

MATCHUP = Matchup(champion="champion-1", challenger="c-1", cohort_us=HOUR_US, delay_us=5 * HOUR_US)
FIRST = START_US // HOUR_US
LABELS = Labels(max_delay=Duration(5 * 3600))


def cohorts(log: MemoryLog, lake: Path, *, rows: int = 131_072, matchup: Matchup = MATCHUP) -> list[Cohort]:
    """All that are closed after each round of the archiver: those that one snapshot shows stay as they were."""
    made = archiver(log, lake, rows=rows, labels=LABELS, now=lambda: START_US / 1e6 + 400 * 86_400)
    found: list[Cohort] = []
    while True:
        taken = made.round()
        if read_manifest(lake).number:
            seen = closed(lake, matchup)
            for before, now in zip(found, seen, strict=False):
                assert (now.number, now.closed_at, now.reason) == (before.number, before.closed_at, before.reason)
                assert now.rows.equals(before.rows)
            assert len(seen) >= len(found)
            found = seen
        if not taken:
            return found


def closed(lake: Path, matchup: Matchup) -> list[Cohort]:
    found: list[Cohort] = []
    manifest = read_manifest(lake)
    with closing(connect(lake)) as connection:
        number = first_cohort(connection, matchup)
        while number is not None:
            cohort = next_cohort(connection, matchup, number, matched_us=manifest.matched_us)
            if cohort is None:
                break
            found.append(cohort)
            number = cohort.number + 1
    return found


def busy(log: MemoryLog) -> None:
    """Three hours: late labels, failed shadows, a second request of an entity, one that never gets a label."""
    hours = Hours(log)
    for hour in range(3):
        span, ids = hours.ask(hour, np.linspace(0.1, 0.9, 12), entities=[f"e{i % 8}" for i in range(12)])
        hours.shadow(
            span, np.linspace(0.2, 0.8, 12), statuses=[Status.PAIRED] * 10 + [Status.ERRORED, Status.TIMED_OUT]
        )
        hours.label(hour + 0.5, ids[:4], [1, 0, 1, 0])
        hours.label(hour + 1.2, ids[4:10] if hour < 2 else ids[4:9], [1, 0, 1, 0, 1, 0][: 6 if hour < 2 else 5])
    hours.later(9)
    hours.close()


def test_a_cohort_closes_when_all_is_known_else_at_the_deadline(tmp_path: Path) -> None:
    log = MemoryLog()
    busy(log)
    found = cohorts(log, tmp_path / "lake")
    assert [(cohort.number - FIRST, cohort.reason) for cohort in found] == [
        (0, "complete"),
        (1, "complete"),
        (2, "deadline"),
    ]
    assert [int(labelled(cohort).sum()) for cohort in found] == [10, 10, 9]
    assert [cohort.rows.num_rows for cohort in found] == [12, 12, 12]


@pytest.mark.parametrize("rows", [7, 20])
def test_the_archivers_rounds_change_nothing(tmp_path: Path, rows: int) -> None:
    log = MemoryLog()
    busy(log)
    whole = cohorts(log, tmp_path / "whole")
    parted = cohorts(log, tmp_path / "parted", rows=rows)
    assert [(c.number, c.closed_at, c.reason) for c in parted] == [(c.number, c.closed_at, c.reason) for c in whole]
    assert all(one.rows.equals(other.rows) for one, other in zip(parted, whole, strict=True))


def test_what_is_appended_behind_the_closing_is_counted_and_never_taken(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2, 0.8])
    hours.shadow(span, [0.3, 0.7])
    hours.label(0.1, ids, [0, 1])
    span, later = hours.ask(1, [0.5])
    hours.shadow(span, [0.5])
    hours.label(1.1, later, [1])
    late, late_ids = hours.ask(0.5, [0.9])  # imported, hours later
    hours.shadow(late, [0.9])
    hours.label(1.5, late_ids, [1])
    hours.later(2)
    hours.close()
    first, second = cohorts(log, tmp_path / "lake")
    assert (first.rows.num_rows, first.late) == (2, 1)
    assert (second.number - FIRST, second.rows.num_rows) == (1, 1)


def test_a_label_after_the_deadline_is_no_label_though_the_cohort_closed_late(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2, 0.8])
    hours.shadow(span, [0.3, 0.7])
    hours.label(0.1, ids[:1], [0])
    hours.label(6.5, ids[1:], [1])  # beyond hour 1 + 5
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake")
    assert cohort.reason == "deadline"
    assert labelled(cohort).tolist() == [True, False]


def test_a_version_that_begins_within_a_cohort_waits_for_nothing_that_another_shadowed(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    for hour, version in ((0, "c-0"), (0.3, "c-1"), (0.5, "c-0"), (0.7, "c-1"), (1.1, "c-1")):
        span, ids = hours.ask(hour, [0.2, 0.8])
        hours.shadow(span, [0.3, 0.7], version=version)
        hours.label(hour + 0.1, ids, [0, 1])
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake", rows=1)
    assert (cohort.number, cohort.reason) == (FIRST, "complete")
    assert int(labelled(cohort).sum()) == cohort.rows.num_rows == 4


def test_a_cohort_whose_beginning_nobody_shadowed_is_left_out(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    _, ids = hours.ask(0, [0.4])  # read by nobody before retention took it
    hours.label(0.1, ids, [0])
    for hour in (0.5, 1.1, 2.1):
        span, ids = hours.ask(hour, [0.2, 0.8])
        hours.shadow(span, [0.3, 0.7])
        hours.label(hour + 0.1, ids, [0, 1])
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake", rows=1)
    assert (cohort.number - FIRST, cohort.reason, cohort.rows.num_rows) == (1, "complete", 2)


def test_a_fate_after_the_deadline_changes_nothing_that_closed_without_it(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2, 0.8])
    hours.shadow(span, [0.3, 0.7])
    behind, more = hours.ask(0.5, [0.2, 0.8])
    hours.label(0.6, [*ids, *more], [0, 1, 0, 1])
    hours.later(7)
    hours.shadow(behind, [0.3, 0.7])  # the challenger was down for seven hours
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake", rows=1)
    assert cohort.reason == "deadline"
    assert cohort.rows["status"].to_pylist() == ["paired", "paired", None, None]
    assert labelled(cohort).tolist() == [True, True, False, False]


def test_late_requests_make_no_cohort_of_a_span_that_had_none(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    for hour in (0, 3, 4, 1.5):  # the last was answered elsewhere, and imported when hour 1 was long over
        span, ids = hours.ask(hour, [0.2, 0.8])
        hours.shadow(span, [0.3, 0.7])
        hours.label(max(hour, 4.1) if hour == 1.5 else hour + 0.1, ids, [0, 1])
    hours.later(5)
    hours.close()
    found = cohorts(log, tmp_path / "lake", rows=1)
    assert [cohort.number - FIRST for cohort in found] == [0, 3, 4]
    assert sum(cohort.late for cohort in found) == 2


def test_a_quiet_log_closes_nothing_and_a_gap_is_skipped(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2])
    hours.shadow(span, [0.3])
    hours.label(0.1, ids, [0])
    hours.close()
    assert cohorts(log, tmp_path / "quiet") == []
    log = MemoryLog()
    hours = Hours(log)
    for hour in (0, 1000):
        span, ids = hours.ask(hour, [0.2])
        hours.shadow(span, [0.3])
        hours.label(hour + 1.1, ids, [0])
    hours.close()
    assert [cohort.number - FIRST for cohort in cohorts(log, tmp_path / "gap")] == [0, 1000]


def test_an_event_that_is_dated_ahead_lets_no_time_pass(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2, 0.8])
    hours.shadow(span, [0.3, 0.7])
    ahead, _ = hours.ask(24, [0.5])  # reported from elsewhere, with a time of the reporter's choice
    hours.shadow(ahead, [0.5])
    hours.label(1.5, ids, [0, 1])
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake", rows=1)
    assert (cohort.reason, labelled(cohort).tolist()) == ("complete", [True, True])


def test_replaced_labels_wait_for_the_deadline(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2, 0.8])
    hours.shadow(span, [0.3, 0.7])
    hours.label(0.1, ids, [0, 0])
    hours.label(2, ids[1:], [1])
    hours.later(7)
    hours.close()
    final = Matchup(champion="champion-1", challenger="c-1", cohort_us=HOUR_US, delay_us=5 * HOUR_US, final_labels=True)
    made = archiver(
        log,
        tmp_path / "lake",
        labels=Labels(policy="last", max_delay=LABELS.max_delay),
        now=lambda: START_US / 1e6 + 1e6,
    )
    while made.round():
        pass
    made.round()
    (cohort,) = closed(tmp_path / "lake", final)
    assert cohort.reason == "deadline"
    assert cohort.rows["target"].to_pylist() == [0.0, 1.0]


def test_in_a_canary_step_the_sides_change_places(tmp_path: Path) -> None:
    log = MemoryLog()
    hours = Hours(log)
    span, ids = hours.ask(0, [0.2])
    hours.shadow(span, [0.9])
    canary, more = hours.ask(0.1, [0.7], schema=CANARY)
    hours.shadow(canary, [0.4], version="champion-1")
    hours.label(1.5, [*ids, *more], [1, 0])
    hours.close()
    (cohort,) = cohorts(log, tmp_path / "lake")
    rows = cohort.rows
    assert rows["swapped"].to_pylist() == [False, True]
    assert rows["champion_score"].to_pylist() == [0.2, 0.4]
    assert rows["challenger_score"].to_pylist() == [0.9, 0.7]
    found = differences(rows, "brier", task="binary", schemas=read_manifest(tmp_path / "lake").schemas)
    assert found.values == pytest.approx([0.8**2 - 0.1**2, 0.4**2 - 0.7**2])
    right = differences(rows, "accuracy", task="binary", schemas=read_manifest(tmp_path / "lake").schemas)
    assert right.values.tolist() == [1.0, -1.0]


def test_each_entity_gives_one_value_in_the_order_of_its_first_request() -> None:
    units = units_of(["b", "a", "b", "c", "a"], np.array([False, True, True, True, True]), set())
    assert units.of_row.tolist() == [-1, 0, 1, 2, 0]
    assert units.means(np.array([9.0, 1.0, 2.0, 3.0, 4.0])).tolist() == [2.5, 2.0, 3.0]
    again = units_of(["b", "d"], np.array([True, True]), set(units.keys))
    assert again.of_row.tolist() == [-1, 0]


def test_failed_shadows_cost_the_challenger(tmp_path: Path) -> None:
    log = MemoryLog()
    busy(log)
    rows = cohorts(log, tmp_path / "lake")[0].rows
    assert service(rows, "errors").sum() == -1
    assert service(rows, "timeouts").sum() == -1
    assert service(rows, "latency", slow_us=500).sum() == 12  # the champion took 900 µs each time
    assert service(rows, "latency", slow_us=10).sum() == 0
