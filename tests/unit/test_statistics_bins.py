"""Bins are frozen from the reference, end at its values, and count every row once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.statistics.bins import (
    CategoryBins,
    NumericBins,
    bins_of_order_statistics,
    category_bins,
    finite_ends,
    from_plain,
    quantile_bins,
    quantile_ranks,
    to_plain,
)

INF = np.inf


def of(values, bins=10):
    made = quantile_bins(np.asarray(values), bins)
    return made, made.coarse(made.count(np.asarray(values)))


def test_bins_of_different_values_have_equally_many_rows_each():
    made, counts = of(np.random.default_rng(1).normal(size=1000))
    assert counts.tolist() == [100] * 10 + [0]
    assert not made.tied.any()


def test_edges_are_values_of_the_reference_and_belong_to_the_bin_on_their_left():
    values = np.random.default_rng(2).normal(size=103)
    made, counts = of(values, 5)
    assert np.isin(made.edges, values).all()
    assert counts[0] == np.count_nonzero(values <= made.edges[0]) == 20


@pytest.mark.parametrize("bins", [2, 3, 10, 50, 300, 1000])
def test_any_number_of_bins_from_2_to_1000(bins):
    values = np.random.default_rng(3).normal(size=20 * bins)
    made, counts = of(values, bins)
    assert counts.tolist() == [20] * bins + [0]
    assert len(made.labels()) == len(set(made.labels())) == bins + 1


@pytest.mark.parametrize("bins", [1, 0, -3, 1001])
def test_other_numbers_of_bins_are_refused(bins):
    with pytest.raises(DriftError, match="from 2 to 1,000"):
        quantile_bins(np.arange(5.0), bins)


def test_the_grid_refines_the_bins_and_tells_what_is_out_of_range():
    values = np.random.default_rng(4).normal(size=5000)
    made = quantile_bins(values)
    assert np.isin(made.edges, made.grid).all()
    assert len(made.grid) == 251
    cells = made.count(np.array([values.min(), values.max(), values.min() - 1e-9, values.max() + 1e-9, -INF, INF]))
    assert (cells[0], cells[1], cells[-3], cells[-2]) == (2, 1, 1, 2)


def test_nan_is_missing_and_infinities_are_values_of_the_end_bins():
    made, _ = of(np.arange(100.0))
    counts = made.coarse(made.count(np.array([-INF, INF, INF, np.nan])))
    assert counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]


def test_infinities_of_the_reference_have_finite_edges():
    made, counts = of(np.repeat([-INF, 1.0, 2.0, INF], [30, 30, 20, 20]))
    assert np.isfinite(made.edges).all()
    assert np.isfinite(made.grid).all()
    assert counts[counts > 0].tolist() == [30, 30, 20, 20]


def test_a_value_that_would_be_several_edges_has_a_bin_of_its_own():
    # were bins only merged, all rows would be in one bin, and a shift from 1 to 0 would not be seen
    made, counts = of(np.repeat([0, 1, 2], [4, 92, 4]))
    assert made.labels() == ("< 1", "1", "> 1", "missing")
    assert counts.tolist() == [4, 92, 4, 0]
    assert made.tied.tolist() == [True, True, False]


def test_zeros_and_a_continuous_rest_are_tied_where_the_zeros_are_only():
    values = np.concatenate([np.zeros(500), np.random.default_rng(5).exponential(size=500)])
    made, counts = of(values)
    assert counts.tolist() == [0, 500, 100, 100, 100, 100, 100, 0]
    assert made.tied.tolist() == [True, True, False, False, False, False, False]


def test_a_border_at_a_repeated_value_is_tied_although_no_edge_was_merged():
    made, counts = of([1, 2, 2, 3, 4, 5], 3)
    assert made.edges.tolist() == [2, 3]
    assert made.tied.tolist() == [True, False, False]
    assert counts.tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (np.array([True] * 30 + [False] * 70), [70, 30]),
        (np.repeat([3, 7], [50, 50]), [50, 50]),
        (np.full(40, -2.5), [40]),
        (np.array([1.5]), [1]),
        (np.arange(4), [1, 1, 1, 1]),
    ],
)
def test_few_different_values(values, rows):
    _, counts = of(values)
    assert counts[counts > 0].tolist() == rows


@pytest.mark.parametrize("values", [np.empty(0), np.full(7, np.nan)])
def test_a_reference_without_any_value_counts_all_the_same(values):
    made, counts = of(values)
    assert counts.tolist() == [0, len(values)]
    assert made.coarse(made.count(np.array([1.0, INF, np.nan]))).tolist() == [2, 1]
    assert made.labels() == ("any value", "missing")


def test_coarse_counts_of_many_profiles_at_once():
    made, _ = of(np.random.default_rng(6).normal(size=500))
    cells = np.stack([made.count(np.random.default_rng(seed).normal(size=99)) for seed in range(4)]).reshape(2, 2, -1)
    for place in np.ndindex(2, 2):
        assert made.coarse(cells)[place].tolist() == made.coarse(cells[place]).tolist()
    assert made.coarse(cells).shape == (2, 2, 11)


@pytest.mark.parametrize("size", [1, 5, 9, 10, 11, 700, 70_000])
@pytest.mark.parametrize("shape", ["normal", "integers", "zeros", "infinite"])
def test_a_few_order_statistics_make_the_same_bins(size, shape):
    rng = np.random.default_rng(size)
    values = {
        "normal": rng.normal(size=size),
        "integers": rng.poisson(3, size).astype(float),
        "zeros": np.maximum(rng.normal(size=size), 0),
        "infinite": np.where(rng.random(size) < 0.2, -INF, rng.normal(size=size)),
    }[shape]
    ranks = quantile_ranks(size, 7)
    least, greatest = finite_ends(values)
    few = bins_of_order_statistics(np.sort(values)[ranks], size, 7, least=least, greatest=greatest)
    assert to_plain(few) == to_plain(quantile_bins(values, 7))
    # a border is tied if and only if it is not a value that the reference has once
    assert [np.count_nonzero(values == edge) != 1 for edge in few.edges] == few.tied[:-1].tolist()


def test_cells_with_one_value_are_known():
    made = quantile_bins(np.random.default_rng(7).integers(0, 5, 3000))
    cells = np.flatnonzero(made.count(np.arange(5))[:-1])
    assert made.single[cells].all()
    assert (
        not quantile_bins(np.random.default_rng(8).normal(size=100)).single[2:].any()
    )  # but for that of the least value


def test_categories_come_by_rows_then_by_name():
    made = category_bins(np.array(["b", "a", "c", "c", None, "a", "b", "d"], dtype=object), largest=3)
    assert made.categories == ("a", "b", "c")
    assert made.count(np.array(["c", "d", "new", None, "a", float("nan")], dtype=object)).tolist() == [1, 0, 1, 2, 2]
    assert made.labels() == ("a", "b", "c", "other", "missing")


def test_categories_of_rows_by_value():
    assert category_bins({"x": 1, None: 9, "y": 5, "gone": 0}).categories == ("y", "x")


def test_at_most_a_thousand_categories_have_a_bin():
    values = np.array([f"v{i}" for i in range(1500)], dtype=object)
    made = category_bins(values)
    assert len(made.categories) == 1000
    assert made.count(values)[-2] == 500


def test_encoded_categories_count_as_their_texts():
    made = CategoryBins(("a", "b"))
    dictionary = ["b", "zebra", "a", None, "b"]
    codes = np.random.default_rng(9).integers(-3, 5, 200)
    texts = np.array([None if code < 0 else dictionary[code] for code in codes], dtype=object)
    assert made.count_codes(codes, dictionary).tolist() == made.count(texts).tolist()
    assert made.count_codes(np.empty(0, np.int64), []).tolist() == [0, 0, 0, 0]


def test_an_empty_text_is_a_category():
    assert category_bins(["", "", None]).count(["", None]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "bins",
    [
        quantile_bins(np.random.default_rng(10).normal(size=999) / 3),
        quantile_bins(np.repeat([0.1, -INF], 50)),
        quantile_bins(np.empty(0)),
        CategoryBins(("ä", "", "z")),
    ],
)
def test_bins_survive_json_to_the_last_bit(bins):
    again = from_plain(json.loads(json.dumps(to_plain(bins), allow_nan=False)))
    assert type(again) is type(bins)
    assert to_plain(again) == to_plain(bins)


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"kind": "number", "edges": [1, 2]},
        {"kind": "number", "edges": [2.0, 1.0], "grid": [1.0, 2.0], "tied": [False] * 3},
        {"kind": "number", "edges": [1.0], "grid": [2.0], "tied": [False] * 2},
        {"kind": "number", "edges": [1.0], "grid": [1.0], "tied": [False]},
        {"kind": "number", "edges": ["x"], "grid": [1.0], "tied": [False]},
    ],
)
def test_what_is_no_bins_is_refused(plain):
    with pytest.raises(DriftError, match="these are no bins"):
        from_plain(plain)


def test_labels_tell_near_numbers_apart():
    made = quantile_bins(np.arange(1_000_000_000.0, 1_000_000_040.0))
    assert len(set(made.labels())) == len(made.labels())


def test_bins_cannot_be_changed():
    made: NumericBins = quantile_bins(np.arange(50.0))
    with pytest.raises(ValueError, match="read-only"):
        made.edges[0] = 3
