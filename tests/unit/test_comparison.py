"""What a comparison says, against scikit-learn on the same rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn import metrics
from tests.lakerows import START_US, Rows, schema

from shadow_mlops.comparison import Challenger, Comparison, ScoreDifference, Side, compare
from shadow_mlops.comparison.comparing import compare_tables
from shadow_mlops.comparison.window import Window

CLOSE = {"rel": 1e-12, "abs": 1e-12}


def compared(rows: Rows, **options) -> Comparison:
    with rows.connection() as connection:
        return compare_tables(connection, rows.schemas, **options)


def only(comparison: Comparison) -> Challenger:
    (challenger,) = comparison.challengers
    return challenger


def binary_rows(n: int = 500, *, seed: int = 1, ties: bool = True) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    sides = [np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1) for _ in range(2)]
    champion, challenger = (np.round(side, 2) if ties else side for side in sides)
    rows = Rows()
    rows.answer(champion)
    rows.shadow(challenger, outcomes=[str(int(t)) for t in truth])
    return rows, champion, challenger, truth


def assert_binary(side: Side, truth: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> None:
    assert side.accuracy == pytest.approx(metrics.accuracy_score(truth, scores >= threshold), **CLOSE)
    assert side.log_loss == pytest.approx(metrics.log_loss(truth, scores, labels=[False, True]), **CLOSE)
    assert side.brier == pytest.approx(metrics.brier_score_loss(truth, scores), **CLOSE)


@pytest.mark.parametrize("exact", [False, True])
def test_binary_figures_are_those_of_scikit_learn(exact: bool):
    rows, champion, challenger, truth = binary_rows()
    found = compared(rows, exact=exact)
    entry = only(found)
    assert (found.pairs, found.labelled, entry.pairs, entry.labelled, entry.label_coverage) == (500, 500, 500, 500, 1)
    for side, scores in ((found.champion, champion), (entry.champion, champion), (entry, challenger)):
        assert_binary(side, truth, scores)
        # Scores of two decimals never share a bin unless they are equal: the binned area is the exact one.
        assert side.auc == pytest.approx(metrics.roc_auc_score(truth, scores), **CLOSE)
        assert side.auc_error == 0 if exact else side.auc_error < 0.02
    assert entry.prevalence == truth.mean()
    assert found.agreement == entry.agreement == np.mean((champion >= 0.5) == (challenger >= 0.5))
    apart = challenger - champion
    assert entry.score_difference.mean == pytest.approx(apart.mean(), **CLOSE)
    assert entry.score_difference.mean_absolute == pytest.approx(np.abs(apart).mean(), **CLOSE)
    assert entry.score_difference.largest == np.abs(apart).max()
    assert (found.champion.version, entry.name, entry.version) == ("champion-1", "challenger", "v2")
    assert found.auc_bins == (None if exact else 65_536)


def test_scores_of_zero_and_one_are_clipped_as_scikit_learn_does():
    rows = Rows()
    rows.answer([0.0, 1.0, 1.0, 0.0])
    rows.shadow([1.0, 1.0, 0.0, 0.0], outcomes=["0", "0", "1", "1"])
    entry = only(compared(rows))
    truth = np.array([0, 0, 1, 1])
    assert_binary(entry.champion, truth, np.array([0.0, 1.0, 1.0, 0.0]))
    assert_binary(entry, truth, np.array([1.0, 1.0, 0.0, 0.0]))
    assert (entry.champion.auc, entry.auc) == (0.5, 0.0)


def test_the_threshold_of_each_event_decides():
    rows = Rows()
    rows.answer([0.4, 0.4], schema(threshold=0.3))
    rows.answer([0.4, 0.4], schema(threshold=0.5), first=2)
    rows.shadow([0.35, 0.35, 0.35, 0.6], outcomes=["1", "1", "1", "1"])
    entry = only(compared(rows))
    assert (entry.champion.accuracy, entry.accuracy, entry.agreement) == (0.5, 0.75, 0.75)


def test_one_class_has_no_area_but_all_else():
    rows = Rows()
    rows.answer([0.2, 0.9, 0.6])
    rows.shadow([0.3, 0.8, 0.7], outcomes=["1", "1", "1"])
    for exact in (False, True):
        entry = only(compared(rows, exact=exact))
        assert (entry.auc, entry.auc_error, entry.champion.auc) == (None, None, None)
        assert_binary(entry, np.ones(3), np.array([0.3, 0.8, 0.7]))
        assert entry.prevalence == 1


def test_one_row():
    rows = Rows()
    rows.answer([0.8])
    rows.shadow([0.3], outcomes=["1"], latency_us=70)
    entry = only(compared(rows))
    assert (entry.pairs, entry.accuracy, entry.champion.accuracy, entry.auc) == (1, 0, 1, None)
    assert entry.log_loss == -math.log(0.3)
    assert (entry.latency_p50_ms, entry.champion.latency_p99_ms) == (0.07, 0.1)


def test_nothing_archived_yet(tmp_path: Path):
    found = compare(tmp_path / "lake", accounting=tmp_path / "accounting.json")
    assert (found.pairs, found.labelled, found.agreement, found.challengers, found.snapshot) == (0, 0, None, (), 0)
    assert found.champion == Side()


def test_events_without_a_challenger_name_the_champion():
    rows = Rows()
    rows.answer([0.1, 0.2])
    rows.answer([0.1], schema(version="champion-2"), first=2)
    found = compared(rows)
    assert (found.champion.version, found.challengers, found.pairs) == ("champion-2", (), 0)


def test_pairs_without_labels_have_agreement_and_no_figures():
    rows = Rows()
    rows.answer([0.1, 0.8, 0.9])
    rows.shadow([0.2, 0.3, 0.8])
    found = compared(rows)
    assert (found.pairs, found.labelled, found.agreement) == (3, 0, pytest.approx(2 / 3))
    assert (found.champion.accuracy, only(found).log_loss, only(found).prevalence) == (None, None, None)
    assert b"NaN" not in msgspec.json.encode(found)


def test_both_sides_are_measured_on_the_same_pairs_only():
    rows = Rows()
    rows.answer([0.1, 0.9, 0.9, 0.1])
    rows.shadow([0.9, 0.8], outcomes=["0", "1"])
    rows.shadow([0.0], first=2, status="errored", outcomes=["0"])
    rows.shadow([0.7], first=3)
    entry = only(compared(rows))
    assert (entry.pairs, entry.labelled) == (3, 2)
    assert (entry.champion.accuracy, entry.accuracy) == (1.0, 0.5)


@pytest.mark.parametrize("unscored", [None, math.nan])
@pytest.mark.parametrize("side", ["", "champion_"])
def test_a_pair_without_a_score_on_one_side_is_measured_on_neither(side: str, unscored: float | None):
    rows = Rows()
    rows.answer([0.1, 0.9])
    rows.shadow([0.9, 0.8], outcomes=["0", "1"])
    for row in (rows.results[0], rows.pairs[0]):
        row[f"{side}score"] = unscored
    rows.pairs[0][f"{side}p_outcome"] = unscored
    entry = only(compared(rows))
    assert (entry.labelled, entry.champion.accuracy, entry.accuracy) == (1, 1.0, 1.0)
    assert entry.score_difference.largest == pytest.approx(0.1)
    assert entry.agreement == 1


def test_the_champion_is_that_of_the_latest_boot():
    rows = Rows()
    rows.answer([0.1, 0.1, 0.1])
    rows.answer([0.1], schema(version="champion-2"), first=3)
    rows.events[3] |= {"boot": 2, "monotonic_ns": 5}
    assert compared(rows).champion.version == "champion-2"


def test_latency_quantiles_are_of_pairs_only_and_within_their_bound():
    rng = np.random.default_rng(3)
    spent = np.concatenate([rng.integers(1, 2000, 300), rng.integers(10_000, 2_000_000, 200)])
    rows = Rows()
    rows.answer(np.full(501, 0.5))
    rows.shadow(np.full(500, 0.5), latency_us=spent.tolist())
    rows.shadow([0.5], first=500, status="timed_out", latency_us=2**31 - 1)
    entry = only(compared(rows))
    for found, share in ((entry.latency_p50_ms, 0.5), (entry.latency_p99_ms, 0.99)):
        assert found == pytest.approx(np.quantile(spent, share, method="inverted_cdf") / 1e3, rel=5e-4)
    assert entry.latency_p50_ms * 1e3 == np.quantile(spent, 0.5, method="inverted_cdf")


def multiclass_rows(n: int = 400) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    names = np.array(["a", "b", "c"])
    truth = rng.integers(3, size=n)
    sides = []
    for _ in range(2):
        raw = rng.random((n, 3)) + np.eye(3)[truth]
        sides.append(raw / raw.sum(axis=1, keepdims=True))
    rows = Rows()
    rows.answer(sides[0], schema("multiclass", names.tolist()))
    return rows, sides[0], sides[1], names[truth]


@pytest.mark.parametrize("exact", [False, True])
def test_multiclass_figures_are_those_of_scikit_learn(exact: bool):
    rows, champion, challenger, truth = multiclass_rows()
    # The challenger names its classes in another order: what belongs together is told by their names.
    rows.shadow(challenger[:, ::-1], outputs=["c", "b", "a"], outcomes=truth.tolist())
    entry = only(compared(rows, exact=exact))
    names = ["a", "b", "c"]
    for side, scores in ((entry.champion, champion), (entry, challenger)):
        assert side.accuracy == np.mean(np.array(names)[scores.argmax(axis=1)] == truth)
        assert side.log_loss == pytest.approx(metrics.log_loss(truth, scores, labels=names), **CLOSE)
        assert side.brier == pytest.approx(metrics.brier_score_loss(truth, scores, labels=names), **CLOSE)
        area = metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=names)
        assert abs(side.auc - area) <= side.auc_error + 1e-12
        assert side.auc_error == 0 if exact else side.auc_error < 1e-3
    assert entry.agreement == np.mean(champion.argmax(axis=1) == challenger.argmax(axis=1))
    distance = np.abs(champion - challenger).sum(axis=1) / 2
    assert entry.score_difference.mean is None
    assert entry.score_difference.mean_absolute == pytest.approx(distance.mean(), **CLOSE)
    assert entry.score_difference.largest == pytest.approx(distance.max(), **CLOSE)
    assert entry.prevalence == {name: np.mean(truth == name) for name in names}


def test_a_challenger_that_lacks_a_class_gave_it_nothing():
    rows = Rows()
    rows.answer([[0.5, 0.3, 0.2]] * 2, schema("multiclass", ["a", "b", "c"]))
    rows.shadow([[0.6, 0.4]] * 2, outputs=["a", "b"], outcomes=["a", "c"])
    entry = only(compared(rows))
    assert entry.log_loss == pytest.approx((-math.log(0.6) - math.log(np.finfo(float).eps)) / 2)
    assert entry.brier == pytest.approx(((0.4**2 + 0.4**2) + (0.6**2 + 0.4**2 + 1)) / 2)
    assert entry.score_difference.mean_absolute == pytest.approx(0.2)


def test_classes_that_are_spelled_differently_are_the_same_class():
    champion, challenger = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [[0.4, 0.3, 0.3], [0.1, 0.3, 0.6]]
    found = []
    for outputs in (["0", "1", "2"], ["0.0", "1.0", "2.0"], ["2.0", "true", "False"]):
        rows = Rows()
        rows.answer(champion, schema("multiclass", ["0", "1", "2"]))
        own = [row[::-1] for row in challenger] if outputs[0] == "2.0" else challenger
        rows.shadow(own, outputs=outputs, outcomes=["0", "2"])
        found.append(only(compared(rows, exact=True)))
    plain, *spelled = found
    assert plain.score_difference.mean_absolute == pytest.approx(0.1)
    for entry in spelled:
        assert entry.score_difference.mean_absolute == pytest.approx(0.1)
        assert entry.score_difference.largest == pytest.approx(0.1)
        assert (entry.agreement, entry.accuracy) == (plain.agreement, plain.accuracy)
        assert entry.log_loss == pytest.approx(plain.log_loss)
        assert entry.brier == pytest.approx(plain.brier)
        assert entry.auc == pytest.approx(plain.auc)


def test_classes_that_only_their_spelling_tells_apart_are_two():
    rows = Rows()
    rows.answer([[0.5, 0.5, 0.0]], schema("multiclass", ["1", "1.0", "2"]))
    rows.shadow([[0.2, 0.5, 0.3]], outputs=["1.0", "1", "2"])
    assert only(compared(rows)).score_difference.largest == pytest.approx(0.3)


def test_regression_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(7)
    truth = rng.normal(1e6, 30, 300)
    champion, challenger = truth + rng.normal(0, 9, 300), truth + rng.normal(2, 5, 300)
    rows = Rows()
    rows.answer(champion, schema("regression", ["value"]))
    rows.shadow(challenger, outcomes=[repr(float(value)) for value in truth])
    entry = only(compared(rows))
    for side, values in ((entry.champion, champion), (entry, challenger)):
        assert side.rmse == pytest.approx(metrics.root_mean_squared_error(truth, values), rel=1e-10)
        assert side.mae == pytest.approx(metrics.mean_absolute_error(truth, values), rel=1e-10)
        assert side.r2 == pytest.approx(metrics.r2_score(truth, values), rel=1e-10)
        assert (side.accuracy, side.auc, side.log_loss) == (None, None, None)
    assert entry.agreement is None
    assert entry.score_difference.mean == pytest.approx((challenger - champion).mean(), abs=1e-9)


@pytest.mark.parametrize("scale", [1e200, -1e307, 1e-200])
def test_values_of_any_size_have_the_figures_of_plain_ones(scale: float):
    truth, champion, challenger = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0]), np.array([2.0, 2.5, 4.5])
    found = []
    for factor in (1.0, scale):
        rows = Rows()
        rows.answer(champion * factor, schema("regression", ["value"]))
        rows.shadow(challenger * factor, outcomes=[repr(float(value)) for value in truth * factor])
        found.append(only(compared(rows)))
    plain, scaled = found
    for ours, theirs in ((plain, scaled), (plain.champion, scaled.champion)):
        assert theirs.rmse == pytest.approx(ours.rmse * abs(scale))
        assert theirs.mae == pytest.approx(ours.mae * abs(scale))
        assert theirs.r2 == pytest.approx(ours.r2)


def test_figures_that_no_double_holds_are_null():
    rows = Rows()
    rows.answer([1.7e308, -1.7e308, 1.7e308, 1.7e308], schema("regression", ["value"]))
    rows.shadow([-1.7e308, 1.7e308, -1.7e308, 0.0], outcomes=["1.7e308", "-1.7e308", "1.7e308", "1.7e308"])
    entry = only(compared(rows))
    assert (entry.rmse, entry.mae, entry.champion.rmse, entry.champion.r2) == (None, None, 0.0, 1.0)
    assert entry.score_difference == ScoreDifference()
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Challenger) == entry


def test_values_that_are_all_alike_have_no_r2():
    rows = Rows()
    rows.answer([1.0, 2.0], schema("regression", ["value"]))
    rows.shadow([2.0, 2.0], outcomes=["2.0", "2.0"])
    assert (only(compared(rows)).r2, only(compared(rows)).rmse) == (None, 0)


def test_a_span_has_the_events_from_its_beginning_to_before_its_end():
    rows, champion, challenger, truth = binary_rows(100)
    start = datetime.fromtimestamp(START_US / 1e6, UTC)
    window = Window(start + timedelta(seconds=20), start + timedelta(seconds=60))
    found = compared(rows, window=window)
    assert (found.pairs, found.labelled) == (40, 40)
    assert_binary(only(found), truth[20:60], challenger[20:60])
    assert_binary(found.champion, truth[20:60], champion[20:60])
    assert (found.since, found.until) == ("2026-05-28T20:27:00Z", "2026-05-28T20:27:40Z")


def test_each_champion_of_a_span_has_its_own_pairs():
    rows = Rows()
    rows.answer([0.9, 0.1])
    rows.answer([0.1], schema(version="champion-2"), first=2)
    rows.shadow([0.9, 0.2, 0.3], outcomes=["1", "1", "1"])
    found = compared(rows)
    assert (found.champion.version, found.pairs, found.champion.accuracy) == ("champion-2", 1, 0)
    (before,) = found.earlier
    assert (before.champion.version, before.pairs, before.champion.accuracy) == ("champion-1", 2, 0.5)
    assert (before.challengers[0].version, before.challengers[0].accuracy) == ("v2", 0.5)


def test_several_challengers_stand_beside_the_champion_on_their_own_pairs():
    rows = Rows()
    rows.answer([0.9, 0.1, 0.8])
    rows.shadow([0.9, 0.2, 0.3], outcomes=["1", "1", "1"])
    rows.shadow([0.9], name="challenger-b", version="v3", outcomes=["1"])
    found = compared(rows)
    assert [(c.name, c.version, c.pairs, c.champion.accuracy) for c in found.challengers] == [
        ("challenger", "v2", 3, pytest.approx(2 / 3)),
        ("challenger-b", "v3", 1, 1.0),
    ]
    assert (found.pairs, found.agreement, found.champion) == (4, 0.75, found.challengers[0].champion)


def test_replayed_and_live_results_of_a_version_are_one_challenger():
    rows = Rows()
    rows.answer(np.full(6, 0.9))
    rows.shadow(np.full(4, 0.8), name="replay", replayed=True)
    rows.shadow(np.full(2, 0.8), first=4)
    rows.shadow(np.full(2, 0.8), version="v1", name="replay", replayed=True, first=1)
    live, replayed = compared(rows).challengers
    assert (live.name, live.version, live.pairs, live.replayed) == ("challenger", "v2", 6, 4)
    assert (replayed.name, replayed.version, replayed.pairs, replayed.replayed) == ("replay", "v1", 2, 2)
    assert (live.accounting.sampled, live.accounting.pending) == (6, 0)
    assert (replayed.accounting.sampled, replayed.accounting.pending) == (2, 0)


def test_a_real_lake_says_what_its_rows_say(tmp_path: Path):
    rows, champion, challenger, truth = binary_rows(3000)
    rows.write(tmp_path, pieces=4)
    found = compare(tmp_path, exact=True)
    assert (found.pairs, found.labelled, found.snapshot) == (3000, 3000, 5)
    for side, scores in ((found.champion, champion), (only(found), challenger)):
        assert_binary(side, truth, scores)
        assert side.auc == pytest.approx(metrics.roc_auc_score(truth, scores), **CLOSE)
    start = datetime.fromtimestamp(START_US / 1e6, UTC)
    assert compare(tmp_path, since=start + timedelta(seconds=1000)).pairs == 2000
    assert compare(tmp_path, until=start).pairs == 0
