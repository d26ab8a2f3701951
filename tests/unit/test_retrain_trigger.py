"""When to retrain: what a report says to a rule, and one trigger for each episode, whatever is killed when."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import URL
from sqlalchemy import event as events
from tests.postgresserver import PASSWORD, USER, postgres

from retrainchecks import DAY_US, HOUR_US, START_US, check, report, rule, score
from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import StateError
from shadow_mlops.drift.livereport import ChallengerDrift
from shadow_mlops.retraining.recording import record, watched
from shadow_mlops.retraining.trigger import Watch, check_of, due, rule_of, step
from shadow_mlops.state import audit, open_state, triggers, upgrade
from shadow_mlops.state.database import transaction


@pytest.fixture
def state(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


def run(checks, asked):
    watch, found = Watch(), []
    for each in checks:
        watch, event = step(watch, each, asked)
        found.append(None if event is None else event.kind)
    return watch, found


@pytest.mark.parametrize(
    ("psi", "verdict"), [(0.41, "drifted"), (0.31, "drifted"), (0.3, "between"), (0.24, "between"), (0.2399, "calm")]
)
def test_a_window_has_drifted_is_calm_or_lies_between(psi, verdict):
    found = check_of(report(3, psi), rule())
    assert found.verdict == verdict
    assert found.at_us == START_US + 3 * DAY_US
    assert (found.version, found.reference, found.rows) == ("1", "a", 1000)
    assert [mark.feature for mark in found.marks] == (["tenure"] if verdict == "drifted" else [])


def test_few_rows_and_no_scores_decide_nothing():
    assert check_of(report(1, rows=499), rule()).verdict == "undecided"
    assert check_of(report(1, scores=()), rule()).verdict == "undecided"
    assert check_of(report(1, window=None), rule()) is None


@pytest.mark.parametrize(
    ("on", "feature", "verdict"),
    [
        ("any", "tenure", "drifted"),
        ("features", "tenure", "drifted"),
        ("scores", "tenure", "calm"),
        ("any", "__score__", "drifted"),
        ("features", "__score__", "calm"),
        ("scores", "__score__", "drifted"),
    ],
)
def test_the_file_says_whose_drift_counts(on, feature, verdict):
    other = "tenure" if feature == "__score__" else "__score__"
    assert check_of(report(1, scores=(score(feature, 0.4), score(other, 0.01))), rule(on=on)).verdict == verdict


def test_challengers_and_methods_that_do_not_retrain_take_no_part():
    loud = ChallengerDrift(name="c", version="2", rows=1000, scores=(score("__score__:c", 9.0),))
    assert check_of(report(1, 0.01, challengers=(loud,)), rule()).verdict == "calm"
    assert check_of(report(1, scores=(score("tenure", 0.01), score("tenure", 0.9, "ks"))), rule()).verdict == "calm"


def test_so_many_checks_in_a_row_open_one_episode():
    watch, found = run([check(day) for day in range(1, 9)], rule())
    assert found == [None, None, "fired", *[None] * 5]
    assert watch.episode.since_us == START_US + 3 * DAY_US


def test_missed_numbers_and_small_windows_neither_count_nor_break_the_row():
    checks = [check(1), check(5), check(6, "undecided"), check(9)]
    assert run(checks, rule())[1] == [None, None, None, "fired"]
    assert run([check(1), check(2), check(3, "between"), check(4), check(5)], rule())[1] == [None] * 5


def test_a_number_is_looked_at_once_and_a_changed_pace_does_not_stop_the_checks():
    watch, _ = run([check(1.0), check(1.5), check(1.9)], rule())
    assert watch.drifted == 1
    assert due(watch, START_US + DAY_US + HOUR_US, rule(interval_us=HOUR_US))
    watch, _ = run([check(1.0), check(1.5)], rule(interval_us=HOUR_US))
    assert not due(watch, START_US + round(1.9 * DAY_US), rule())
    assert due(watch, START_US + 2 * DAY_US, rule())


def test_only_a_calm_check_or_another_model_ends_an_episode():
    between = [check(day) for day in (1, 2, 3)] + [check(4, "between"), *[check(day) for day in (5, 6, 7)]]
    assert run(between, rule())[1].count("fired") == 1
    calm = [check(day) for day in (1, 2, 3)] + [check(4, "calm"), *[check(day) for day in (5, 6, 7)]]
    assert run(calm, rule())[1].count("fired") == 2
    for other in ({"reference": "b"}, {"version": "2"}):
        new = [check(day) for day in (1, 2, 3)] + [check(day, **other) for day in (4, 5, 6)]
        assert run(new, rule())[1] == [None, None, "fired", None, None, "fired"]
    unknown = [check(day) for day in (1, 2, 3)] + [check(4, "undecided", reference=""), *[check(d) for d in (5, 6, 7)]]
    assert run(unknown, rule())[1].count("fired") == 1, "a report without a reference says nothing of a new one"


def test_cool_down_holds_back_once_and_lets_go_while_drift_lasts():
    asked = rule(windows=1, cool_down_us=3 * DAY_US, daily_budget=9)
    checks = [check(1), check(2, "calm"), check(3), check(3.5), check(4), check(5)]
    found = run(checks, asked)[1]
    assert found == ["fired", None, "suppressed", None, "fired", None]
    over = [check(1), check(2, "calm"), check(3), check(3.5, "calm"), check(4, "calm")]
    assert run(over, asked)[1] == ["fired", None, "suppressed", None, None]


def test_the_budget_is_of_a_day_of_the_logs_time():
    asked = rule(windows=1, cool_down_us=0, daily_budget=2, interval_us=HOUR_US)
    turns = [
        check(hour / 24, verdict)
        for hour in range(0, 20, 2)
        for hour, verdict in [(hour, "drifted"), (hour + 1, "calm")]
    ]
    assert run(turns, asked)[1].count("fired") == 2
    held = run([*turns[:4], check(5 / 24), check(23 / 24), check(1)], asked)[1]
    assert held[-3:] == ["suppressed", None, "fired"]


def test_the_reason_names_features_figures_and_how_many_checks(state):
    for day in (1, 2):
        assert record(state, check_of(report(day), rule()), rule()) is None
    many = tuple(score(f"f{n}", 0.5) for n in range(5))
    fired = record(state, check_of(report(3, scores=many), rule()), rule())
    (kept,) = triggers.recent(state, "churn")
    assert fired.reason == kept.reason
    assert kept.reason.startswith("drift in 3 checks in a row: f0 PSI 0.5 (above 0.3), f1")
    assert "and 2 more" in kept.reason
    assert (kept.state, kept.cause, kept.who, kept.fired_at) == (
        "pending",
        "drift",
        "drift",
        "2026-01-08T00:00:00.000Z",
    )
    assert kept.details["features"] == ["f0", "f1", "f2", "f3", "f4"]


def test_one_row_stands_for_an_episode_held_back_or_fired(state):
    asked = rule(windows=1, cool_down_us=3 * DAY_US)
    for each in (check(1), check(2, "calm"), check(3)):
        record(state, each, asked)
    held, first = triggers.recent(state, "churn")
    assert (first.state, held.state) == ("pending", "suppressed")
    assert held.suppressed == "cool-down until 2026-01-09T00:00:00.000Z"
    assert triggers.counts(state, "churn") == {"drift": 1, "person": 0, "suppressed": 1}
    record(state, check(4), asked)
    again, _ = triggers.recent(state, "churn")
    assert (again.key, again.state, again.suppressed) == (held.key, "pending", held.suppressed)
    assert again.fired_at == "2026-01-09T00:00:00.000Z"
    assert triggers.counts(state, "churn") == {"drift": 2, "person": 0, "suppressed": 1}


def test_a_key_that_has_fired_is_never_written_again(state):
    given = {"deployment": "churn", "cause": "drift", "who": "drift", "fired_at": "", "reason": "", "details": {}}
    with transaction(state) as connection:
        triggers.add(connection, key="k", **given)
    with pytest.raises(StateError, match="there already"), transaction(state) as connection:
        triggers.add(connection, key="k", **given)


def test_deployments_of_one_database_do_not_know_each_other(state):
    for day in (1, 2, 3):
        record(state, check(day), rule())
        record(state, check(day, "calm"), rule(deployment="other"))
    assert len(triggers.recent(state, "churn")) == 1
    assert triggers.recent(state, "other") == ()
    assert watched(state, "other").episode is None


def test_the_rule_is_the_files_and_the_settings():
    text = "name: churn\nretrain: {windows: 5, cool_down: 2h, daily_budget: 4, on: scores, hysteresis: 0.5}\n"
    assert rule_of(parse_deployment(text), interval_hours=6) == rule(
        interval_us=6 * HOUR_US, windows=5, cool_down_us=2 * HOUR_US, daily_budget=4, on="scores", hysteresis=0.5
    )


class Crash(Exception):  # noqa: N818
    """As if the process had been killed here."""


def crashing(engine, rng):
    """The engine now dies before and after random statements; after the last one is before the commit."""

    def perhaps(*told):
        if "BEGIN IMMEDIATE" not in told and rng.random() < 0.08:  # there the connection would be left open
            raise Crash

    for name in ("before_cursor_execute", "after_cursor_execute"):
        events.listen(engine, name, perhaps)


def test_a_thousand_episodes_with_crashes_at_random_points_fire_once_each(state):
    rng, asked, crashes = random.Random(3), rule(windows=2, cool_down_us=0), 0
    crashing(state, rng)
    for day in range(2000):
        each = check(day, reference=str(day // 2))  # another model after every second check
        while True:
            try:
                record(state, each, asked)
                if rng.random() < 0.05:
                    raise Crash  # noqa: TRY301 - it is recorded, and nobody has heard of it
                break
            except Crash:
                crashes += 1
    assert crashes > 400
    clean = open_state(str(state.url))
    fired = triggers.recent(clean, "churn", limit=5000)
    assert len(fired) == 1000
    assert len({each.fired_at for each in fired}) == 1000
    assert {each.state for each in fired} == {"pending"}


def test_a_thousand_quiet_windows_fire_nothing(state):
    rng = random.Random(4)
    for day in range(1000):
        rows = 1000 if rng.random() < 0.9 else 200
        quiet = report(day, rng.uniform(0.0, 0.3), rows=rows)
        assert record(state, check_of(quiet, rule(windows=1)), rule(windows=1)) is None
    assert triggers.recent(state, "churn") == ()


_WORKER = """
import sys
sys.path.insert(0, {tests!r})
from retrainchecks import check, rule
from shadow_mlops.retraining.recording import record
from shadow_mlops.state import open_state
engine = open_state({url!r})
print("ready", flush=True)
for day in range(300):
    record(engine, check(day, "calm" if day % 3 == 2 else "drifted"), rule(windows=2, cool_down_us=0))
print("done", flush=True)
"""


def test_a_process_that_is_killed_again_and_again_fires_once_for_each_episode(state):
    rng, killed = random.Random(5), 0
    program = _WORKER.format(tests=str(Path(__file__).parents[1]), url=str(state.url))
    while True:
        worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert worker.stdout.readline() == "ready\n"
        if killed < 5:
            time.sleep(rng.uniform(0.02, 0.3))
            worker.send_signal(signal.SIGKILL)
            killed += 1
        said = worker.stdout.read()
        worker.wait()
        worker.stdout.close()
        if said == "done\n":
            break
    assert len(triggers.recent(state, "churn", limit=1000)) == 100


@pytest.mark.needs_postgres
def test_postgresql_keeps_the_same_promises():
    with postgres() as port:
        url = URL.create("postgresql+psycopg", USER, PASSWORD, "127.0.0.1", port, "postgres")
        state = open_state(url.render_as_string(hide_password=False))
        upgrade(state)
        asked = rule(windows=2, cool_down_us=4 * DAY_US)
        days = [(1, "drifted"), (2, "drifted"), (3, "calm"), (4, "drifted"), (5, "drifted"), (6, "drifted")]
        for day, verdict in days:
            record(state, check(day, verdict), asked)
            assert record(state, check(day, verdict), asked) is None
        held, first = triggers.recent(state, "churn")
        assert (first.state, held.state, bool(held.suppressed)) == ("pending", "pending", True)
        assert triggers.counts(state, "churn") == {"drift": 2, "person": 0, "suppressed": 1}
        claimed = triggers.claim(state, "churn", action="command")
        assert triggers.claim(state, "churn", action="command") == claimed
        triggers.conclude(state, claimed, state="refused", problem="too few labels")
        assert triggers.claim(state, "churn", action="command", leaving=[held.key]) is None
        assert [entry.outcome for entry in audit.entries(state).entries] == ["refused"]
        state.dispose()
