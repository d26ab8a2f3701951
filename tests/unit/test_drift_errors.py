"""The champion's errors among labelled events: which labels count, and of which span."""

from __future__ import annotations

import pytest
from tests.lakerows import SECOND_US, START_US, Rows, schema

from shadow_mlops.drift.errorrate import Kept, error_rate, held_out


def asked(lake, *, task="binary", version="1", first=0, last=100, now=10**9):
    return error_rate(
        lake, task=task, version=version, since_us=START_US + first * SECOND_US, until_us=START_US + last * SECOND_US,
        now_us=START_US + now, reference=Kept("accuracy", 0.1),
    )  # fmt: skip


def test_final_labels_of_the_span_count_against_the_decisions(tmp_path):
    rows = Rows()
    rows.answer([0.9, 0.9, 0.1, 0.1, 0.9, 0.9])
    registry_version = rows.events[0]["registry_version"]
    for number, label in enumerate("100111"):
        rows.label(number, label)
    rows.label(3, "0", verdict="contradicting")
    rows.label(2, "1", matures_us=START_US + 10**12)
    rows.write(tmp_path)
    whole = asked(tmp_path, version=registry_version)
    assert (whole.labelled, whole.value, whole.measure) == (6, 2 / 6, "error_rate")
    assert (whole.reference, whole.reference_metric) == (0.1, "accuracy")
    part = asked(tmp_path, version=registry_version, first=2, last=4)
    assert (part.labelled, part.value) == (2, 0.5)
    assert asked(tmp_path, version="another").value is None


def test_a_regression_has_the_root_of_its_mean_square(tmp_path):
    rows = Rows()
    of = schema("regression", ("value",))
    rows.answer([[1.0], [2.0], [5.0]], of)
    for number, label in enumerate(("1.0", "4.0", "5.0")):
        rows.label(number, label)
    rows.write(tmp_path)
    found = asked(tmp_path, task="regression", version=of.registry_version)
    assert (found.labelled, found.measure) == (3, "rmse")
    assert found.value == pytest.approx((4 / 3) ** 0.5)


def test_without_a_lake_nothing_is_known(tmp_path):
    assert asked(tmp_path / "lake").labelled == 0


def test_the_card_says_what_held_out_rows_gave():
    assert held_out("multiclass", {"accuracy": 0.75}) == Kept("accuracy", 0.25)
    assert held_out("regression", {"rmse": 3.0}) == Kept("rmse", 3.0)
    assert held_out("binary", {"auc": 0.9}) is None
