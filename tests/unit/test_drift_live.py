"""Live drift: what is folded depends on the log alone, and each drift is one episode."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.driftlogs import (
    BIRTH_US,
    RecordedLog,
    columns,
    fold_of,
    put_reference,
    read_all,
    traffic,
)

from shadow_mlops.domain.deployment import Deployment, Duration
from shadow_mlops.drift.clock import Birth
from shadow_mlops.drift.detecting import detect
from shadow_mlops.drift.lanes import Span
from shadow_mlops.drift.live import watching_of
from shadow_mlops.drift.livereporting import live_report
from shadow_mlops.drift.livestate import LiveState, read_state, save_state
from shadow_mlops.drift.references import (
    Baseline,
    baseline_path,
    clear_baseline,
    read_baseline,
    write_baseline,
)
from shadow_mlops.drift.rules import Rules
from shadow_mlops.models.reference import SCORE, encode_reference


@pytest.fixture
def data(tmp_path):
    put_reference(tmp_path)
    return tmp_path


@pytest.fixture
def drifting(data):
    """Two minutes as the reference, then three in which ``age`` is shifted."""
    log = RecordedLog()
    traffic(log, np.arange(0.0, 120.0, 0.5))
    traffic(log, np.arange(120.0, 300.0, 0.5), seed=2, age=1.5)
    return log


def restarted(fold, log, data, **changes):
    """The state as it would be read from its file."""
    content = msgspec.msgpack.encode(fold.saved())
    return fold_of(log, data, msgspec.msgpack.decode(content, type=LiveState), **changes)


def scores(fold):
    """Everything that is told of the newest window, without the time of the telling."""
    return msgspec.json.encode(live_report(fold, created="now"))


def test_drift_of_one_feature_is_one_episode_of_that_feature(drifting, data):
    fold = read_all(fold_of(drifting, data))
    opened = [change for change in fold.changes if change.kind == "opened"]
    assert [change.feature for change in opened] == ["age"]
    assert 0 < opened[0].bucket - BIRTH_US // 1_000_000 - 120 < 60
    report = live_report(fold, created="now")
    assert report.verdict == "retrain"
    by_feature = {score.feature: score for score in report.scores if score.method == "psi"}
    assert by_feature["age"].alert
    assert not any(by_feature[name].alert for name in ("income", "plan", SCORE))
    assert report.detector.alarms["age"] > 1, "the detector goes on alarming, the episode is one"


def test_without_drift_there_is_neither_alarm_nor_episode(data):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 300.0, 0.5))
    fold = read_all(fold_of(log, data))
    report = live_report(fold, created="now")
    assert (report.verdict, fold.changes, report.detector.alarms) == ("none", [], {})
    assert report.current_rows == 12_000


def test_live_scores_are_those_of_the_rows(data):
    log = RecordedLog()
    rng = np.random.default_rng(3)
    parts = [columns(rng, 50, age=0.4) for _ in range(40)]
    for number, part in enumerate(parts):
        log.events(number * 0.7, part)
    fold = read_all(fold_of(log, data))
    report = live_report(fold, created="now")
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reference = columns(np.random.default_rng(0), 2000)
    expected = detect(reference, whole, exact_ks=False)
    live = {(score.feature, score.method): score.score for score in report.scores}
    for score in expected.scores:
        assert live[score.feature, score.method] == score.score


@pytest.mark.parametrize("max_rows", [1, 37, 400, 10**9])
def test_any_polling_gives_the_same_scores_and_episodes(drifting, data, max_rows):
    once = read_all(fold_of(drifting, data))
    pieces = fold_of(drifting, data)
    for part in (0.1, 0.35, 0.351, 0.8, 1.0):
        drifting.show(part)
        read_all(pieces, max_rows)
    assert scores(pieces) == scores(once)
    assert pieces.changes == once.changes


def test_the_open_bucket_is_not_closed_before_its_time_is_over(data):
    log = RecordedLog()
    traffic(log, [0.1, 0.4, 5.2])
    now = [(1, 0)]
    fold = fold_of(log, data, now=lambda: now[0])
    first = BIRTH_US // 1_000_000
    log.show(0.7)
    read_all(fold)
    assert fold.champion.state.last is None
    now[0] = (1, 1_000_000_000)
    read_all(fold)
    assert fold.champion.state.last == first
    log.show()
    read_all(fold)
    assert fold.champion.state.last == first, "a later bucket has begun, and is open"
    now[0] = (2, 0)
    read_all(fold)
    assert fold.champion.state.last == first + 5, "a boot has begun, so the one before is over"


def test_a_restart_at_every_bucket_changes_nothing(drifting, data):
    once = read_all(fold_of(drifting, data))
    drifting.show(0.0)
    fold, changes, restarts = fold_of(drifting, data), [], 0
    for part in np.linspace(0, 1, 130):
        drifting.show(part)
        last = fold.champion.state.last
        read_all(fold, 50)
        if fold.champion.state.last != last:
            changes += fold.changes
            fold = restarted(fold, drifting, data)
            restarts += 1
    assert restarts > 100
    assert scores(fold) == scores(once)
    assert changes == once.changes


def test_a_state_that_was_not_saved_for_a_while_is_folded_again_to_the_same(drifting, data):
    once = read_all(fold_of(drifting, data))
    drifting.show(0.5)
    fold = read_all(fold_of(drifting, data))
    saved = msgspec.msgpack.encode(fold.saved())
    before = list(fold.changes)
    drifting.show()
    read_all(fold)
    again = read_all(fold_of(drifting, data, msgspec.msgpack.decode(saved, type=LiveState)))
    assert scores(again) == scores(fold) == scores(once)
    assert [*before, *again.changes] == once.changes, "with the same keys, so that nothing is recorded twice"


def test_an_episode_ends_after_three_checks_without_a_shift_and_may_come_again(data):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 60.0, 0.5))
    traffic(log, np.arange(60.0, 120.0, 0.5), seed=2, age=1.5)
    traffic(log, np.arange(120.0, 700.0, 0.5), seed=3)
    traffic(log, np.arange(700.0, 900.0, 0.5), seed=4, age=-1.5)
    fold = read_all(fold_of(log, data, span=Span(60 / 3600, 300, None)))
    told = [(change.kind, change.feature, change.details.get("ended")) for change in fold.changes]
    assert told == [("opened", "age", None), ("closed", "age", "quiet"), ("opened", "age", None)]
    first, end, second = fold.changes
    assert first.key == end.key != second.key
    assert end.opened == first.bucket < end.bucket < second.bucket


def test_clock_steps_and_old_event_times_move_no_bucket(drifting, data):
    once = read_all(fold_of(drifting, data))
    for frame in drifting.frames["events"]:
        frame.batch.times[:] -= 3_600_000_000 * (frame.first % 7)
    assert scores(read_all(fold_of(drifting, data))) == scores(once)


def test_a_boot_with_its_clock_behind_comes_after_the_one_before(data):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 20.0, 0.5))
    log.births[2] = Birth(0, 0)
    traffic(log, np.arange(5.0, 25.0, 0.5), boot=2, segment=2, seed=5)
    fold = read_all(fold_of(log, data))
    report = live_report(fold, created="now")
    assert report.current_rows == 2 * 40 * 20
    assert report.window.until == "2026-01-05T00:00:40.000Z"


def test_promotion_moves_the_reference_with_the_next_bucket_and_ends_episodes(drifting, data):
    put_reference(data, 2, age=1.5)
    traffic(drifting, np.arange(300.0, 420.0, 0.5), seed=6, age=1.5, version=2)
    fold = read_all(fold_of(drifting, data))
    assert [(c.kind, c.details.get("ended"), c.version) for c in fold.changes] == [
        ("opened", None, "v1"),
        ("closed", "reference", "v1"),
    ]
    report = live_report(fold, created="now")
    assert (report.version, report.reference_in_force.version, report.verdict) == ("v2", "v2", "none")
    assert report.current_rows == 119 * 40, "from the bucket after the one in which the first of its answers came"


def test_workers_that_change_over_one_by_one_do_not_flip_the_reference(data):
    put_reference(data, 2)
    log = RecordedLog()
    traffic(log, np.arange(0.0, 10.0, 0.5))
    for second in range(10, 20):  # one worker still answers with the old version, and is the last in each bucket
        traffic(log, [second + 0.1], version=2, seed=second, segment=2)
        traffic(log, [second + 0.6], version=2 if second == 10 else 1, seed=second)
    traffic(log, np.arange(20.0, 30.0, 0.5), version=2, seed=50, segment=2)
    fold = fold_of(log, data)
    versions = []
    for part in np.linspace(0, 1, 61):
        log.show(part)
        read_all(fold)
        identity = fold.champion.state.identity
        if identity is not None and (not versions or versions[-1] != identity.version):
            versions.append(identity.version)
    assert versions == ["v1", "v2"]


def test_a_rollback_is_followed_once_the_version_is_alone(data):
    put_reference(data, 2)
    log = RecordedLog()
    traffic(log, np.arange(0.0, 10.0, 0.5))
    traffic(log, np.arange(10.0, 20.0, 0.5), version=2)
    traffic(log, np.arange(20.0, 30.0, 0.5), version=1)
    fold = read_all(fold_of(log, data))
    assert fold.champion.state.identity.version == "v1"
    assert fold.champion.state.since == BIRTH_US // 1_000_000 + 21


def test_only_rows_of_the_champion_count_for_its_score_and_all_for_the_features(data):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 20.0, 0.5))
    traffic(log, np.arange(0.1, 20.0, 0.5), version=2, role="challenger", segment=2, score=9.0)
    fold = read_all(fold_of(log, data))
    counts = fold.champion.panel.split(fold.champion.window(Span(1, 1, None)).counts)
    assert {name: int(each.sum()) for name, each in counts.items()} == {
        "age": 1600, "income": 1600, "plan": 1600, SCORE: 800,
    }  # fmt: skip
    report = live_report(fold, created="now")
    assert report.version == "v1", "a canary's answers make no champion"
    assert report.verdict == "none"


def test_a_version_without_reference_has_no_scores_and_says_what_to_do(data, tmp_path):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 10.0, 0.5), version=7)
    fold = read_all(fold_of(log, tmp_path))
    report = live_report(fold, created="now")
    assert (report.verdict, report.scores, report.reference_in_force.kind) == ("none", (), "none")
    assert "shadow drift baseline --from FILE" in report.reason
    put_reference(tmp_path, 7)
    traffic(log, np.arange(10.0, 30.0, 0.5), version=7)
    report = live_report(read_all(restarted(fold, log, tmp_path)), created="now")
    assert report.current_rows == 19 * 40, "once it is there, from the next bucket on"


def test_a_window_with_few_rows_decides_nothing_and_reaches_back_for_more(data):
    log = RecordedLog()
    traffic(log, np.arange(0.0, 10.0, 0.5), age=3.0)
    report = live_report(read_all(fold_of(log, data, span=Span(1, 1000, None))), created="now")
    assert (report.verdict, report.current_rows) == ("none", 400)
    assert "too few" in report.reason
    assert not any(score.alert or score.retrain for score in report.scores)
    assert any(score.score > 0.3 for score in report.scores), "they are shown"
    report = live_report(read_all(fold_of(log, data, span=Span(2 / 3600, 300, None))), created="now")
    assert report.current_rows == 320, "eight buckets, not two"
    report = live_report(read_all(fold_of(log, data, span=Span(1, 50, 100))), created="now")
    assert report.current_rows == 120


def test_one_row_per_entity_and_bucket(data):
    log = RecordedLog()
    rng = np.random.default_rng(0)
    for number in range(40):
        log.events(number * 0.5, columns(rng, 6), entities=["a", "a", "b", None, None, "c"])
    once = read_all(fold_of(log, data, once=True, span=Span(1, 1, None)))
    assert live_report(once, created="now").current_rows == 20 * (3 + 2 * 2)
    again = restarted(read_all(fold_of(log, data, once=True, span=Span(1, 1, None)), 6), log, data, once=True)
    assert scores(again) != b""
    plain = read_all(fold_of(log, data, span=Span(1, 1, None)))
    assert live_report(plain, created="now").current_rows == 240


def test_challengers_scores_stand_beside_and_take_no_part_in_the_verdict(data):
    put_reference(data, 2)
    log = RecordedLog()
    traffic(log, np.arange(0.0, 60.0, 0.5))
    rng = np.random.default_rng(8)
    for moment in np.arange(1.0, 60.0, 0.5):
        log.results(moment, columns(rng, 20, score=2.0)[SCORE])
    fold = read_all(fold_of(log, data))
    report = live_report(fold, created="now")
    (challenger,) = report.challengers
    assert (challenger.name, challenger.version, challenger.rows) == ("c", "v2", 118 * 20)
    assert {score.feature for score in challenger.scores} == {"__score__:c"}
    assert any(score.alert for score in challenger.scores)
    assert report.verdict == "none"
    for max_rows in (1, 70):
        assert scores(read_all(fold_of(log, data), max_rows)) == scores(fold)


def test_results_wait_for_the_first_event_of_their_boot(data):
    put_reference(data, 2)
    log = RecordedLog()
    log.results(1.0, [0.5] * 10)
    traffic(log, np.arange(0.0, 5.0, 0.5))
    log.there = {"events": 0, "results/c": 1}
    fold = read_all(fold_of(log, data))
    assert fold.challengers["c"].state.last is None
    log.show()
    read_all(fold)
    assert fold.challengers["c"].state.last == BIRTH_US // 1_000_000 + 1


def test_a_challenger_that_is_gone_is_forgotten(data):
    put_reference(data, 2)
    log = RecordedLog()
    traffic(log, np.arange(0.0, 5.0, 0.5))
    log.results(1.0, [0.5] * 10)
    fold = read_all(fold_of(log, data))
    assert set(fold.state.challengers) == {"c"}
    log.there["results/c"] = 0
    read_all(fold)
    assert live_report(fold, created="now").challengers == ()
    assert fold.state.challengers == {}


def test_features_that_the_file_leaves_out_are_not_watched_and_the_counts_begin_anew(drifting, data):
    fold = read_all(fold_of(drifting, data))
    assert fold.detection.episodes.open
    without = restarted(fold, drifting, data, rules=Rules(unchecked=frozenset({"age"})))
    assert [(c.kind, c.feature, c.details["ended"]) for c in without.changes] == [("closed", "age", "reference")]
    assert live_report(without, created="now").scores == ()
    traffic(drifting, np.arange(300.0, 330.0, 0.5), seed=9, age=1.5)
    report = live_report(read_all(without), created="now")
    assert {score.feature for score in report.scores} == {"income", "plan", SCORE}


def set_baseline(data, reference, version=1):
    write_baseline(
        baseline_path(data),
        Baseline(
            at="2026-01-01T00:00:00Z", who="ada@host", reason="why", source="a file", model="m", version=f"v{version}",
            registry_version=str(version), rows=reference.rows, reference=msgspec.Raw(encode_reference(reference)),
        ),
    )  # fmt: skip


def test_an_operators_baseline_holds_for_its_version_until_it_is_cleared(drifting, data, tmp_path):
    put_reference(data, 2)
    drifting.show(0.9)
    fold = read_all(fold_of(drifting, data))
    assert fold.detection.episodes.open
    set_baseline(data, put_reference(tmp_path / "other", age=1.5))
    drifting.show()
    report = live_report(read_all(fold), created="now")
    assert (report.reference_in_force.kind, report.verdict) == ("baseline", "none")
    assert "ada@host" in report.reference_in_force.words
    assert not fold.detection.episodes.open
    fold = restarted(fold, drifting, data)
    traffic(drifting, np.arange(300.0, 320.0, 0.5), version=2)
    assert live_report(read_all(fold), created="now").reference_in_force.kind == "version"
    traffic(drifting, np.arange(320.0, 340.0, 0.5), version=1)
    assert live_report(read_all(fold), created="now").reference_in_force.kind == "baseline"
    assert clear_baseline(baseline_path(data))
    assert not clear_baseline(baseline_path(data))
    traffic(drifting, np.arange(340.0, 360.0, 0.5), version=1)
    assert live_report(read_all(fold), created="now").reference_in_force.kind == "version"
    assert read_baseline(baseline_path(data)) is None


def test_a_damaged_baseline_is_told_and_the_versions_own_rows_are_taken(drifting, data):
    baseline_path(data).parent.mkdir()
    baseline_path(data).write_bytes(b"{}")
    report = live_report(read_all(fold_of(drifting, data)), created="now")
    assert report.reference_in_force.kind == "version"


def test_a_season_is_compared_with_the_same_hours_of_earlier_weeks(data):
    log = RecordedLog()
    rng = np.random.default_rng(0)
    for hour in range(15 * 24):  # nights and days differ, weeks do not
        log.events(hour * 3600.0, columns(rng, 60, age=1.5 if hour % 24 < 12 else -1.5))
    plain = {"bucket_us": 3_600_000_000, "span": Span(12, 300, None), "threshold": 200.0}
    log.show(0.2)
    fold = read_all(fold_of(log, data, **plain))
    log.show()
    assert fold.detection.episodes.open, "against one reference for all hours this is drift"
    seasonal = read_all(fold_of(log, data, seasonal=True, **plain))
    report = live_report(seasonal, created="now")
    assert (report.reference_in_force.kind, report.verdict) == ("seasonal", "none")
    assert report.reference_in_force.rows in {720, 1440}
    week = (BIRTH_US + 8 * 24 * 3_600_000_000) // 3_600_000_000
    assert all(each.alarmed is None or each.alarmed < week for each in seasonal.state.champion.watched.values())
    halves = fold_of(log, data, seasonal=True, **plain)
    for part in np.linspace(0.1, 1, 23):
        log.show(part)
        halves = restarted(read_all(halves), log, data, seasonal=True, **plain)
    assert scores(halves) == scores(seasonal)


def test_the_state_file_comes_back_and_a_damaged_one_is_set_aside(drifting, data, tmp_path):
    fold = read_all(fold_of(drifting, data))
    path = tmp_path / "drift" / "live.state"
    save_state(path, fold.saved())
    kept = read_state(path, deployment="d", bucket_us=1_000_000)
    assert scores(fold_of(drifting, data, kept)) == scores(fold)
    for bucket_us, deployment in ((60_000_000, "d"), (1_000_000, "other")):
        save_state(path, fold.saved())
        assert read_state(path, deployment=deployment, bucket_us=bucket_us).champion.last is None
        assert not path.exists()
    content = bytearray(path.with_suffix(".damaged").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fresh = read_state(path, deployment="d", bucket_us=1_000_000)
    assert scores(read_all(fold_of(drifting, data, fresh))) == scores(fold), "the log still has it all"
    path.write_bytes(b"")
    assert read_state(path, deployment="d", bucket_us=1_000_000).champion.last is None


def test_the_deployment_file_says_what_is_watched():
    deployment = Deployment(name="churn")
    given = watching_of(deployment, psi=0.25)
    assert (given.rules.psi, given.threshold, given.bucket_us, given.check_buckets) == (0.25, 43_200, 60_000_000, 60)
    assert (given.span, given.seasonal, given.once) == (Span(24, 500, None), False, False)
    changed = msgspec.structs.replace(
        deployment.drift, psi=0.4, bucket=Duration(10), run_length=Duration(86400), reference="seasonal",
        one_row_per_entity=True,
    )  # fmt: skip
    given = watching_of(msgspec.structs.replace(deployment, drift=changed), psi=0.25)
    assert (given.rules.psi, given.threshold, given.seasonal, given.once) == (0.4, 8640, True, True)
