"""The area from bins: never further from the exact one than it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shadow_mlops.comparison.auc import UNDEFINED, auc_of_counts, exact_auc, macro

SCORES = st.lists(
    st.tuples(st.booleans(), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))),
    min_size=1,
    max_size=60,
)


def both_classes(rows: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    return scores[truth], scores[~truth]


@given(SCORES, st.integers(1, 40))
def test_the_exact_area_is_within_the_bound_whatever_the_bins(rows: list[tuple[bool, float]], bins: int):
    positives, negatives = both_classes(rows)
    if not len(positives) or not len(negatives):
        assert exact_auc(positives, negatives) == UNDEFINED
        return
    truth = [row[0] for row in rows]
    exact = exact_auc(positives.copy(), negatives.copy())
    assert exact.value == pytest.approx(roc_auc_score(truth, [row[1] for row in rows]), abs=1e-12)
    counts = [
        np.bincount(np.minimum(side * bins, bins - 1).astype(int), minlength=bins) for side in (positives, negatives)
    ]
    binned = auc_of_counts(*counts)
    assert abs(binned.value - exact.value) <= binned.error + 1e-15


@given(SCORES, SCORES)
def test_counts_of_two_files_add_up(one: list[tuple[bool, float]], other: list[tuple[bool, float]]):
    def counts(rows):
        return [np.bincount((side * 15).astype(int), minlength=16) for side in both_classes(rows)]

    summed = [left + right for left, right in zip(counts(one), counts(other), strict=True)]
    assert auc_of_counts(*summed) == auc_of_counts(*counts(one + other))


def test_many_rows_do_not_overflow():
    many = np.array([2 * 10**9])
    assert auc_of_counts(many, many).value == 0.5


def test_the_macro_area_leaves_out_classes_that_have_none():
    assert macro([UNDEFINED, UNDEFINED]) == UNDEFINED
