"""Order statistics of a column that is read in pieces are those of the whole column, whatever sample led to them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from numbershapes import SHAPES
from shadow_mlops.statistics.streaming import sampled_places, select, survey


def pieces_of(values, size):
    return (values[start : start + size] for start in range(0, len(values), size))


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 3000),
    piece=st.integers(1, 700),
    sampled=st.sampled_from([8, 64, 1000]),
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9),
)
def test_order_statistics_are_exact(shape, seed, size, piece, *, sampled, places):
    rng = np.random.default_rng(seed)
    values = SHAPES[shape](rng, size)
    if seed % 2:
        values.sort()  # a file is often in the order of something
    values[rng.random(size) < 0.2] = np.nan
    surveyed = survey(pieces_of(values, piece), sampled_places(size, size=sampled, seed=seed))
    there = values[~np.isnan(values)]
    finite = there[np.isfinite(there)]
    assert surveyed.given == len(there)
    assert np.array_equal(
        [surveyed.least, surveyed.greatest],
        [finite.min(), finite.max()] if len(finite) else [np.nan] * 2,
        equal_nan=True,
    )
    assert np.array_equal(surveyed.sample, np.sort(surveyed.sample))
    assert np.isin(surveyed.sample, there).all()
    if not len(surveyed.sample):
        return
    ranks = np.unique((np.array(places) * len(there)).astype(np.int64))
    found = select(pieces_of(values, piece), surveyed, ranks)
    assert found is not None
    np.testing.assert_array_equal(found, np.sort(there)[ranks])


def test_a_rank_outside_its_bracket_is_said():
    values = np.arange(10_000.0)
    surveyed = survey([values], np.arange(1000))  # places that nobody drew at random
    assert select([values], surveyed, np.array([5000])) is None


def test_what_is_kept_is_a_small_part(monkeypatch):
    values = np.random.default_rng(1).normal(size=400_000)
    surveyed = survey(pieces_of(values, 10_000), sampled_places(len(values), size=1 << 15))
    kept = []
    original = np.concatenate
    monkeypatch.setattr(
        np,
        "concatenate",
        lambda arrays, *rest, **named: kept.append(sum(map(len, arrays))) or original(arrays, *rest, **named),
    )
    ranks = np.arange(1, 10) * len(values) // 10
    np.testing.assert_array_equal(select(pieces_of(values, 10_000), surveyed, ranks), np.sort(values)[ranks])
    assert max(kept) < len(values) * 0.3
