"""Every distance and KS p-value against SciPy and NumPy, over pairs of columns of all kinds."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial, stats

from shadow_mlops.statistics import distances, samples
from shadow_mlops.statistics.bins import CategoryBins, NumericBins, category_bins, quantile_bins
from shadow_mlops.statistics.profiles import merge, profile_of
from shadow_mlops.statistics.significance import chi_square_p_values

EXACT = 1e-12
PAIRS = 1200

NUMBERS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "shifted": lambda rng, n: rng.normal(rng.choice([0.1, 1.0, 6.0]), 2, n),
    "tied": lambda rng, n: rng.normal(size=n).round(1),
    "integers": lambda rng, n: rng.poisson(4, n),
    "small integers": lambda rng, n: rng.integers(-100, 100, n, dtype=np.int8),
    "boolean": lambda rng, n: rng.random(n) < 0.2,
    "constant": lambda rng, n: np.full(n, float(rng.integers(3))),
    "zeros and a rest": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "missing": lambda rng, n: np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
    "only missing": lambda _, n: np.full(n, np.nan),
    "infinite": lambda rng, n: np.where(rng.random(n) < 0.2, np.copysign(np.inf, rng.normal(size=n)), rng.random(n)),
    "all magnitudes": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.integers(-300, 300, n),
}


def texts(rng, n):
    values = rng.choice(np.array(["a", "b", "c", "", "ü", None], dtype=object), n)
    values[rng.random(n) < 0.1] = np.nan
    return values


def pairs():
    """Reference, current and the number of bins."""
    rng = np.random.default_rng(20)
    kinds = [*NUMBERS, "text"]
    for number in range(PAIRS):
        one = kinds[number % len(kinds)]
        other = one if one == "text" or rng.random() < 0.6 else rng.choice(list(NUMBERS))
        n, m = (int(rng.choice([0, 1, 2, 9, 40, 150, 500], p=[0.04, 0.06, 0.05, 0.15, 0.3, 0.25, 0.15])) for _ in "nm")
        draw = {**NUMBERS, "text": texts}
        yield draw[one](rng, n), draw[other](rng, m), int(rng.choice([2, 3, 10, 10, 50, 1000]))


def counted_by_hand(bins, values):
    """Counts in bins, missing last, one row at a time."""
    if isinstance(bins, CategoryBins):
        rows = Counter("missing" if v is None or v != v else v if v in bins.categories else "other" for v in values)  # noqa: PLR0124
        assert "missing" not in bins.categories
        return np.array([rows[name] for name in (*bins.categories, "other", "missing")])
    counts = np.zeros(len(bins.edges) + 2, dtype=np.int64)
    for value in np.asarray(values, dtype=float):
        counts[-1 if np.isnan(value) else sum(value > edge for edge in bins.edges)] += 1
    return counts


def expected_distances(reference, current):
    """By NumPy and SciPy, on bins that are not empty in both."""
    alive = reference + current > 0
    one, other = reference[alive].astype(float), current[alive].astype(float)
    n, m, live = one.sum(), other.sum(), alive.sum()
    p, q = (one + 0.5) / (n + live / 2), (other + 0.5) / (m + live / 2)
    psi = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
    return {
        "live": live,
        "psi": psi,
        "psi_corrected": psi - (live - 1) * (1 / n + 1 / m),
        "js": spatial.distance.jensenshannon(p, q, base=2),
        "hellinger": spatial.distance.euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2),
        "total_variation": spatial.distance.cityblock(p, q) / 2,
    }


def test_all_distances_are_those_of_scipy_and_numpy():
    compared = Counter()
    for reference, current, count in pairs():
        bins = category_bins(reference) if reference.dtype == object else quantile_bins(reference, count)
        rows = [bins.coarse(bins.count(values)) for values in (reference, current)]
        for found, values in zip(rows, (reference, current), strict=True):
            np.testing.assert_array_equal(found, counted_by_hand(bins, values))
        if not len(reference) or not len(current):
            assert np.isnan(distances.psi(*rows))
            assert np.isnan(distances.js(*rows))
            compared["empty"] += 1
            continue
        for name, expected in expected_distances(*rows).items():
            assert getattr(distances, name)(*rows) == pytest.approx(expected, rel=0, abs=EXACT), name
        alive = rows[0] + rows[1] > 0
        if alive.sum() > 1:
            table = stats.chi2_contingency([rows[0][alive], rows[1][alive]], correction=False)
            statistic = distances.chi_square(*rows)
            assert statistic == pytest.approx(table.statistic, rel=EXACT, abs=EXACT)
            assert chi_square_p_values(statistic, distances.live(*rows)) == pytest.approx(
                table.pvalue, rel=0, abs=EXACT
            )
            compared["tables"] += 1
        compared["pairs"] += 1
    assert compared["pairs"] + compared["empty"] == PAIRS
    assert min(compared.values()) > 40


def test_ks_and_its_p_value_are_scipys():
    compared = Counter()
    for reference, current, count in pairs():
        if reference.dtype == object:
            continue
        x, y = (values[~np.isnan(values)] for values in (np.asarray(reference, float), np.asarray(current, float)))
        found = samples.ks(x, y)
        p_value = samples.ks_p_value(found, len(x), len(y))
        if not len(x) or not len(y):
            assert np.isnan(found)
            assert p_value == 1
            compared["empty"] += 1
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of infinities, and of sizes for which it has no exact p-value
            expected = stats.ks_2samp(x, y)
        assert found == pytest.approx(expected.statistic, rel=0, abs=EXACT)
        assert p_value == pytest.approx(expected.pvalue, rel=0, abs=EXACT)
        bins = quantile_bins(reference, count)
        cells = [bins.count(values)[:-1] for values in (x, y)]
        least, error = distances.ks_of_counts(*cells), distances.ks_error_bound(*cells, bins.single)
        assert least - EXACT <= found <= least + error + EXACT
        compared["at most 1/250 apart" if error <= 1 / 250 else "further apart"] += 1
    assert sum(compared.values()) > 1000


def test_wasserstein_is_the_area_between_quantile_functions():
    rng = np.random.default_rng(21)
    for _ in range(200):
        n, m = rng.integers(1, 60, 2)
        x, y = rng.normal(size=n).round(1), rng.standard_t(3, size=m)
        shares = np.unique(np.concatenate([np.arange(n + 1) / n, np.arange(m + 1) / m]))
        middle = (shares[1:] + shares[:-1]) / 2
        gaps = np.sort(x)[(middle * n).astype(int)] - np.sort(y)[(middle * m).astype(int)]
        expected = float((np.abs(gaps) * np.diff(shares)).sum())
        assert samples.wasserstein(x, y) == pytest.approx(expected, abs=1e-12)
        if n > 1 and x.std():
            assert samples.wasserstein(x, y, per_sigma=True) == pytest.approx(expected / x.std(), abs=1e-11)


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 400), st.integers(1, 400), st.sampled_from([-1, 1]), st.integers(2, 40)
)
def test_one_absurd_row_moves_ks_by_one_row_and_psi_no_more_than_any_row_of_the_end_bin(seed, n, m, sign, count):
    rng = np.random.default_rng(seed)
    reference, current = rng.normal(size=n), rng.normal(size=m)
    absurd, ordinary = current.copy(), current.copy()
    absurd[0], ordinary[0] = sign * 1e6, reference.max() + 1e-9 if sign > 0 else reference.min()
    bins = quantile_bins(reference, count)
    own = bins.coarse(bins.count(reference))
    rows = [bins.coarse(bins.count(values)) for values in (absurd, ordinary)]
    assert distances.psi(own, rows[0]) == distances.psi(own, rows[1])
    assert distances.js(own, rows[0]) == distances.js(own, rows[1])
    assert abs(samples.ks(reference, absurd) - samples.ks(reference, current)) <= 1 / m + 1e-15


def test_one_absurd_row_of_the_reference_moves_the_bins_by_one_row():
    rng = np.random.default_rng(22)
    reference, current = rng.normal(size=1000), rng.normal(size=1000)
    before = quantile_bins(reference)
    reference[0] = 1e6
    after = quantile_bins(reference)
    scores = [
        float(distances.psi(bins.coarse(bins.count(reference)), bins.coarse(bins.count(current))))
        for bins in (before, after)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.005)


@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(1, 64))
def test_shards_in_any_order_are_one_pass(seed, rows, shards):
    rng = np.random.default_rng(seed)
    columns = {name: draw(rng, rows) for name, draw in NUMBERS.items()} | {"text": texts(rng, rows)}
    bins: dict[str, NumericBins | CategoryBins] = {
        name: quantile_bins(draw(rng, 200)) for name, draw in NUMBERS.items()
    }
    bins["text"] = category_bins(texts(rng, 50))
    whole = profile_of(bins, columns)
    owner = rng.integers(0, shards, rows)
    parts = [profile_of(bins, {name: each[owner == i] for name, each in columns.items()}) for i in range(shards)]
    merged = merge([parts[i] for i in rng.permutation(shards)])
    assert merged.rows == whole.rows
    for one, other in zip(merged.counts, whole.counts, strict=True):
        assert one.tobytes() == other.tobytes()
