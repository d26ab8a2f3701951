"""Profiles are counts: whoever counted, and in whatever order, their sum is that of one pass."""

from __future__ import annotations

import numpy as np
import pytest

from shadow_mlops.statistics import distances
from shadow_mlops.statistics.bins import category_bins, quantile_bins
from shadow_mlops.statistics.profiles import Profile, merge, profile_of


def columns(rng, rows):
    amount = rng.lognormal(size=rows)
    amount[rng.random(rows) < 0.1] = np.nan
    amount[rng.random(rows) < 0.01] = np.inf
    plan = rng.choice(np.array(["basic", "gold", "new", None], dtype=object), rows)
    return {"amount": amount, "plan": plan, "flag": rng.random(rows) < 0.3, "visits": rng.poisson(2, rows)}


@pytest.fixture
def bins():
    reference = columns(np.random.default_rng(1), 5000)
    reference["plan"] = np.where(reference["plan"] == "new", "basic", reference["plan"])
    return {
        name: category_bins(values) if name == "plan" else quantile_bins(values) for name, values in reference.items()
    }


def test_merging_64_shards_in_any_order_is_one_pass_to_the_last_bit(bins):
    rng = np.random.default_rng(2)
    rows = columns(rng, 20_000)
    whole = profile_of(bins, rows)
    owner = rng.integers(0, 64, 20_000)
    shards = [profile_of(bins, {name: values[owner == i] for name, values in rows.items()}) for i in range(64)]
    baseline = profile_of(bins, columns(rng, 3000))
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(64)
        cut = 1 + seed * 3
        merged = merge([merge(shards[i] for i in order[:cut]), merge(shards[i] for i in order[cut:])])
        assert merged.rows == whole.rows == 20_000
        assert merged.features == whole.features
        for name, one, other, old in zip(bins, merged.counts, whole.counts, baseline.counts, strict=True):
            assert one.dtype == np.int64
            assert one.tobytes() == other.tobytes()
            score = distances.psi(bins[name].coarse(old), bins[name].coarse(one))
            assert score == distances.psi(bins[name].coarse(old), bins[name].coarse(other))


def test_every_row_is_counted_once_in_each_feature(bins):
    profile = profile_of(bins, columns(np.random.default_rng(3), 777))
    assert [counts.sum() for counts in profile.counts] == [777] * 4


def test_columns_without_bins_are_left_alone_and_no_rows_are_a_profile(bins):
    rows = columns(np.random.default_rng(4), 0)
    empty = profile_of(bins, {**rows, "other": np.ones(3)})
    assert empty.rows == 0
    some = profile_of(bins, columns(np.random.default_rng(5), 10))
    assert merge([empty, some]).counts[0].tolist() == some.counts[0].tolist()


def test_columns_of_different_lengths_are_refused(bins):
    rows = columns(np.random.default_rng(6), 10)
    rows["flag"] = rows["flag"][:5]
    with pytest.raises(ValueError, match=r"not \[5, 10\]"):
        profile_of(bins, rows)


def test_profiles_of_other_bins_are_not_merged():
    one = Profile(("x",), (np.array([1, 2]),), 3)
    with pytest.raises(ValueError, match="same features"):
        merge([one, Profile(("x",), (np.array([1, 2, 3]),), 6)])
    with pytest.raises(ValueError, match="same features"):
        merge([one, Profile(("y",), (np.array([1, 2]),), 3)])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])
