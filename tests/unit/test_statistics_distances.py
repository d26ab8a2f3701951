"""Distances from counts: by hand on small tables, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from shadow_mlops.statistics import distances

SMOOTHED = (distances.psi, distances.psi_corrected, distances.js, distances.hellinger, distances.total_variation)
ALL = (*SMOOTHED, distances.chi_square)


def counts(*rows):
    return np.array(rows, dtype=np.int64)


def test_psi_by_hand():
    p, q = np.array([30.5, 70.5, 0.5]) / 101.5, np.array([10.5, 39.5, 1.5]) / 51.5
    expected = float(sum((p - q) * np.log(p / q)))
    assert distances.psi(counts(30, 70, 0), counts(10, 39, 1)) == pytest.approx(expected, abs=1e-15)
    assert distances.psi_corrected(counts(30, 70, 0), counts(10, 39, 1)) == pytest.approx(
        expected - 2 * (1 / 100 + 1 / 50), abs=1e-15
    )


@pytest.mark.parametrize("distance", ALL)
def test_bins_that_are_empty_in_both_do_not_count(distance):
    reference, current = counts(30, 70, 5, 8, 1, 2, 3, 4, 9, 7, 6), counts(10, 40, 0, 7, 1, 9, 9, 9, 0, 1, 1)
    holes = np.array([0, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13])
    padded = np.zeros((2, 40), dtype=np.int64)
    padded[0, holes], padded[1, holes] = reference, current
    assert distance(padded[0], padded[1]) == distance(reference, current)
    assert distances.live(padded[0], padded[1]) == 11


@pytest.mark.parametrize("distance", ALL)
def test_padding_does_not_change_the_last_bit(distance):
    rng = np.random.default_rng(3)
    reference, current = rng.integers(0, 1000, (2, 200, 11))
    padded = [np.concatenate([each, np.zeros((200, 30), dtype=np.int64)], axis=1) for each in (reference, current)]
    assert distance(reference, current).tobytes() == distance(*padded).tobytes()
    assert distance(reference[7], current[7]) == distance(*padded)[7]


@pytest.mark.parametrize("distance", ALL)
def test_features_are_broadcast(distance):
    rng = np.random.default_rng(1)
    reference, current = rng.integers(0, 50, (2, 1, 9)), rng.integers(0, 50, (3, 9))
    together = distance(reference, current)
    assert together.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert together[i, j] == distance(reference[i, 0], current[j])


@pytest.mark.parametrize("distance", ALL)
def test_the_same_shares_are_no_distance_and_the_order_of_samples_does_not_matter(distance):
    one, other = counts(30, 70, 0), counts(12, 3, 9)
    if distance is not distances.psi_corrected:
        assert distance(one, one) == 0
    assert distance(one, other) == pytest.approx(distance(other, one), rel=1e-14)


@pytest.mark.parametrize("distance", [*ALL, distances.ks_of_counts, distances.ks_error_bound])
def test_an_empty_sample_has_no_distance(distance):
    some, none = counts(3, 4, 5), counts(0, 0, 0)
    assert np.isnan(distance(none, some))
    assert np.isnan(distance(some, none))
    assert np.isnan(distance(none, none))
    assert np.isnan(distance(counts((3, 4, 5), (1, 1, 1)), counts((0, 0, 0), (2, 1, 1)))).tolist() == [True, False]


def test_one_bin_is_no_distance():
    for distance in ALL:
        assert distance(counts(5, 0), counts(7, 0)) == 0


def test_disjoint_samples_are_far():
    reference, current = counts(10**9, 0), counts(0, 10**9)
    assert distances.js(reference, current) == pytest.approx(1, abs=1e-7)
    assert distances.total_variation(reference, current) == pytest.approx(1, abs=1e-7)
    assert distances.hellinger(reference, current) == pytest.approx(1, abs=1e-4)
    assert distances.ks_of_counts(reference, current) == 1


def test_a_small_js_distance_keeps_its_digits():
    # plain sums of p·log(p/m) lose half of the digits here
    reference, current = counts(10**8, 10**8), counts(10**8 + 1, 10**8 - 1)
    d = 1 / (2 * 10**8 + 1)  # (p - q) / (p + q), so that the divergence is d² / (2 ln 2)
    assert distances.js(reference, current) == pytest.approx(d / np.sqrt(2 * np.log(2)), rel=1e-7)


def test_ks_of_counts_and_its_error_bound_by_hand():
    reference, current = counts(2, 2, 4, 2), counts(1, 5, 2, 2)
    # F = .2 .4 .8 1, G = .1 .6 .8 1; within the second cell F - G reaches .4 - .1 and G - F .6 - .2
    assert distances.ks_of_counts(reference, current) == pytest.approx(0.2)
    assert distances.ks_error_bound(reference, current) == pytest.approx(0.4 - 0.2)
    single = np.array([False, True, True, False])
    assert distances.ks_error_bound(reference, current, single) == pytest.approx(0)


def test_corrected_psi_is_around_zero_without_drift():
    rng = np.random.default_rng(11)
    for n, m, bins in [(100, 100, 10), (1000, 200, 10), (150, 4000, 3), (1000, 1000, 50)]:
        shares = np.full(bins, 1 / bins)
        reference, current = rng.multinomial(n, shares, 20_000), rng.multinomial(m, shares, 20_000)
        mean = distances.psi_corrected(reference, current).mean()
        assert abs(mean) <= 0.1 * (bins - 1) * (1 / n + 1 / m), (n, m, bins)
