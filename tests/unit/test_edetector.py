"""The live detector against its recursion written out, against exact expectations, and against long simulated peace."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import dirichlet_multinomial

from shadow_mlops.statistics.alternatives import normal_ratios
from shadow_mlops.statistics.edetector import EDetector, Step

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from one_row_buckets import Runs, edges_of

NORMAL = NormalDist()
Bucket = tuple[int, list[np.ndarray]]


def starting_counts(counts: np.ndarray, kind: str) -> list[float]:
    if kind == "category":
        return [count + 0.5 for count in counts]
    *values, last, missing = counts
    return [max(value, 0.5) for value in values] + [last + 1, missing + 0.5]


def starting_counts_by_group(counts: np.ndarray, kind: str) -> list[list[float]]:
    whole = starting_counts(counts.sum(axis=0), kind)
    if len(counts) == 1:
        return [whole]
    return [[count + 2 * w / sum(whole) for count, w in zip(group, whole, strict=True)] for group in counts]


def written_out_ratios(start: list[float], kind: str) -> list[list[float]]:
    if kind == "category":
        return [[odds if i == k else 1.0 for i in range(len(start))] for k in range(len(start)) for odds in (3, 1 / 3)]
    values = start[:-1]
    borders = [
        -math.inf,
        *(NORMAL.inv_cdf(sum(values[: i + 1]) / sum(values)) for i in range(len(values) - 1)),
        math.inf,
    ]
    tables = []
    for shift, scale in [
        *((shift, 1.0) for shift in (-1, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1)),
        (0.0, 1.5),
        (0.0, 0.67),
    ]:
        moved = [NORMAL.cdf((border - shift) / scale) for border in borders]
        still = [NORMAL.cdf(border) for border in borders]
        tables.append([(moved[i + 1] - moved[i]) / (still[i + 1] - still[i]) for i in range(len(values))] + [1.0])
    missing = [[1.0] * len(values) + [odds] for odds in (3, 1 / 3)]
    return (tables if len(values) > 1 else []) + missing


def log_likelihood(counts: np.ndarray, pseudo: list[float]) -> float:
    def rising(x: float, n: int) -> list[float]:
        return [math.log(x + i) for i in range(n)]

    bins = itertools.chain.from_iterable(rising(k, int(b)) for k, b in zip(pseudo, counts, strict=True))
    return math.fsum([*bins, *(-term for term in rising(sum(pseudo), int(sum(counts))))])


def written_out(
    reference: list[np.ndarray], kinds: list[str], threshold: float, buckets: list[Bucket], groups: int = 1
) -> Iterator[Step]:
    """The recursion as it is specified, without a thought for speed."""
    features = range(len(kinds))
    starts = [
        starting_counts_by_group(reference_.reshape(groups, -1), kind)
        for reference_, kind in zip(reference, kinds, strict=True)
    ]
    ratios = [[written_out_ratios(start, kind) for start in starts[f]] for f, kind in enumerate(kinds)]
    pseudo = [[list(start) for start in starts[f]] for f in features]
    levels = [[0.0] * len(ratios[f][0]) for f in features]
    for group, counts in buckets:
        for f in features:
            now = pseudo[f][group]
            for j, w in enumerate(ratios[f][group]):
                tilted = [n * r for n, r in zip(now, w, strict=True)]
                tilted = [k * sum(now) / sum(tilted) for k in tilted]
                gain = log_likelihood(counts[f], tilted) - log_likelihood(counts[f], now)
                levels[f][j] = (levels[f][j] + 1) * math.exp(gain)
            pseudo[f][group] = [n + int(b) for n, b in zip(now, counts[f], strict=True)]
        means = np.array([math.fsum(each) / len(each) for each in levels])
        alarms = means >= len(kinds) * threshold
        alarm = bool(means.mean() >= threshold)
        yield Step(means, alarms, float(means.mean()), alarm)
        rest = float(means[~alarms].sum()) / len(kinds)
        for f in features:
            if alarm and (alarms[f] or rest >= threshold):
                pseudo[f] = [list(start) for start in starts[f]]
                levels[f] = [0.0] * len(levels[f])


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[np.ndarray], list[str], int, list[Bucket]]:
    groups = draw(st.integers(1, 3))
    kinds = draw(st.lists(st.sampled_from(["number", "category"]), min_size=1, max_size=4))
    sizes = [draw(st.integers(2, 6)) for _ in kinds]

    def counts(size: int, most: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(0, most), min_size=size, max_size=size)

    reference = [np.array([draw(counts(size, 40)) for _ in range(groups)]) for size in sizes]
    buckets = [
        (draw(st.integers(0, groups - 1)), [np.array(draw(counts(size, 12))) for size in sizes])
        for _ in range(draw(st.integers(1, 6)))
    ]
    return [each if groups > 1 else each[0] for each in reference], kinds, groups, buckets


def same_bits(one: Step, other: Step) -> bool:
    return (
        one.levels.tobytes() == other.levels.tobytes()
        and one.feature_alarms.tobytes() == other.feature_alarms.tobytes()
        and (one.deployment_level, one.deployment_alarm) == (other.deployment_level, other.deployment_alarm)
    )


@settings(max_examples=150, deadline=None)
@given(scenarios(), st.sampled_from([2.3, 17.3, 1234.5]))
def test_it_is_the_recursion_written_out(scenario, threshold: float) -> None:
    reference, kinds, groups, buckets = scenario
    detector = EDetector(reference, kinds, threshold=threshold, groups=groups)
    for (group, counts), expected in zip(
        buckets, written_out(reference, kinds, threshold, buckets, groups), strict=True
    ):
        step = detector.update(counts, group)
        np.testing.assert_allclose(step.levels, expected.levels, rtol=1e-9)
        assert step.deployment_level == pytest.approx(expected.deployment_level, rel=1e-9)
        assert step.feature_alarms.tolist() == expected.feature_alarms.tolist()
        assert step.deployment_alarm == expected.deployment_alarm


@settings(max_examples=50, deadline=None)
@given(scenarios(), st.integers(0, 5), st.sampled_from([2.3, 1234.5]))
def test_a_restart_and_a_replay_change_no_bit(scenario, cut: int, threshold: float) -> None:
    reference, kinds, groups, buckets = scenario
    widest = max(each.shape[-1] for each in reference) + 2
    first = EDetector(reference, kinds, threshold=threshold, groups=groups)
    second = EDetector(reference, kinds, threshold=threshold, groups=groups)
    for at, (group, counts) in enumerate(buckets):
        if at == cut:
            kept, second = second.state(), EDetector(reference, kinds, threshold=threshold, groups=groups)
            second.restore(kept)
        padded = np.zeros((len(kinds), widest), dtype=np.int32)
        for row, each in zip(padded, counts, strict=True):
            row[: len(each)] = each
        assert same_bits(first.update(counts, group), second.update(padded, group))
    assert first.state().log_levels.tobytes() == second.state().log_levels.tobytes()
    assert first.state().seen.tobytes() == second.state().seen.tobytes()
    assert first.levels.tobytes() == second.levels.tobytes()


def test_a_state_is_a_copy() -> None:
    detector = EDetector([np.array([50, 50, 0])], ["number"], threshold=1e6)
    kept = detector.state()
    detector.update([np.array([9, 3, 0])])
    assert kept.seen.sum() == 0
    assert np.isneginf(kept.log_levels).all()


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("number", [3, 2, 4, 0]), ("number", [30, 30, 30, 5]), ("category", [7, 1, 0]), ("category", [400, 3, 1, 0])],
)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_expectation_of_every_ratio_is_one(kind: str, reference: list[int], rows: int) -> None:
    """Exactly, over all counts that a bucket can have, in the first bucket and after another one."""
    bins = len(reference)
    possible = [np.array(c) for c in itertools.product(range(rows + 1), repeat=bins) if sum(c) == rows]
    start = np.array(starting_counts(np.array(reference), kind))
    for before in (np.zeros(bins, dtype=int), np.array([4, 0, *[1] * (bins - 2)])):
        mean = 0.0
        for counts in possible:
            detector = EDetector([np.array(reference)], [kind], threshold=1e9)
            detector.update([before])
            levels = np.exp(detector.state().log_levels) + 1
            detector.update([counts])
            ratio = np.exp(detector.state().log_levels) / levels
            mean = mean + dirichlet_multinomial.pmf(counts, start + before, rows) * ratio
        np.testing.assert_allclose(mean, 1.0, rtol=1e-10)


def test_a_thousand_categories_cost_one_pass_and_no_accuracy() -> None:
    """The interpolation over bins against the sum over all bins for each alternative."""
    rng = np.random.default_rng(5)
    shares = 1 / np.arange(1, 1001) ** 1.1
    shares = np.append(shares / shares.sum(), [0, 0])
    reference, counts = rng.multinomial(20_000, shares), rng.multinomial(3000, shares)
    counts[[3, 1000, 1001]] += [900, 40, 7]
    detector = EDetector([reference], ["category"], threshold=1e300)
    detector.update([counts])
    pseudo = reference + 0.5
    expected = []
    for k, odds in itertools.product(range(len(pseudo)), (3, 1 / 3)):
        tilted = pseudo.copy()
        tilted[k] *= odds
        tilted *= pseudo.sum() / tilted.sum()
        terms = gammaln(tilted + counts) - gammaln(tilted) - gammaln(pseudo + counts) + gammaln(pseudo)
        expected.append(math.fsum(terms))
    np.testing.assert_allclose(detector.state().log_levels, expected, rtol=1e-9, atol=1e-9)


def test_a_feature_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(6)
    sizes = [4, 60, 3, 12, 2]
    kinds = ["number", "category", "category", "number", "number"]
    reference = [rng.integers(1, 50, size) for size in sizes]
    together = EDetector(reference, kinds, threshold=1e9)
    alone = [EDetector([each], [kind], threshold=1e9) for each, kind in zip(reference, kinds, strict=True)]
    for _ in range(20):
        counts = [rng.integers(0, 9, size) for size in sizes]
        step = together.update(counts)
        parts = [one.update([each]).levels[0] for one, each in zip(alone, counts, strict=True)]
        np.testing.assert_array_equal(step.levels, parts)
    assert step.deployment_level == pytest.approx(np.mean(parts))


def test_a_bucket_without_rows_is_time_that_passes() -> None:
    detector = EDetector([np.array([50, 50, 0]), np.array([5, 5])], ["number", "category"], threshold=1e9)
    detector.update([np.array([3, 9, 0]), np.array([10, 2])])
    before, kept = detector.levels, detector.state().seen
    step = detector.update(np.zeros((2, 3), dtype=np.int64))
    np.testing.assert_allclose(step.levels, before + 1, rtol=1e-14)
    assert detector.state().seen.tobytes() == kept.tobytes()


@pytest.mark.filterwarnings("error")
def test_nothing_overflows() -> None:
    reference = [np.array([100] * 10 + [0]), np.array([900, 100, 0, 0])]
    detector = EDetector(reference, ["number", "category"], threshold=43_200)
    step = detector.update([np.array([0] * 9 + [10_000_000, 0]), np.array([0, 0, 10_000_000, 0])])
    assert np.finfo(float).max > step.levels[0] > 1e307
    assert step.levels[1] > 1e6  # one bucket is one draw of shares: its evidence does not grow with its rows for ever
    assert np.finfo(float).max > step.deployment_level > 1e307
    assert step.deployment_alarm
    assert step.feature_alarms.all()
    assert detector.levels.tolist() == [0.0, 0.0]
    even = EDetector(reference, ["number", "category"], threshold=43_200)
    step = even.update([np.array([1_000_000] * 10 + [0]), np.array([9_000_000, 1_000_000, 0, 0])])
    assert np.isfinite(step.levels).all()
    assert not step.deployment_alarm


def test_an_alarm_begins_its_feature_anew_and_no_other() -> None:
    reference = [np.array([100] * 10 + [0])] * 3
    detector = EDetector(reference, ["number"] * 3, threshold=50)
    drifted, even = np.array([0] * 9 + [4, 0]), np.array([1] * 10 + [0])
    step = detector.update([drifted, even, even])
    while not step.deployment_alarm:
        before = step
        step = detector.update([drifted, even, even])
    assert step.feature_alarms.tolist() == [True, False, False]
    assert step.levels[0] >= 3 * 50 > before.levels[0]
    assert detector.levels[0] == 0
    assert (detector.levels[1:] == step.levels[1:]).all()
    assert detector.state().seen.reshape(3, -1).sum(axis=1).tolist()[0] == 0
    assert (detector.state().seen.reshape(3, -1).sum(axis=1)[1:] > 0).all()
    fresh = EDetector(reference, ["number"] * 3, threshold=50)
    assert detector.update([drifted] * 3).levels[0] == fresh.update([drifted] * 3).levels[0]


def test_an_alarm_that_no_feature_raised_alone_begins_all_anew() -> None:
    reference = [np.array([100] * 10 + [0])] * 3
    detector = EDetector(reference, ["number"] * 3, threshold=1000)
    step = detector.update([np.array([0] * 9 + [1, 0])] * 3)
    while not step.deployment_alarm:
        step = detector.update([np.array([0] * 9 + [1, 0])] * 3)
    assert not step.feature_alarms.any()
    assert step.deployment_level >= 1000
    assert detector.levels.tolist() == [0, 0, 0]
    assert not detector.state().seen.any()


def test_a_lasting_alarm_hides_no_slower_drift() -> None:
    rng = np.random.default_rng(8)
    detector = EDetector([np.array([100] * 10 + [0])] * 2, ["number"] * 2, threshold=10_000)
    loud, slow = np.array([0] * 8 + [0.5, 0.5, 0]), np.array([0.07] * 5 + [0.13] * 5 + [0])
    alarms = np.zeros(2, dtype=int)
    for _ in range(400):
        alarms += detector.update(np.array([rng.multinomial(5, loud), rng.multinomial(5, slow)])).feature_alarms
    assert alarms[0] > 50
    assert alarms[1] > 0


@pytest.mark.parametrize(
    ("kind", "reference", "drifted"),
    [
        ("number", [100] * 10 + [0], [95] * 10 + [50]),  # values go missing
        ("number", [100] * 10 + [0], [150, 125, 100, 75, 50, 50, 75, 100, 125, 150, 0]),  # same mean, wider
        ("number", [100] * 10 + [0], [50, 75, 100, 125, 150, 150, 125, 100, 75, 50, 0]),  # narrower
        ("number", [1000, 0], [900, 100]),  # a constant goes missing
        ("category", [500, 300, 200, 0, 0], [480, 290, 190, 40, 0]),  # values that were never seen
        ("category", [500, 300, 200, 0, 0], [500, 500, 0, 0, 0]),  # one that vanished
    ],
)
def test_what_is_found(kind: str, reference: list[int], drifted: list[int]) -> None:
    rng = np.random.default_rng(9)
    detector = EDetector([np.array(reference)], [kind], threshold=10_000)
    shares = np.array(drifted) / sum(drifted)
    rows = 0
    while not detector.update([rng.multinomial(10, shares)]).deployment_alarm:
        rows += 10
        assert rows < 1500


def test_a_number_with_one_bin_of_values_can_only_go_missing() -> None:
    detector = EDetector([np.array([1000, 0])], ["number"], threshold=1e9)
    assert detector.state().log_levels.shape == (2,)


def test_tails_are_as_exact_above_as_below() -> None:
    shares = np.array([1e-9, 0.3, 0.2, 0.2, 0.3 - 2e-9, 1e-9])
    ratios = normal_ratios(shares)
    np.testing.assert_allclose(ratios[7], ratios[0][::-1], rtol=1e-8)
    np.testing.assert_allclose(ratios[8:, 0], ratios[8:, -1], rtol=1e-8)
    border = NORMAL.inv_cdf(1e-9)
    assert ratios[0][0] == pytest.approx(math.erfc(-(border + 1) / math.sqrt(2)) / 2e-9, rel=1e-8)
    assert ratios[9][-1] == pytest.approx(math.erfc(-border / 0.67 / math.sqrt(2)) / 2e-9, rel=1e-6, abs=0)


@pytest.mark.parametrize(
    "counts",
    [
        [np.array([1, 2, 0])],
        [np.array([1, 2, 0]), np.array([1, 2])],
        [np.array([1, -1, 0]), np.array([1, 2, 3, 4])],
        [np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0, 4.0])],
        np.array([[1, 2, 0, 1], [1, 2, 3, 4]]),  # a row in the padding
        np.array([[1, 2, 0], [1, 2, 3]]),
    ],
)
def test_counts_of_other_bins_are_refused_and_nothing_is_taken(counts) -> None:
    detector = EDetector([np.array([50, 50, 0]), np.array([5, 5, 5, 5])], ["number", "category"], threshold=100)
    with pytest.raises(ValueError, match="counts"):
        detector.update(counts)
    assert np.isneginf(detector.state().log_levels).all()
    assert not detector.state().seen.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": [], "kinds": []}, "number or a category"),
        ({"kinds": ["number", "number"]}, "number or a category"),
        ({"kinds": ["text"]}, "number or a category"),
        ({"threshold": 0.5}, "above 1"),
        ({"threshold": math.inf}, "above 1"),
        ({"groups": 168}, "in 168 groups"),
        ({"reference": [np.array([7])]}, "two bins"),
        ({"reference": [np.array([7, -7])]}, "two bins"),
    ],
)
def test_a_wrong_reference_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDetector(**{"reference": [np.array([50, 50, 0])], "kinds": ["number"], "threshold": 100.0, **arguments})


def test_other_groups_and_states_are_refused() -> None:
    detector = EDetector([np.array([[50, 50, 0], [20, 80, 0]])], ["number"], threshold=100, groups=2)
    for group in (-1, 2):
        with pytest.raises(ValueError, match="groups 0 to 1"):
            detector.update([np.array([1, 1, 1])], group)
    with pytest.raises(ValueError, match="belongs to"):
        detector.restore(EDetector([np.array([50, 50, 0])], ["number"], threshold=100).state())


def test_the_benchmarks_form_for_buckets_of_one_row_is_the_detector() -> None:
    """``benchmarks/e_detector.py`` takes its figures from it."""
    rng = np.random.default_rng(11)
    runs, features, rows = 3, 4, 100
    edges = edges_of(rng.standard_normal((runs, features, rows)))
    quick = Runs(edges, rows)
    reference = [np.array([rows // 10] * 10 + [0])] * features
    detectors = [EDetector(reference, ["number"] * features, threshold=1e300) for _ in range(runs)]
    for _ in range(300):
        values = rng.standard_normal((runs, features)) + 0.2
        quick.step(values)
        places = (values[:, :, None] > edges).sum(axis=2)
        for run, detector in enumerate(detectors):
            levels = detector.update((places[run][:, None] == np.arange(11)).astype(int)).levels
            np.testing.assert_allclose(quick.levels[run].mean(axis=1), levels, rtol=1e-11)


@pytest.mark.slow
def test_the_run_length_without_drift_is_what_was_promised(capsys: pytest.CaptureFixture[str]) -> None:
    """400 runs until each has raised its false alarm; the features of one detector are the runs."""
    runs, rows, threshold = 400, 1000, 1000
    rng = np.random.default_rng(12)
    edges = edges_of(rng.standard_normal((runs, rows)))
    reference = [np.array([rows // 10] * 10 + [0])] * runs

    def passed(shift: float, change: int) -> np.ndarray:
        detector = EDetector(reference, ["number"] * runs, threshold=1e300)
        at, bucket = np.zeros(runs, dtype=int), 0
        while (at == 0).any():
            values = rng.standard_normal(runs) + (shift if bucket >= change else 0.0)
            places = (values[:, None] > edges).sum(axis=1)
            levels = detector.update((places[:, None] == np.arange(11)).astype(int)).levels
            bucket += 1
            at[(at == 0) & (levels >= threshold)] = bucket
        return at

    false = passed(0.0, 0)
    error = false.std(ddof=1) / math.sqrt(runs)
    drifted = passed(0.5, 200)
    delay = drifted[drifted > 200] - 200
    with capsys.disabled():
        print(
            f"\nA = {threshold:,}: false alarm after {false.mean():,.0f} ± {error:.0f} rows,"
            f" a shift of 0.5σ found after {delay.mean():.0f} (all within {delay.max()})"
        )
    assert false.mean() >= threshold - 3 * error
    assert np.quantile(delay, 0.95) < 150
