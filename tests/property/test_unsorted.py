"""What is found without sorting is what sorting finds, to the last bit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from numbershapes import SHAPES
from shadow_mlops.statistics import lookup, selection
from shadow_mlops.statistics.lookup import Lookup
from shadow_mlops.statistics.selection import ks_distance, order_statistics

shapes = st.sampled_from(sorted(SHAPES))
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 400)
floats = st.floats(allow_nan=True, allow_infinity=True)


@pytest.fixture(autouse=True, scope="module")
def _never_few():
    # the ways of large samples are taken for small ones, which Hypothesis can draw many of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_FEW", 0)
        patch.setattr(lookup, "_CHUNK", 64)
        patch.setattr(
            lookup, "_buffers", lambda: tuple(np.empty(64, kind) for kind in (float, float, bool, np.int32, int, int))
        )
        patch.setattr(selection, "_FEW", 0)
        patch.setattr(selection, "_CELLS", 16)
        patch.setattr(selection, "_LOOKED_AT", 50)
        yield


def counted_by_search(edges, values):
    given = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, given), minlength=len(edges) + 1)
    return np.append(counts, len(values) - len(given))


def assert_counted(edges, values):
    found = Lookup(edges)
    counts = found.count(values)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, counted_by_search(edges, values))
    missing = np.isnan(values)
    np.testing.assert_array_equal(
        found.places(values), np.where(missing, len(edges) + 1, np.searchsorted(edges, values))
    )


@given(st.lists(floats, min_size=1, max_size=200), st.lists(st.floats(allow_nan=False), max_size=40, unique=True))
def test_cells_are_those_of_a_search_for_any_floats(values, edges):
    assert_counted(np.unique(np.array(edges, dtype=float)), np.array(values))


@given(shapes, seeds, sizes, st.integers(1, 300))
def test_cells_are_those_of_a_search_where_edges_are_values(shape, seed, size, count):
    rng = np.random.default_rng(seed)
    values = SHAPES[shape](rng, size)
    chosen = rng.choice(values, count)
    if count % 2:  # as bins have them at values that are repeated
        chosen = np.concatenate([chosen, np.nextafter(chosen, 0)])
    edges = np.unique(chosen)
    values[rng.random(size) < 0.1] = np.nan
    with np.errstate(over="ignore"):
        beside = np.concatenate([np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    assert_counted(edges, np.concatenate([values, beside]))


def test_a_few_edges_too_close_for_the_table_are_searched():
    close = np.array([100.0, np.nextafter(100, 200), 100 + 1e-9])
    edges = np.unique(np.concatenate([np.arange(400.0), close]))
    assert_counted(edges, np.repeat(np.concatenate([edges, np.nextafter(edges, -1), [np.nan, -5, 500]]), 3))


def test_no_edges_are_one_cell():
    assert Lookup(np.empty(0)).count(np.array([1.0, np.nan, -np.inf])).tolist() == [2, 1]


@given(shapes, seeds, sizes, st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_order_statistics_are_those_of_the_sorted_sample(shape, seed, size, ranks):
    rng = np.random.default_rng(seed)
    values = SHAPES[shape](rng, size)
    values[rng.random(size) < 0.1] = np.nan
    at = np.unique(np.array(ranks) % size)
    np.testing.assert_array_equal(order_statistics(values, at), np.sort(values)[at])


@given(st.tuples(shapes, shapes) | shapes.map(lambda shape: (shape, shape)), seeds, sizes, sizes)
def test_ks_distance_is_scipys(pair, seed, n, m):
    rng = np.random.default_rng(seed)
    reference, current = SHAPES[pair[0]](rng, n), SHAPES[pair[1]](rng, m)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # infinities: SciPy looks for where the gap is, too
        expected = stats.ks_2samp(reference, current, method="asymp").statistic
    assert ks_distance(reference, current) == pytest.approx(expected, abs=1e-12)


def test_ks_distance_to_nothing_is_unknown():
    assert np.isnan(ks_distance(np.empty(0), np.ones(3)))
    assert np.isnan(ks_distance(np.ones(3), np.empty(0)))
