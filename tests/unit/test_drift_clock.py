"""Buckets of live drift: in the log's own time, summed without loss, in bounded memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow_mlops.drift.buckets import Ladder, Level, add_to, levels_for, pack
from shadow_mlops.drift.clock import DAY_US, HOUR_US, Birth, LogClock, hour_of_week, rfc3339

MINUTE_US = 60_000_000
MINUTE_NS = 60_000_000_000
BASE = 29_000_000  # some minute of 2025


def test_a_step_of_the_wall_clock_after_the_first_event_moves_nothing():
    clock = LogClock(MINUTE_US)
    clock.begin(1, 5 * MINUTE_NS, Birth(4 * MINUTE_NS, BASE * MINUTE_US), after=None)
    assert [clock.bucket(1, n * MINUTE_NS) - BASE for n in (4, 5, 6, 100)] == [0, 1, 2, 96]


@pytest.mark.parametrize("wall", [0, (BASE - 60 * 24) * MINUTE_US, (BASE + 5) * MINUTE_US])
def test_a_boot_with_its_clock_behind_goes_on_after_the_one_before(wall):
    clock = LogClock(MINUTE_US)
    clock.begin(1, 0, Birth(0, BASE * MINUTE_US), after=None)
    clock.begin(2, 7 * MINUTE_NS, Birth(6 * MINUTE_NS, wall), after=BASE + 10)
    assert clock.bucket(2, 7 * MINUTE_NS) == BASE + 11
    assert clock.bucket(2, 9 * MINUTE_NS) == BASE + 13
    assert clock.bucket(1, 3 * MINUTE_NS) == BASE + 3, "the boot before keeps its time"


def test_a_boot_after_a_pause_has_the_time_of_its_segment():
    clock = LogClock(MINUTE_US)
    clock.begin(1, 0, Birth(0, BASE * MINUTE_US), after=None)
    clock.begin(2, 5 * MINUTE_NS, Birth(5 * MINUTE_NS, (BASE + 500) * MINUTE_US), after=BASE + 10)
    assert clock.bucket(2, 5 * MINUTE_NS) == BASE + 500


def test_many_boots_are_not_remembered_for_ever():
    clock = LogClock(MINUTE_US)
    for boot in range(1, 200):
        clock.begin(boot, 0, Birth(0, BASE * MINUTE_US), after=BASE + boot)
    assert len(clock.offsets) == 64
    assert clock.knows(199)
    assert not clock.knows(1)


def test_hours_of_the_week_begin_on_monday_in_utc():
    monday = 1_735_516_800_000_000  # 2024-12-30T00:00:00Z
    assert rfc3339(monday) == "2024-12-30T00:00:00.000Z"
    assert [hour_of_week(monday + n * HOUR_US) for n in (0, 1, 167, 168)] == [0, 1, 167, 0]


@given(st.lists(st.integers(0, 2**40) | st.just(0), min_size=1, max_size=300))
def test_packed_counts_come_back_exactly(values):
    counts = np.array(values, dtype=np.int64)
    total = np.ones(len(counts), dtype=np.int64)
    add_to(total, pack(counts))
    assert total.tolist() == (counts + 1).tolist()
    assert len(pack(counts).values) <= 8 * len(counts)


def quiet(places, size=6000):
    counts = np.zeros(size, dtype=np.int64)
    counts[places] = 3
    return counts


def test_a_quiet_bucket_takes_little_room():
    packed = pack(quiet([5, 100]))
    assert len(packed.values) + len(packed.places) == 2 + 8


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 50)), min_size=1, max_size=400))
def test_no_count_is_lost_or_doubled_whatever_has_sunk_where(steps):
    ladder = Ladder(MINUTE_US, (Level(MINUTE_US, 5), Level(HOUR_US, 7), Level(DAY_US, 1000)), 2)
    bucket, total, rows, kept = BASE, np.zeros(2, dtype=np.int64), 0, []
    for step, count in steps:
        bucket += step
        counts = np.array([count, 1])
        ladder.add(bucket, count + 1, counts)
        kept.append((bucket, count + 1))
        total += counts
        rows += count + 1
    window = ladder.window(since_us=0, min_rows=0, rows=None)
    assert (window.rows, window.counts.tolist(), window.last) == (rows, total.tolist(), bucket)
    assert window.first == ladder.oldest == kept[0][0]
    flat = [unit for units in reversed(ladder.units) for unit in units]
    assert all(old.last < new.first for old, new in itertools.pairwise(flat)), "in order, without overlap"
    for hours in (1, 3, 30):
        since = (bucket + 1) * MINUTE_US - hours * HOUR_US
        found = ladder.window(since_us=since, min_rows=0, rows=None)
        assert found.rows == sum(n for b, n in kept if b >= found.first)
        assert found.first * MINUTE_US > since - DAY_US, "at most a unit more than was asked for"
        assert all(b >= found.first for b, _ in kept if (b + 1) * MINUTE_US > since)


def filled(minutes, *, rows=10):
    ladder = Ladder(MINUTE_US, levels_for(MINUTE_US, window_hours=24, seasonal=False), 1)
    for bucket in range(BASE, BASE + minutes):
        ladder.add(bucket, rows, np.array([rows]))
    return ladder


def since(minutes, back):
    return (BASE + minutes - back) * MINUTE_US


def test_a_window_is_exact_in_recent_buckets_and_whole_hours_beyond():
    ladder = filled(3000)
    assert ladder.window(since_us=since(3000, 30), min_rows=0, rows=None).rows == 300
    day = ladder.window(since_us=since(3000, 1440), min_rows=0, rows=None)
    assert 14_400 <= day.rows <= 15_000


def test_too_few_rows_extend_a_window_into_the_past_and_enough_rows_end_it():
    ladder = filled(600)
    assert ladder.window(since_us=since(600, 10), min_rows=500, rows=None).rows == 500
    assert ladder.window(since_us=since(600, 60), min_rows=50, rows=100).rows == 100
    assert ladder.window(since_us=since(600, 5), min_rows=50, rows=100).rows == 50
    assert ladder.window(since_us=since(600, 10), min_rows=10**9, rows=None).rows == 6000
    assert Ladder(MINUTE_US, levels_for(MINUTE_US, window_hours=24, seasonal=False), 1).window(
        since_us=0, min_rows=1, rows=None
    ) is None  # fmt: skip


@pytest.mark.parametrize(("bucket_us", "hours"), [(1_000_000, 0.1), (60_000_000, 24), (HOUR_US, 8784)])
def test_memory_is_bounded_and_still_has_the_window(bucket_us, hours):
    levels = levels_for(bucket_us, window_hours=hours, seasonal=False)
    ladder = Ladder(bucket_us, levels, 1)
    step = max(int(hours * HOUR_US // bucket_us // 700), 1)
    last = 0
    for number in range(3000):
        last = BASE + number * step
        ladder.add(last, 1, np.array([1]))
    assert sum(len(units) for units in ladder.units) <= sum(level.capacity for level in levels) <= 1300
    since_us = (last + 1) * bucket_us - int(hours * HOUR_US)
    assert ladder.window(since_us=since_us, min_rows=0, rows=None).first * bucket_us <= since_us + step * bucket_us


def test_a_seasonal_reference_is_the_same_hours_of_earlier_weeks_and_needs_one_whole_week():
    ladder = Ladder(HOUR_US, levels_for(HOUR_US, window_hours=24, seasonal=True), 168)
    first = 420_000
    for hour in range(first, first + 6 * 168):
        counts = np.zeros(168, dtype=np.int64)
        counts[hour % 168] = 1 + (hour - first) // 168
        ladder.add(hour, 1, counts)
        window = ladder.window(since_us=(hour + 1 - 3) * HOUR_US, min_rows=0, rows=None)
        season = ladder.same_hours(window)
        assert (season is not None) == (hour - first >= 168 + 2), "a week before the window's first hour"
    assert season.rows == 3 * 4
    assert season.counts[[h % 168 for h in range(hour - 2, hour + 1)]].tolist() == [2 + 3 + 4 + 5] * 3
    assert season.counts.sum() == 3 * 14
    weekly = ladder.by_hour_of_week()
    assert weekly.shape == (168, 168)
    assert (np.count_nonzero(weekly, axis=1) == 1).all()
