"""The models that training makes: they learn, they measure, they take what traffic holds, and ONNX agrees with them."""

import math

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest

from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.example import ENTITY, TARGET, generate
from shadow_mlops.models.conversion import to_onnx
from shadow_mlops.models.rows import Rows, as_frame, table_rows
from shadow_mlops.training import deployment_text, fit, fitting, prepare, split, typical_values
from shadow_mlops.training.fitting import scores
from shadow_mlops.training.metrics import held_out_metrics

KINDS = ("linear", "boosting")
CURL = {"tenure": 24, "monthly_charges": 75.50, "contract_type": 1, "num_support_tickets": 2}


def customers(rows, seed=1, missing=0.0):
    return prepare(pa.table(generate(rows, seed=seed, missing=missing).columns()), target=TARGET, entity=ENTITY)


def messy(task, rows=1200, seed=0):
    """Numbers and words with gaps; being missing says something by itself; one rare word."""
    rng = np.random.default_rng(seed)
    income, age = rng.normal(50, 10, rows), rng.integers(18, 90, rows)
    region = rng.choice(["north", "south", "Île", ""], rows, p=[0.4, 0.4, 0.1, 0.1]).astype(object)
    region[:2] = "seen twice"
    unknown = rng.random(rows) < 0.3
    signal = 0.1 * (income - 50) + 0.02 * (age - 50) + 1.5 * (region == "south") + 2.0 * unknown - 1.2
    noisy = signal + rng.normal(0, 1, rows)
    target = {
        "binary": np.where(noisy > 0, "Yes", "No"),
        "multiclass": np.digitize(noisy, [-1, 1]),
        "regression": noisy,
    }[task]
    return prepare(
        pa.table(
            {
                "who": [f"C{i}" for i in range(rows)],
                "income": pa.array(income, mask=unknown),
                "age": age,
                "region": [word or None for word in region],
                "y": target,
            }
        ),
        target="y",
        entity="who",
    )


@pytest.fixture(scope="module")
def example():
    """Small enough for a fast test; benchmarks/training_quality.py measures the real size."""
    rows = split(customers(16_000), seed=1, held_out=4000)
    return rows, {kind: fit(rows, kind=kind, seed=1) for kind in KINDS}


def test_both_models_learn_churn_and_trees_learn_what_lines_cannot(example):
    _, models = example
    linear, boosting = models["linear"].metrics, models["boosting"].metrics
    assert linear["auc"] > 0.90
    assert boosting["auc"] > linear["auc"] + 0.005
    assert boosting["accuracy"] > linear["accuracy"]
    assert boosting["log_loss"] < linear["log_loss"]
    assert boosting["brier"] < linear["brier"]


def test_held_out_rows_are_not_trained_on_and_keep_the_classes_in_proportion(example):
    rows, models = example
    assert not set(rows.train) & set(rows.held_out)
    assert sorted([*rows.train, *rows.held_out]) == list(range(16_000))
    y = rows.data.target_values
    assert y[rows.held_out].mean() == pytest.approx(y.mean(), abs=0.001)
    assert models["linear"].reference.num_rows == len(rows.train)
    held_out_ids = set(rows.data.table[ENTITY].take(pa.array(rows.held_out)).to_pylist())
    assert not held_out_ids & set(models["linear"].reference[ENTITY].to_pylist())


def test_the_same_seed_trains_the_same_model(example):
    rows, models = example
    again = split(rows.data, seed=1, held_out=4000)
    assert np.array_equal(again.held_out, rows.held_out)
    assert not np.array_equal(split(rows.data, seed=2, held_out=4000).held_out, rows.held_out)
    for kind in KINDS:
        assert fit(again, kind=kind, seed=1).metrics == models[kind].metrics


def test_the_contracts_five_fields_are_a_customer(example):
    rows, models = example
    customer = {**typical_values(rows.data), **CURL}
    frame = fitting.frame(pa.Table.from_pylist([customer]), rows.data.signature)
    for kind in KINDS:
        p = scores(models[kind].estimator, frame, "binary")[0]
        assert 0 < p[1] < 1
        assert p.sum() == pytest.approx(1)


def test_typical_values_occur(example):
    rows, _ = example
    for name, value in typical_values(rows.data).items():
        column = rows.data.table[name].to_pylist()
        if isinstance(value, float):
            assert min(column) <= value <= max(column)
        else:
            assert value in column, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_onnx_agrees_also_on_missing_and_unseen_values(task, kind):
    data = messy(task)
    assert data.task == task
    model = fit(split(data, seed=0), kind=kind, seed=0)
    rows = table_rows(model.reference, model.signature)
    numbers, strings = rows.numbers.copy(), rows.strings.copy()
    numbers[::3, 0] = np.nan
    numbers[::5, 1] = np.nan  # a column without gaps in training
    strings[::4, 0] = None
    strings[1::4, 0] = "never seen"
    strings[2::8, 0] = "seen twice"
    given = Rows(numbers, strings)
    expected = scores(model.estimator, as_frame(model.signature, given), task)
    session = onnxruntime.InferenceSession(to_onnx(model.estimator, model.signature, task))
    blank = np.where(np.equal(strings, None), "", strings).astype(object)
    (found,) = session.run(None, {"numbers": numbers, "strings": blank})
    assert expected.shape == (len(rows), {"binary": 2, "multiclass": 3, "regression": 1}[task])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_that_a_value_is_missing_is_information(kind):
    data = messy("regression")
    model = fit(split(data, seed=0), kind=kind, seed=0)
    rows = table_rows(model.reference, model.signature)
    known = rows.numbers[~np.isnan(rows.numbers[:, 0])][:200]
    words = rows.strings[: len(known)]
    hidden = known.copy()
    hidden[:, 0] = np.nan
    known[:, 0] = 50.0  # what an income is on average

    def predicted(numbers):
        return scores(model.estimator, as_frame(model.signature, Rows(numbers, words)), "regression").mean()

    assert predicted(hidden) - predicted(known) == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rare_word_counts_as_one_never_seen(kind):
    model = fit(split(messy("binary"), seed=0), kind=kind, seed=0)
    numbers = np.array([[50.0, 40.0]] * 3)
    words = np.array([["seen twice"], ["never seen"], ["south"]], dtype=object)
    p = scores(model.estimator, as_frame(model.signature, Rows(numbers, words)), "binary")[:, 1]
    assert p[0] == p[1]
    assert p[2] > p[0] + 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_words_alone_and_numbers_alone_are_enough(kind):
    data = messy("binary").table
    for kept in (["region"], ["income"]):
        part = prepare(data.select([*kept, "y"]), target="y")
        assert fit(split(part, seed=0), kind=kind, seed=0).metrics["auc"] > 0.55


def test_a_holey_example_trains_too():
    rows = split(customers(6000, missing=0.15), seed=3)
    assert len(rows.data.missing) == 25
    for kind in KINDS:
        assert fit(rows, kind=kind, seed=3).metrics["auc"] > 0.8


def test_binary_metrics_are_of_the_positive_class():
    truth = np.array(["bad", "good", "bad", "good"], dtype=object)
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    of_bad = held_out_metrics("binary", truth, p, ["bad", "good"], "bad")
    of_good = held_out_metrics("binary", truth, p, ["bad", "good"], "good")
    assert of_bad == pytest.approx(of_good)
    assert of_bad["accuracy"] == 0.75
    assert of_bad["auc"] == 0.75
    assert of_bad["brier"] == pytest.approx((0.1**2 + 0.4**2 + 0.7**2 + 0.2**2) / 4)
    assert of_bad["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.8]).mean())


def test_multiclass_and_regression_metrics_are_the_textbooks():
    truth = np.array([0, 1, 2, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.3, 0.1, 0.6]])
    found = held_out_metrics("multiclass", truth, p, [0, 1, 2], None)
    assert found["accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.6]).mean())
    assert found["auc"] == 1.0
    line = held_out_metrics("regression", np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0], [5.0]]), [], None)
    assert line == pytest.approx({"rmse": math.sqrt(4 / 3), "mae": 2 / 3, "r2": 1 - 4 / 2})


def test_the_reference_is_a_bounded_sample_of_the_training_rows(example, monkeypatch):
    rows, _ = example
    monkeypatch.setattr(fitting, "MAX_REFERENCE_ROWS", 500)
    sample = rows.reference(0)
    assert sample.num_rows == 500
    trained = rows.data.table[ENTITY].take(pa.array(rows.train)).to_pylist()
    position = {customer: i for i, customer in enumerate(trained)}
    where = [position[customer] for customer in sample[ENTITY].to_pylist()]
    assert where == sorted(set(where))
    assert where[-1] > 6000  # spread over all, not the head


def test_more_rows_than_there_are_cannot_be_held_out():
    with pytest.raises(TrainingError, match="cannot be held out"):
        split(messy("binary", rows=100), seed=0, held_out=100)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_deployment_file_says_what_the_data_says(task):
    data = messy(task)
    found = parse_deployment(deployment_text("m", data, defaults=dict.fromkeys(data.missing)))
    assert (found.name, found.task, found.entity) == ("m", task, "who")
    assert {name: spec.default for name, spec in found.features.items()} == {"income": None, "region": None}
    if task == "binary":
        assert found.positive == "Yes"
    assert found.unknown_fields == "reject"


def test_the_deployment_file_lets_clients_send_the_columns_that_no_model_uses():
    data = messy("binary").table
    notes = pa.array([f"note {i}" for i in range(data.num_rows)])
    text = deployment_text("m", prepare(data.append_column("notes", notes), target="y", entity="who"), defaults={})
    assert parse_deployment(text).unknown_fields == "ignore"
    assert "no model uses are notes." in text


def test_defaults_of_every_kind_survive_the_deployment_file(example):
    rows, _ = example
    defaults = typical_values(rows.data) | {"customer_segment": "No", "gender": "1"}
    found = parse_deployment(deployment_text("churn", rows.data, defaults=defaults))
    assert {name: spec.default for name, spec in found.features.items()} == defaults
