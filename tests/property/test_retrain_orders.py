"""Whatever the order of checks: one trigger for an episode, never too soon, never too many, never on too little."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from retrainchecks import DAY_US, HOUR_US, check, rule
from shadow_mlops.retraining.trigger import Watch, due, held_back, step

VERDICTS = st.sampled_from(["drifted", "drifted", "drifted", "between", "calm", "undecided"])
CHECKS = st.lists(
    st.tuples(VERDICTS, st.integers(1, 12), st.sampled_from(["a", "a", "a", "a", "b"])), min_size=20, max_size=80
)  # verdict, hours since the one before, reference
RULES = st.builds(
    rule,
    interval_us=st.sampled_from([HOUR_US, HOUR_US, 6 * HOUR_US]),
    windows=st.integers(1, 3),
    cool_down_us=st.sampled_from([0, 9 * HOUR_US, 40 * HOUR_US]),
    daily_budget=st.integers(1, 3),
)


def checks_of(told):
    hours = 0
    for verdict, gap, reference in told:
        hours += gap
        yield check(hours / 24, verdict, reference=reference)


def events_of(told, asked):
    """Each check that was looked at, with the state before it and what it set off."""
    watch, found = Watch(), []
    for each in checks_of(told):
        looked, before = due(watch, each.at_us, asked), watch
        watch, event = step(watch, each, asked)
        if looked:
            found.append((before, each, event))
        else:
            assert (watch, event) == (before, None), "each number is looked at once"
    return found


@given(CHECKS, RULES)
def test_an_episode_fires_once_and_is_held_back_once(told, asked):
    events = [event for _, _, event in events_of(told, asked) if event is not None]
    assert max(Counter((event.key, event.kind) for event in events).values(), default=1) == 1


@given(CHECKS, RULES)
def test_cool_down_and_budget_hold_in_the_logs_time(told, asked):
    moments = [event.at_us for _, _, event in events_of(told, asked) if event is not None and event.kind == "fired"]
    assert all(later - earlier >= asked.cool_down_us for earlier, later in pairwise(moments))
    assert max(Counter(moment // DAY_US for moment in moments).values(), default=0) <= asked.daily_budget


@given(CHECKS, RULES)
def test_an_episode_begins_on_so_many_drifted_checks_in_a_row_of_one_reference_and_ends_before_the_next(told, asked):
    looked = events_of(told, asked)
    keys = [event.key if event is not None else None for _, _, event in looked]
    for index, (_, begun, event) in enumerate(looked):
        if event is None or event.key in keys[:index]:
            continue
        row = [each for _, each, _ in looked[: index + 1] if each.verdict != "undecided"][-asked.windows :]
        assert [each.verdict for each in row] == ["drifted"] * asked.windows
        first = next(i for i, (_, each, _) in enumerate(looked) if each is row[0])
        assert {each.reference for _, each, _ in looked[first : index + 1]} == {begun.reference}
        before = [i for i, key in enumerate(keys[:index]) if key is not None]
        if before:
            since = [each for _, each, _ in looked[before[-1] + 1 : index + 1]]
            ended = any(each.verdict == "calm" for each in since)
            assert ended or any(each.reference != looked[before[-1]][1].reference for each in since)


@given(CHECKS, RULES)
def test_what_was_held_back_fires_at_the_first_drifted_check_that_may(told, asked):
    for watch, each, event in events_of(told, asked):
        waits = watch.episode is not None and watch.episode.fired_us is None and each.reference == watch.reference
        if waits and each.verdict == "drifted":
            free = not held_back(watch, each.at_us, asked)
            assert (event is not None and event.kind == "fired") == free


@given(CHECKS, RULES)
def test_an_enduring_drift_without_limits_fires_on_the_very_check(told, asked):
    free = rule(interval_us=1, windows=asked.windows, cool_down_us=0, daily_budget=10_000)
    row, open_now, reference, expected = 0, False, "", 0
    for each in checks_of(told):
        if reference not in {"", each.reference}:
            row, open_now = 0, False
        reference = each.reference
        if each.verdict == "undecided":
            continue
        row = row + 1 if each.verdict == "drifted" else 0
        open_now = open_now and each.verdict != "calm"
        if row >= free.windows and not open_now:
            expected, open_now = expected + 1, True
    assert sum(event is not None for _, _, event in events_of(told, free)) == expected


@given(CHECKS, RULES)
def test_a_check_that_is_repeated_changes_nothing(told, asked):
    watch = Watch()
    for each in checks_of(told):
        watch = step(watch, each, asked).watch
        assert step(watch, each, asked) == (watch, None)
