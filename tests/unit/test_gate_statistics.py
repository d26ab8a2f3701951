"""The gate's numbers against oracles of their own: exact products, integration, bootstrap, plain simulation."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

from shadow_mlops.statistics import losses, mcnemar, sequences
from shadow_mlops.statistics.coverage import Covered, objections
from shadow_mlops.statistics.delong import delong
from shadow_mlops.statistics.discoveries import e_benjamini_hochberg
from shadow_mlops.statistics.eprocess import BETS, GridProcess, grid_state, log_e_paths, plain_state
from shadow_mlops.statistics.harm import HarmDetector
from shadow_mlops.statistics.ranking import MOST_WAITING, RankedPairs


def discordant(rng: np.random.Generator, shape: tuple[int, ...], discordance: float, lift: float) -> np.ndarray:
    """Differences of two classifiers that disagree on a part of the rows; the challenger is better by ``lift``."""
    dice = rng.random(shape)
    return np.where(dice < (discordance + lift) / 2, 1.0, np.where(dice < discordance, -1.0, 0.0))


def exact_e_value(values: list[float], bound: float, margin: float) -> Decimal:
    getcontext().prec = 60
    total = Decimal(0)
    for bet in BETS:
        product = Decimal(1)
        for value in values:
            product *= 1 + Decimal(float(bet)) * (Decimal(value) + Decimal(margin)) / (Decimal(bound) + Decimal(margin))
        total += product
    return total / len(BETS)


@pytest.mark.parametrize(("bound", "margin"), [(1.0, 0.0), (4.595, 0.0), (1.0, 0.005), (7.5, 1.0)])
def test_e_value_is_the_product_in_high_precision(bound: float, margin: float) -> None:
    values = np.random.default_rng(3).uniform(-bound, bound, 400)
    process = GridProcess(bound=bound, margin=margin)
    process.update(values)
    expected = float(exact_e_value(values.tolist(), bound, margin).ln())
    assert process.log_e_value == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert log_e_paths(values[None, :], bound=bound, margin=margin)[0, -1] == pytest.approx(expected, rel=1e-10)


@given(st.lists(st.floats(-1, 1), max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_batches_and_restarts_change_no_bit(values: list[float], cuts: list[int]) -> None:
    whole = GridProcess(bound=1.0, margin=0.01)
    whole.update(values)
    parted = GridProcess(bound=1.0, margin=0.01)
    for part in np.split(np.array(values), sorted(cuts)):
        parted.update(part)
        parted = GridProcess.resumed(grid_state(json.loads(json.dumps(plain_state(parted.state())))))
    assert parted.state() == whole.state()


def test_the_state_has_the_same_bits_on_every_machine() -> None:
    # NumPy's logarithms do not: with AVX-512 some 8 % of log1p differ from those without in their last bit.
    rows = np.arange(3000)
    process, surprise = GridProcess(bound=1.0, margin=0.01), GridProcess(bound=losses.log_loss_bound())
    process.update((rows * 37 % 201 - 100) / 100)
    surprise.update(losses.of_log_loss((rows * 31 % 997 + 1) / 999, (rows * 57 % 991 + 1) / 993).values)
    kept = json.dumps([plain_state(each.state()) for each in (process, surprise)])
    assert hashlib.sha256(kept.encode()).hexdigest().startswith("ba73c366126f123f")


def test_wealth_beyond_any_double_is_still_told_apart() -> None:
    won, lost = GridProcess(bound=1.0), GridProcess(bound=1.0)
    won.update([1.0] * 5000)
    lost.update([-1.0] * 50_000)
    assert won.e_value == won.peak == 1e300
    assert won.log_e_value == pytest.approx(5000 * np.log(1.975) - np.log(20), rel=1e-9)
    assert lost.e_value == 0
    assert lost.log_e_value == pytest.approx(50_000 * np.log(0.975) - np.log(20), rel=1e-9)


def test_a_mean_that_only_rounding_left_needs_no_number_of_labels() -> None:
    process = GridProcess(bound=1.0)
    process.update([0.1, 0.2, -0.3])
    assert process.mean > 0
    assert process.labels_needed(0.05) is None


def test_models_that_never_differ_need_their_time_to_be_shown_not_inferior() -> None:
    process = GridProcess(bound=1.0, margin=0.005)
    process.update([0.0] * 100)
    needed = process.labels_needed(0.05)
    assert needed is not None
    process.update([0.0] * (needed - 1))
    assert not process.crossed(0.05)
    assert process.labels_needed(0.05) == 1
    process.update([0.0])
    assert process.crossed(0.05)


def test_what_was_crossed_once_stays_crossed() -> None:
    process = GridProcess(bound=1.0)
    process.update([1.0] * 10)
    process.update([-1.0] * 50)
    assert process.e_value < 1
    assert process.crossed(0.05)
    assert process.labels_needed(0.05) == 0


@pytest.mark.parametrize("values", [[1.5], [float("nan")], [0.5, -1.0000001]])
def test_differences_beyond_the_bound_are_refused_and_nothing_is_taken(values: list[float]) -> None:
    process = GridProcess(bound=1.0)
    with pytest.raises(ValueError, match="between -1 and 1"):
        process.update(values)
    assert process.state() == GridProcess(bound=1.0).state()


def test_labels_needed_is_about_what_it_takes() -> None:
    process = GridProcess(bound=1.0)
    process.update([0.0] * 180 + [1.0, 1.0, -1.0] * 7)
    needed = process.labels_needed(0.05)
    shift, spread = 7 / 201, 21 / 201 - (7 / 201) ** 2
    assert needed == int(np.ceil(2 * spread * np.log(20) / shift**2 - 201))
    process.update(([0.0] * 180 + [1.0, 1.0, -1.0] * 7) * int(np.ceil(needed / 201)))
    assert process.log_e_value > np.log(20) - 1.5
    worse = GridProcess(bound=1.0)
    worse.update([-1.0, 0.0, 0.0])
    assert worse.labels_needed(0.05) is None


def test_power_is_that_of_the_specification() -> None:
    rng = np.random.default_rng(7)
    crossed = log_e_paths(discordant(rng, (300, 5000), 0.1, 0.02), bound=1.0) >= np.log(20)
    assert crossed.any(axis=1).mean() >= 0.90  # simulated: 0.945


@pytest.mark.parametrize(("wins", "losses_"), [(0, 1), (1, 0), (3, 3), (30, 12), (12, 30), (200, 150)])
def test_mcnemar_is_the_integral_over_win_probabilities(wins: int, losses_: int) -> None:
    def ratio(p: float) -> float:
        return 2 * float(np.exp((wins + losses_) * np.log(2) + wins * np.log(p) + losses_ * np.log1p(-p)))

    expected, _ = quad(ratio, 0.5, 1.0, epsabs=0, epsrel=1e-11, limit=200, points=[max(wins / (wins + losses_), 0.5)])
    assert np.exp(mcnemar.log_e_value(wins, losses_)) == pytest.approx(expected, rel=1e-8)


def test_mcnemar_is_fair_under_the_null() -> None:
    # The expectation over the next pair, for every (w, l) with a fair coin, is what it is now.
    for wins in range(15):
        for lost in range(15):
            now = np.exp(mcnemar.log_e_value(wins, lost))
            after = (np.exp(mcnemar.log_e_value(wins + 1, lost)) + np.exp(mcnemar.log_e_value(wins, lost + 1))) / 2
            assert after == pytest.approx(now, rel=1e-10)


def test_delong_is_a_bootstrap_without_the_bootstrap() -> None:
    rng = np.random.default_rng(11)
    positive = rng.random(500) < 0.3
    signal = positive * 1.0
    first, second = signal + rng.normal(size=500), 1.4 * signal + rng.normal(size=500)
    found = delong(first, second, positive)

    def area(scores: np.ndarray, truth: np.ndarray) -> float:
        return float((scores[truth][:, None] > scores[~truth][None, :]).mean())

    assert found.first == pytest.approx(area(first, positive), abs=1e-12)
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([rng.choice(np.flatnonzero(c), c.sum()) for c in (positive, ~positive)])
        drawn.append(area(second[rows], positive[rows]) - area(first[rows], positive[rows]))
    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.08)
    assert found.interval[0] < found.difference < found.interval[1]


def test_delong_of_two_equal_scores_is_no_difference_and_ties_count_half() -> None:
    scores = np.array([0.5, 0.5, 0.5, 0.5])
    found = delong(scores, scores, np.array([True, False, True, False]))
    assert (found.first, found.difference, found.p_value) == (0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="two rows"):
        delong(scores, scores, np.array([True, False, False, False]))


def test_mean_sequence_covers_at_all_times() -> None:
    rng = np.random.default_rng(13)
    missed = 0
    for _ in range(200):
        values = discordant(rng, (3000,), 0.3, 0.05)
        counts = np.arange(1, 3001)
        means = np.cumsum(values) / counts
        variances = np.cumsum(values**2) / counts - means**2
        looks = range(sequences.SHOWN_FROM, 3000, 50)
        missed += any(
            abs(means[t] - 0.05) > sequences.mean_radius(t + 1, float(variances[t]), 0.05, tuned_for=1000)
            for t in looks
        )
    assert missed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_intervals_of_means_wait_for_enough_values() -> None:
    assert sequences.mean_interval(0.1, 0.2, 99, 50, 0.05) is None
    assert sequences.mean_interval(0.1, 0.2, 100, 9, 0.05) is None
    low, high = sequences.mean_interval(0.1, 0.2, 100, 10, 0.05) or (0.0, 0.0)
    assert low < 0.1 < high


def test_quantile_sequence_covers_at_all_times_and_says_when_it_does_not_know() -> None:
    rng = np.random.default_rng(17)
    missed = 0
    for _ in range(100):
        values = rng.exponential(size=2000)
        for n in range(50, 2001, 150):
            low, high = sequences.quantile_interval(np.sort(values[:n]), 0.5, 0.05)
            if not low <= np.log(2) <= high:
                missed += 1
                break
    assert missed <= 5
    low, high = sequences.quantile_interval(np.sort(rng.exponential(size=100)), 0.99, 0.05)
    assert high == np.inf
    assert low > -np.inf


def test_harm_after_good_days_is_found_sooner_than_by_the_process_that_remembers_them() -> None:
    rng = np.random.default_rng(19)
    good, bad = discordant(rng, (6000,), 0.1, 0.02), discordant(rng, (6000,), 0.1, -0.04)
    detector, process = HarmDetector(bound=1.0), GridProcess(bound=1.0)
    detector.update(good)
    process.update(-good)
    delays: dict[str, int] = {}
    for i in range(0, 6000, 20):
        detector.update(bad[i : i + 20])
        process.update(-bad[i : i + 20])
        if detector.log_level >= np.log(2000 / 0.05):
            delays.setdefault("detector", i)
        if process.log_e_value >= np.log(20):
            delays.setdefault("process", i)
    assert delays["detector"] < delays.get("process", 6000)


def test_harm_detector_is_its_recursion_and_resumes_bit_for_bit() -> None:
    values = np.random.default_rng(23).uniform(-1, 1, 50)
    levels = [0.0] * len(BETS)
    for value in values:
        levels = [(m + 1) * (1 - float(bet) * value) for m, bet in zip(levels, BETS, strict=True)]
    whole = HarmDetector(bound=1.0)
    whole.update(values)
    assert np.exp(whole.log_level) == pytest.approx(np.mean(levels), rel=1e-10)
    parted = HarmDetector(bound=1.0)
    for value in values:
        kept = json.loads(json.dumps(parted.log_levels))
        parted = HarmDetector(bound=1.0, log_levels=kept, peak=parted.peak)
        parted.update([value])
    assert parted.log_levels == whole.log_levels
    assert parted.peak == whole.peak


def test_false_alarms_of_harm_within_a_step() -> None:
    rng = np.random.default_rng(29)
    alarms = 0
    for _ in range(60):
        detector = HarmDetector(bound=1.0)
        detector.update(discordant(rng, (500,), 0.2, 0.0))
        alarms += detector.alarmed(values=500, alpha=0.05)
    assert alarms / 60 <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5


def test_discoveries_keep_their_rate_and_find_what_is_there() -> None:
    assert not e_benjamini_hochberg(np.zeros(0), 0.1).size
    assert e_benjamini_hochberg(np.log([5.0, 5.0]), 0.1).tolist() == [False, False]
    assert e_benjamini_hochberg(np.log([9.0, 21.0]), 0.1).tolist() == [False, True]
    assert e_benjamini_hochberg(np.log([10.0, 10.0]), 0.1).tolist() == [True, True]
    assert e_benjamini_hochberg(np.array([-np.inf, np.inf]), 0.1).tolist() == [False, True]


def test_ranked_pairs_have_the_difference_of_the_areas_as_mean() -> None:
    rng = np.random.default_rng(31)
    positive = rng.random(20_000) < 0.4
    first, second = positive + rng.normal(size=20_000), 1.5 * positive + rng.normal(size=20_000)
    values = RankedPairs().update(positive, first, second)
    found = delong(first, second, positive)
    assert abs(values.mean() - found.difference) < 4 * values.std() / len(values) ** 0.5


def test_ranked_pairs_use_each_row_once_whatever_the_batches_and_forget_little() -> None:
    rng = np.random.default_rng(37)
    positive = rng.random(3000) < 0.05
    scores = rng.random((2, 3000)).round(1)
    whole = RankedPairs()
    expected = whole.update(positive, *scores)
    parted, got = RankedPairs(), []
    for cut in np.array_split(np.arange(3000), 17):
        kept = json.loads(json.dumps(parted.waiting))
        parted = RankedPairs([tuple(each) for each in kept], parted.passed_over)
        got += parted.update(positive[cut], *scores[:, cut]).tolist()
    assert got == expected.tolist()
    assert len(expected) <= positive.sum()
    assert len(whole.waiting) <= MOST_WAITING
    assert 2 * len(expected) + len(whole.waiting) + whole.passed_over == 3000


def test_losses_are_differences_within_their_bound() -> None:
    rng = np.random.default_rng(41)
    p, q, y = rng.random(500), rng.random(500), rng.integers(0, 2, 500).astype(float)
    brier = losses.of_brier(p, q, y)
    assert brier.values == pytest.approx((p - y) ** 2 - (q - y) ** 2)
    ours, theirs = np.where(y == 1, p, 1 - p), np.where(y == 1, q, 1 - q)
    log_loss = losses.of_log_loss(ours, theirs)
    clipped = np.clip(ours, 0.01, 0.99), np.clip(theirs, 0.01, 0.99)
    assert log_loss.values == pytest.approx(-np.log(clipped[0]) + np.log(clipped[1]))
    sure = losses.of_log_loss(np.array([0.0]), np.array([1.0]))
    assert sure.values[0] == pytest.approx(sure.bound)
    three = rng.dirichlet(np.ones(3), size=(2, 100))
    outcome = rng.integers(0, 3, 100)
    rows = np.arange(100)
    many = losses.of_multiclass_brier(three[0], three[0][rows, outcome], three[1], three[1][rows, outcome])
    truth = np.eye(3)[outcome]
    expected = ((three[0] - truth) ** 2).sum(axis=1) - ((three[1] - truth) ** 2).sum(axis=1)
    assert many.values == pytest.approx(expected)
    errors = losses.of_errors(np.array([1.0, 1e200]), np.array([2.0, 0.0]), np.array([2.0, 0.0]), bound=4.0)
    assert errors.values.tolist() == [1.0, 4.0]
    for found in (brier, log_loss, sure, many, errors):
        assert (np.abs(found.values) <= found.bound).all()
    with pytest.raises(ValueError, match="declare one"):
        losses.bound_of("squared_error")


def test_labels_that_the_decision_suppresses_are_objected_to() -> None:
    fair = ((Covered("decision 0", 500, 480), Covered("decision 1", 300, 290)),)
    assert objections(fair) == ()
    kept_back = ((Covered("decision 0", 5000, 5000), Covered("decision 1", 3000, 2760)),)
    (words,) = objections(kept_back)
    assert "100.0%" in words
    assert "92.0%" in words
    few = ((Covered("decision 0", 500, 500), Covered("decision 1", 10, 8)),)
    assert any("90% are needed" in word for word in objections(few))
    assert objections(((Covered("decision 0", 0, 0), Covered("decision 1", 10, 10)),)) == ()


def test_median_of_the_beta_mixture_is_one_half_where_nobody_wins() -> None:
    assert beta_distribution.sf(0.5, 4, 4) == pytest.approx(0.5)
    assert np.exp(mcnemar.log_e_value(3, 3)) < 1
