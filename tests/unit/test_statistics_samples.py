"""P-values of KS for sizes and ties of all kinds, its band, and Wasserstein's distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from shadow_mlops.statistics import samples


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (7, 7), (50, 50), (40, 61), (36, 24), (500, 3), (10_000, 9_999)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0])
@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful:RuntimeWarning")
def test_p_values_are_scipys_without_its_samples(n, m, shift):
    rng = np.random.default_rng(n + m)
    reference, current = rng.normal(size=n), rng.normal(shift, size=m).round(1)
    expected = stats.ks_2samp(reference, current)
    assert samples.ks_p_value(expected.statistic, n, m) == pytest.approx(expected.pvalue, abs=1e-13)


@pytest.mark.parametrize(("n", "m"), [(10_001, 50), (30_000, 20_000)])
def test_p_values_of_large_samples_are_scipys(n, m):
    rng = np.random.default_rng(n)
    reference, current = rng.normal(size=n), rng.normal(0.01, size=m)
    expected = stats.ks_2samp(reference, current)
    distance = samples.ks(reference, current)
    assert samples.ks_p_value(distance, n, m) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("rows", [60, 2500, 40_000])
@pytest.mark.parametrize("squared", [0.3, 2.1, 2.2, 3.0, 5.0, 9.0, 14.0, 200.0, 500.0])
def test_the_limit_is_scipys_in_all_its_digits(rows, squared):
    distance = min(math.sqrt(squared / rows), 0.9)
    assert samples._limit(distance, rows) == pytest.approx(stats.kstwo.sf(distance, rows), rel=1e-11, abs=1e-200)


@pytest.mark.filterwarnings("error")
def test_sizes_that_scipy_warns_of_do_not_warn():
    samples._exact.cache_clear()
    assert samples.ks_p_value(1 / 7, 7, 7) > 0.999


def test_no_rows_are_no_evidence():
    assert samples.ks_p_value(math.nan, 0, 5) == 1
    assert samples.ks_p_value(math.nan, 5, 0) == 1


def test_an_impossible_distance_is_refused():
    with pytest.raises(ValueError, match="cannot be 30/20 apart"):
        samples.ks_p_value(1.5, 5, 4)


def test_the_band_holds_the_distribution_function():
    rng = np.random.default_rng(1)
    uniform = np.sort(rng.random((4000, 60)), axis=1)
    above = (np.arange(1, 61) / 60 - uniform).max(axis=1)
    below = (uniform - np.arange(60) / 60).max(axis=1)
    covered = (np.maximum(above, below) <= samples.dkw_band(60, 0.9)).mean()
    assert 0.9 - 3 * 0.005 <= covered < 0.97
    assert samples.dkw_band(0) == 1
    assert samples.dkw_band(1, 0.999) == 1


def test_wasserstein_by_hand():
    reference, current = np.array([0.0, 2.0, 4.0]), np.array([7.0, 3.0, 5.0])
    assert samples.wasserstein(reference, current) == pytest.approx(3)
    assert samples.wasserstein(reference, current, per_sigma=True) == pytest.approx(3 / math.sqrt(8 / 3))


def test_wasserstein_of_samples_without_a_distance():
    some, infinite, constant = np.array([1.0, 2.0]), np.array([1.0, np.inf]), np.array([4.0, 4.0])
    assert math.isnan(samples.wasserstein(np.empty(0), some))
    assert math.isnan(samples.wasserstein(some, np.empty(0)))
    assert samples.wasserstein(some, infinite) == math.inf
    assert math.isnan(samples.wasserstein(constant, some, per_sigma=True))
