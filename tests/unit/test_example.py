"""The example's customers: what they promise to those who measure drift and gates with them."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.example import FEATURES, NAMES, generate
from shadow_mlops.example.churn import churn_probability

CODES = {
    "contract_type": {0, 1, 2},
    "internet_service": {0, 1, 2},
    "payment_method": {0, 1, 2, 3},
    "satisfaction_score": {1, 2, 3, 4, 5},
    "gender": {"female", "male"},
    "customer_segment": {"premium", "standard", "basic"},
} | {
    name: {0, 1}
    for name in (
        "paperless_billing", "phone_service", "multiple_lines", "online_security", "online_backup", "device_protection",
        "tech_support", "streaming_tv", "streaming_movies", "senior_citizen", "partner",
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def customers():
    return generate(20_000, seed=11)


def same(one, other):
    return all(np.array_equal(one.features[n], other.features[n]) for n in NAMES)


def test_a_seed_is_a_data_set():
    one, again, other = generate(500, seed=3), generate(500, seed=3), generate(500, seed=4)
    assert same(one, again)
    assert np.array_equal(one.churned, again.churned)
    assert np.array_equal(one.times, again.times)
    assert not same(one, other)


def test_features_are_the_contracts(customers):
    assert NAMES == (
        "tenure", "contract_type", "monthly_charges", "total_charges", "payment_method", "paperless_billing",
        "phone_service", "multiple_lines", "internet_service", "online_security", "online_backup", "device_protection",
        "tech_support", "streaming_tv", "streaming_movies", "num_support_tickets", "avg_monthly_gb_download",
        "num_referrals", "satisfaction_score", "gender", "senior_citizen", "partner", "num_dependents",
        "location_cluster", "customer_segment",
    )  # fmt: skip
    for name, codes in CODES.items():
        assert set(np.unique(customers.features[name]).tolist()) == codes, name


@pytest.mark.parametrize("column", FEATURES, ids=lambda column: column.name)
def test_integers_are_whole_and_quantities_in_their_bounds(customers, column):
    if column.kind == "string":
        return
    values = customers.features[column.name]
    assert values.min() >= column.low
    assert values.max() <= column.high
    if column.kind == "integer":
        assert np.array_equal(values, np.floor(values))


def test_columns_depend_on_each_other_as_in_a_telecom(customers):
    c = customers.features
    offline = c["internet_service"] == 0
    for name in ("online_security", "tech_support", "streaming_tv", "avg_monthly_gb_download"):
        assert not c[name][offline].any()
        assert c[name][~offline].any()
    assert not c["multiple_lines"][c["phone_service"] == 0].any()
    assert np.corrcoef(c["total_charges"], c["tenure"] * c["monthly_charges"])[0, 1] > 0.98
    by_contract = [c["tenure"][c["contract_type"] == k].mean() for k in (0, 1, 2)]
    assert by_contract == sorted(by_contract)
    assert c["monthly_charges"][c["internet_service"] == 2].mean() > c["monthly_charges"][offline].mean() + 40


def test_labels_follow_the_probability(customers):
    p, y = customers.probability, customers.churned
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)):
        rows = (p >= low) & (p < high)
        error = math.sqrt((p[rows] * (1 - p[rows])).sum()) / rows.sum()
        assert abs(y[rows].mean() - p[rows].mean()) < 5 * error
    assert 0.14 < y.mean() < 0.2
    assert customers.bayes_accuracy == pytest.approx(np.where(p >= 0.5, p, 1 - p).mean())


def test_ids_go_on_where_the_last_draw_ended():
    assert generate(3, seed=0).ids == ["CUST-001", "CUST-002", "CUST-003"]
    assert generate(3, seed=0, first_id=999).ids == ["CUST-999", "CUST-1000", "CUST-1001"]


def test_times_ascend_from_the_start_a_minute_apart():
    start = datetime(2026, 5, 4, tzinfo=UTC)
    times = generate(5000, seed=2, start=start).times
    assert times[0] >= start.timestamp() * 1e6
    assert (np.diff(times) >= 0).all()
    assert np.diff(times).mean() == pytest.approx(60e6, rel=0.1)


@pytest.mark.parametrize("column", FEATURES, ids=lambda column: column.name)
def test_exactly_the_named_feature_drifts_and_stays_valid(column):
    before = generate(4000, seed=5)
    after = generate(4000, seed=5, drift=1.0, drift_features=[column.name])
    for name in NAMES:
        assert np.array_equal(before.features[name], after.features[name]) == (name != column.name)
    moved = after.features[column.name]
    if column.step:
        shift = (moved - before.features[column.name]).mean()
        assert shift * np.sign(column.step) > 0.4 * before.features[column.name].std()
        assert moved.min() >= column.low
        assert moved.max() <= column.high
    else:
        was = (before.features[column.name] == column.towards).mean()
        assert (moved == column.towards).mean() == pytest.approx(1 - (1 - was) * math.exp(-0.5), abs=0.03)
    assert np.array_equal(after.probability, churn_probability(after.features))


def test_a_small_drift_of_a_count_is_not_rounded_away():
    before = generate(20_000, seed=5).features["num_support_tickets"]
    after = generate(20_000, seed=5, drift=0.1, drift_features=["num_support_tickets"]).features["num_support_tickets"]
    assert (after - before).mean() == pytest.approx(0.15, abs=0.02)


def test_concept_drift_changes_the_reasons_and_not_the_customers():
    before, after = generate(5000, seed=6), generate(5000, seed=6, concept_drift=1.0)
    assert same(before, after)
    assert np.abs(after.probability - before.probability).mean() > 0.1


def test_missing_values_are_the_same_customers_with_holes():
    whole, holes = generate(5000, seed=7), generate(5000, seed=7, missing=0.1)
    assert np.array_equal(whole.churned, holes.churned)
    for column in FEATURES:
        values = holes.features[column.name]
        gone = np.array([value is None for value in values]) if column.kind == "string" else np.isnan(values)
        assert gone.mean() == pytest.approx(0.1, abs=0.02)
        assert np.array_equal(values[~gone], whole.features[column.name][~gone])


def test_requests_are_bodies_that_the_gateway_takes():
    drawn = generate(300, seed=8, missing=0.2)
    bodies = list(drawn.requests())
    assert [body["customer_id"] for body in bodies] == drawn.ids
    assert json.loads(json.dumps(bodies, allow_nan=False)) == bodies
    kinds = {column.name: column.kind for column in FEATURES}
    wanted = {"integer": int, "number": float, "string": str}
    for body in bodies:
        assert set(body) == {"customer_id", *NAMES}
        assert all(value is None or type(value) is wanted[kinds[n]] for n, value in body.items() if n in kinds)
    assert any(value is None for body in bodies for value in body.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows"),
        ({"drift": -1}, "drift"),
        ({"concept_drift": 2}, "concept_drift"),
        ({"missing": 1.0}, "missing"),
        ({"drift_features": ["tenur"]}, "tenur"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(TrainingError, match=message):
        generate(**{"rows": 10, "seed": 0} | arguments)


def test_the_traffic_client_needs_nothing_of_training_to_draw_customers():
    code = (
        "import sys; from shadow_mlops.example import generate; next(generate(5, seed=1).requests());"
        "print(sorted({'pandas', 'sklearn', 'scipy', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
