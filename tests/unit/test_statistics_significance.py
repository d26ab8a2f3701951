"""P-values keep their size in small samples too, and find what has moved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from shadow_mlops.statistics import distances, nulls, significance
from shadow_mlops.statistics.bins import category_bins, quantile_bins
from shadow_mlops.statistics.significance import (
    chi_square_p_values,
    family_p,
    js_p_values,
    psi_interval,
    psi_p_values,
    significant,
)


def p_value(reference, current, kind="category", *, tied=None, draws=None, of=psi_p_values):
    found = of([np.array(reference)], [np.array(current)], kinds=[kind], tied=[tied], draws=draws)
    return float(found.values[0]), found.nulls[0]


def rejected(trials):
    """Share of p-values below 0.01, and three standard errors of 1 %."""
    values = np.array(list(trials))
    return (values < 0.01).mean(), 3 * math.sqrt(0.01 * 0.99 / len(values))


# --- χ² where all bins are well filled


def test_well_filled_categories_are_chi_square():
    reference, current = [300, 300, 400, 0, 0], [280, 340, 380, 0, 0]
    statistic = float(distances.psi(np.array(reference), np.array(current))) * 500
    assert p_value(reference, current) == (pytest.approx(stats.chi2.sf(statistic, 2), abs=1e-15), "chi_square")


def test_js_has_the_chi_square_of_its_divergence():
    reference, current = [300, 300, 400, 0, 0], [280, 340, 380, 0, 0]
    p, null = p_value(reference, current, of=js_p_values)
    divergence = float(distances.js(np.array(reference), np.array(current))) ** 2
    assert (p, null) == (pytest.approx(stats.chi2.sf(8 * math.log(2) * divergence * 500, 2), abs=1e-15), "chi_square")
    assert p == pytest.approx(p_value(reference, current)[0], rel=0.02)


@pytest.mark.parametrize(
    ("reference", "current", "kind", "null"),
    [
        ([30, 970, 0, 0], [30, 970, 0, 0], "category", "chi_square"),
        ([29, 971, 0, 0], [30, 970, 0, 0], "category", "monte_carlo"),
        ([300, 700, 0, 0], [3, 7, 0, 0], "category", "monte_carlo"),
        ([199, 200, 0], [200, 201, 0], "number", "monte_carlo"),
        ([200, 200, 0], [200, 201, 0], "number", "chi_square"),
        ([199, 200, 0], [200, 199, 0], "number", "chi_square"),  # m = n
        ([200, 200, 1], [200, 201, 0], "number", "monte_carlo"),  # one missing value
    ],
)
def test_where_chi_square_is_used(reference, current, kind, null):
    assert p_value(reference, current, kind, draws=99)[1] == null


# --- Monte Carlo


def test_categories_have_the_p_value_of_all_ways_to_divide_them():
    reference, current = np.array([9, 2, 0, 0]), np.array([3, 8, 0, 0])
    observed = float(distances.psi(reference, current))
    exact = 0.0
    for a in range(1, 12):  # of 12 and 10 rows of both samples
        drawn = np.array([a, 11 - a, 0, 0])
        if distances.psi(drawn, reference + current - drawn) >= observed * (1 - 1e-12):
            exact += float(stats.hypergeom.pmf(a, 22, 12, 11))
    p, null = p_value(reference, current, draws=200_000)
    assert null == "monte_carlo"
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / 200_000))


def test_quantile_bins_have_the_p_value_of_all_ranks_that_rows_can_have():
    # all orders of 5 reference and 6 current rows are alike; k of these are below the second of the reference
    reference, current = [2, 3, 0], [6, 0, 0]
    ways = {k: math.comb(k + 1, 1) * math.comb(6 - k + 3, 3) / math.comb(11, 5) for k in range(7)}
    assert sum(ways.values()) == pytest.approx(1)
    observed = float(distances.psi(np.array(reference), np.array(current)))
    far = [k for k in ways if distances.psi(np.array([2, 3]), np.array([k, 6 - k])) >= observed * (1 - 1e-12)]
    exact = sum(ways[k] for k in far)
    assert p_value(reference, current, "number", draws=200_000)[0] == pytest.approx(exact, abs=0.003)


@pytest.mark.parametrize(("n", "m", "bins"), [(50, 50, 10), (50, 1000, 10), (50, 5000, 5), (60, 40, 20), (9, 500, 3)])
def test_continuous_features_raise_one_false_alarm_in_a_hundred(n, m, bins):
    rng = np.random.default_rng(n * m)

    def trial():
        values = rng.standard_cauchy(n)
        made = quantile_bins(values, bins)
        rows = [made.coarse(made.count(each)) for each in (values, rng.standard_cauchy(m))]
        return p_value(*rows, "number", tied=made.tied, draws=1999)[0]

    share, tolerance = rejected(trial() for _ in range(1500))
    assert 0.001 <= share <= 0.01 + tolerance


@pytest.mark.parametrize("shape", ["counts", "zeros and a rest", "missing"])
def test_repeated_and_missing_values_raise_no_more_false_alarms(shape):
    rng = np.random.default_rng(3)

    def values(rows):
        if shape == "counts":
            return rng.poisson(2, rows).astype(float)
        drawn = rng.normal(size=rows)
        drawn[rng.random(rows) < 0.3] = 0.0 if shape == "zeros and a rest" else np.nan
        return drawn

    def trial():
        reference, current = values(60), values(150)
        made = quantile_bins(reference)
        rows = [made.coarse(made.count(each)) for each in (reference, current)]
        return p_value(*rows, "number", tied=made.tied, draws=499)[0]

    share, tolerance = rejected(trial() for _ in range(700))
    assert share <= 0.01 + tolerance


def test_repeated_values_have_to_be_unlikely_as_an_urn_and_as_ranks():
    reference, current = (
        np.array([24, 23, 22, 22, 22, 21, 0]),
        np.array([11_445, 20_112, 14_292, 26_349, 13_249, 14_553, 0]),
    )
    given = nulls.no_drift(reference, current, "number", np.array([True] * 5 + [False]))
    observed = float(distances.psi(reference, current)) * (1 - 1e-12)
    alone = [significance._monte_carlo(significance._PSI, given, each, observed, 5000) for each in given.stretches]
    assert alone[0] < alone[1] < 0.05
    found = p_value(reference, current, "number", tied=np.array([True] * 5 + [False]), draws=5000)
    assert found == (alone[1], "monte_carlo")


def test_200_rare_categories_raise_no_more_false_alarms():
    rng = np.random.default_rng(12)
    names = np.array([f"v{i}" for i in range(203)], dtype=object)
    shares = np.append(np.full(200, 0.001), [0.4, 0.3, 0.1])

    def trial():
        reference, current = (rng.choice(names, rows, p=shares) for rows in (300, 900))
        made = category_bins(reference)
        return p_value(made.count(reference), made.count(current), draws=999)[0]

    share, tolerance = rejected(trial() for _ in range(500))
    assert share <= 0.01 + tolerance


def test_drift_has_the_least_p_value_that_the_draws_allow():
    rng = np.random.default_rng(5)
    values = rng.normal(size=400)
    made = quantile_bins(values)
    rows = [made.coarse(made.count(each)) for each in (values, rng.normal(2, 1, 100))]
    assert p_value(*rows, "number") == (1 / 20_001, "monte_carlo")
    found = psi_p_values([rows[0]] * 60, [rows[1]] * 60, kinds=["number"] * 60)
    assert found.values.tolist() == [1 / 24_001] * 60
    assert significant(found.values).all()


def test_the_same_counts_have_the_same_p_value_whatever_stands_beside_them():
    rng = np.random.default_rng(6)
    features = [rng.integers(0, 12, (2, bins)) for bins in (5, 5, 8)]
    features.append(np.array([[7, 7, 7, 0], [10, 3, 1, 0]]))  # quantiles, whose null distribution is kept
    kinds = ["number", "category", "category", "number"]
    together = psi_p_values([f[0] for f in features], [f[1] for f in features], kinds=kinds, draws=3000)
    significance._quantile_null.cache_clear()
    alone = [p_value(*f, kind, draws=3000)[0] for f, kind in reversed(list(zip(features, kinds, strict=True)))]
    assert together.values.tolist() == alone[::-1]


@pytest.mark.parametrize(
    ("reference", "current"),
    [([5, 0, 0], [7, 0, 0]), ([0, 0, 0], [7, 1, 0]), ([3, 4, 5], [0, 0, 0]), ([0, 0, 0], [0, 0, 0])],
)
@pytest.mark.parametrize("kind", ["number", "category"])
@pytest.mark.parametrize("of", [psi_p_values, js_p_values])
def test_where_nothing_can_be_compared_the_p_value_is_1(reference, current, kind, of):
    assert p_value(reference, current, kind, of=of) == (1.0, "none")


def test_only_missing_values_in_one_sample_are_found():
    assert p_value([40, 40, 0], [0, 0, 80], "number")[0] < 0.001
    assert p_value([0, 80], [40, 40], "number")[0] < 0.001


def test_categories_that_barely_have_a_bin_of_their_own_raise_no_false_alarms():
    rng = np.random.default_rng(17)
    shares, names = np.array([0.4, 0.4] + [0.001] * 200), [f"c{i}" for i in range(202)]

    def trial():
        counts = rng.multinomial(10_000, shares, 2)
        bins = category_bins(dict(zip(names, counts[0].tolist(), strict=True)), largest=20)
        return p_value(*(bins.count_codes(np.repeat(np.arange(202), each), names) for each in counts))[0]

    rate, three_errors = rejected(trial() for _ in range(1000))
    assert rate <= 0.01 + three_errors


def test_a_category_that_surely_has_a_bin_is_still_tested_beside_other():
    p, null = p_value([4000, 4000, 400, 20, 18, 500, 0], [4000, 3600, 800, 8, 9, 512, 0])
    assert p < 1e-9
    assert null == "chi_square"


def test_rare_categories_of_a_thousand_million_rows_are_drawn_too():
    p, null = p_value([900_000_000, 20, 0, 0], [600_000_000, 15, 0, 0], draws=999)
    assert null == "monte_carlo"
    assert p > 0.1


def test_a_p_value_that_is_clearly_large_is_told_by_fewer_draws():
    assert p_value([5, 5, 0, 0], [5, 6, 0, 0])[0] == pytest.approx(1, abs=0.05)
    # 1/1001 steps: that many were drawn
    scaled = p_value([9, 5, 0, 0], [5, 6, 0, 0])[0] * 1001
    assert scaled == pytest.approx(round(scaled), abs=1e-9)


# --- what is drawn


def test_draws_keep_what_is_given():
    rng = np.random.default_rng(7)
    reference, current = np.array([4, 3, 3, 9, 2, 1]), np.array([8, 1, 0, 5, 5, 7])
    stretch = np.array([0, 0, 0, 1, 1, 2])
    one, other = nulls.draw(rng, 500, reference, current, stretch)
    assert (one.sum(axis=1) == 22).all()
    assert (other.sum(axis=1) == 26).all()
    for bins in ([0, 1, 2], [3, 4], [5]):
        assert ((one + other)[:, bins].sum(axis=1) == (reference + current)[bins].sum()).all()
    assert min(one.min(), other.min()) >= 0
    # ranks within a stretch are fixed: a third of its rows, rounded down
    assert (one[:, 0] == one[:, :3].sum(axis=1) * 4 // 10).all()


def test_rows_of_a_stretch_that_the_reference_lacks_are_drawn_all_the_same():
    one, other = nulls.draw(
        np.random.default_rng(8), 50, np.array([9, 0, 0]), np.array([1, 5, 5]), np.array([0, 1, 1], dtype=np.int64)
    )
    assert (one.sum(axis=1) == 9).all()
    assert (other.sum(axis=1) == 11).all()


def test_without_repeated_values_the_reference_is_fixed_and_the_rest_dirichlet_multinomial():
    one, other = nulls.draw(
        np.random.default_rng(8), 100_000, np.array([2, 3]), np.array([0, 4]), np.zeros(2, dtype=np.int64)
    )
    assert (one == [2, 3]).all()
    expected = [float(stats.betabinom.pmf(k, 4, 2, 4)) for k in range(5)]
    np.testing.assert_allclose(np.bincount(other[:, 0]) / 100_000, expected, atol=0.006)


def test_rare_categories_are_merged_into_other_by_the_counts_of_both():
    # the smaller sample has a quarter of all rows: categories with 20 rows in both are tested
    made = nulls.no_drift(np.array([0, 20, 14, 0, 66, 0]), np.array([20, 0, 5, 1, 264, 10]), "category")
    assert made.reference.tolist() == [0, 20, 80, 0]
    assert made.current.tolist() == [20, 0, 270, 10]
    assert [len(set(each.tolist())) for each in made.stretches] == [4]
    assert not made.ranked.any()


def test_bins_of_repeated_values_are_merged_with_neighbours_and_borders_keep_their_kind():
    reference, current = np.array([4, 8, 2, 18, 2, 2, 4]), np.array([4, 10, 8, 16, 0, 2, 0])
    made = nulls.no_drift(reference, current, "number", np.array([True, False, True, False, True, False]))
    # 13 rows in the smaller sample are 26 in both; what is left over at the end goes to the bin before it
    assert made.reference.tolist() == [12, 24, 4]
    assert made.current.tolist() == [14, 26, 0]
    assert made.ranked.tolist() == [True, True, False]
    assert [len(set(each.tolist())) for each in made.stretches] == [2, 2]
    ends = np.array([False, True, False, False, False, False])
    assert len(set(nulls.no_drift(reference, current, "number", ends).stretches[0].tolist())) == 3


def test_a_continuous_feature_is_tested_as_it_is():
    made = nulls.no_drift(np.array([1, 1, 1, 1, 0]), np.array([0, 2, 0, 9, 0]), "number", np.zeros(4, dtype=np.bool_))
    assert made.reference.tolist() == [1, 1, 1, 1]
    assert [each.tolist() for each in made.stretches] == [[0, 0, 0, 0]]


def test_bins_of_another_reference_are_urns():
    rows = np.array([30, 16, 18, 0]), np.array([25, 15, 20, 1])
    assert [each.tolist() for each in nulls.no_drift(*rows, "number").stretches] == [[0, 1, 2, 3], [0, 0, 0, 1]]
    own = np.array([20, 20, 20, 0])
    assert [each.tolist() for each in nulls.no_drift(own, rows[1], "number").stretches] == [[0, 0, 0, 1]]


# --- intervals, and many features


@pytest.mark.parametrize(("psi", "n", "m", "live"), [(0.3, 500, 1000, 10), (0.02, 10**6, 10**5, 50), (2.0, 60, 60, 3)])
def test_the_interval_inverts_the_noncentral_chi_square(psi, n, m, live):
    low, high = psi_interval(np.array([psi]), n, m, np.array([live]), 0.9)
    unit = n * m / (n + m)
    assert low[0] < psi < high[0]
    assert special.chndtr(psi * unit, live - 1, low[0] * unit) == pytest.approx(0.95, abs=1e-9)
    assert special.chndtr(psi * unit, live - 1, high[0] * unit) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_intervals_of_little_and_of_nothing():
    low, high = psi_interval(
        np.array([0.001, 0.0, np.nan, 0.0]),
        np.array([100, 100, 0, 9]),
        np.array([100, 9, 5, 9]),
        np.array([10, 10, 2, 1]),
    )
    assert low[:2].tolist() == [0, 0]
    assert high[1] == 0
    assert np.isnan([low[2], high[2]]).all()
    assert (low[3], high[3]) == (0, 0)


def test_the_interval_covers_the_psi_of_the_populations():
    rng = np.random.default_rng(9)
    p, q = np.full(10, 0.1), np.linspace(0.06, 0.14, 10)
    truth = float(((p - q) * np.log(p / q)).sum())
    one, other = rng.multinomial(2000, p, 4000), rng.multinomial(1000, q, 4000)
    low, high = psi_interval(distances.psi(one, other), 2000, 1000, distances.live(one, other))
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def test_p_values_of_pearsons_statistic():
    reference, current = np.array([30, 20, 10]), np.array([15, 25, 20])
    expected = stats.chi2_contingency(np.stack([reference, current]), correction=False)
    statistic, live = distances.chi_square(reference, current), distances.live(reference, current)
    assert chi_square_p_values(statistic, live) == pytest.approx(expected.pvalue, abs=1e-14)
    assert chi_square_p_values(np.array([0.0]), np.array([1])).tolist() == [1]


def test_a_numeric_feature_has_one_p_value_of_two_tests():
    assert family_p(0.004, 0.2) == 0.008
    assert family_p(np.array([0.9, 0.3]), np.array([0.7, 0.001])).tolist() == [1, 0.002]


def test_benjamini_hochberg_by_hand():
    p_values = np.array([0.0024, 0.5, 0.001, 0.0049, 0.004])
    # sorted: .001 .0024 .004 .0049 .5 against .002 .004 .006 .008 .01
    assert significant(p_values).tolist() == [True, False, True, True, True]
    assert significant(p_values, 0.001).tolist() == [False] * 5
    assert significant(np.empty(0)).tolist() == []


def test_windows_without_drift_are_rarely_called_significant():
    rng = np.random.default_rng(10)
    called = [significant(rng.random(20)).any() for _ in range(3000)]
    assert 0.004 <= np.mean(called) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 3000)
