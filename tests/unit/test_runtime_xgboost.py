"""XGBoost models as MLflow stores them, and as a registration of ours does."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.export import export
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.rows import Rows, table_rows
from shadow_mlops.models.xgboosters import export_xgboost

pytestmark = pytest.mark.needs_xgboost

NUMERIC = Signature(tuple(Feature(name) for name in samples.NUMBERS))
CODES = np.unique(samples.labels("multiclass"), return_inverse=True)[1]


def table():
    return samples.frame()[samples.NUMBERS]  # with missing values


def rows():
    return table_rows(samples.reference(), NUMERIC)


def card(**more):
    given = {
        "name": "churn", "version": "1", "registry_version": "1", "task": "binary", "runtime": "", "file": "",
        "sha256": "", "signature": NUMERIC,
    }  # fmt: skip
    return ModelCard(**{**given, **more})


def labels(task):
    return CODES if task == "multiclass" else samples.labels(task)


def train(objective, task, rounds=25, **more):
    import xgboost

    parameters = {"objective": objective, "max_depth": 4, "nthread": 1, **more}
    if task == "multiclass":
        parameters["num_class"] = 3
    target = np.abs(labels(task)) + 1 if objective in {"count:poisson", "reg:gamma"} else labels(task)
    return xgboost.train(parameters, xgboost.DMatrix(table(), label=target), rounds)


def saved(booster, folder, name="model.ubj"):
    folder.mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / name)
    return folder / name


def native(monkeypatch):
    from shadow_mlops.models import xgboosters
    from shadow_mlops.models.conversion import ConversionError

    def failing(*_):
        raise ConversionError("not in this test")

    monkeypatch.setattr(xgboosters, "_to_onnx", failing)


def probabilities(booster, task):
    import xgboost

    softmax = json.loads(booster.save_config())["learner"]["objective"]["name"] == "multi:softmax"
    raw = booster.predict(xgboost.DMatrix(table()), output_margin=softmax).astype(float)
    if softmax:
        powers = np.exp(raw)
        return powers / powers.sum(axis=1, keepdims=True)
    if task == "binary":
        return np.column_stack((1 - raw, raw))
    return raw if raw.ndim == 2 else raw[:, None]


@pytest.mark.parametrize("kept", ["onnx", "xgboost"])
@pytest.mark.parametrize(
    ("objective", "task"),
    [
        ("binary:logistic", "binary"),
        ("multi:softprob", "multiclass"),
        ("multi:softmax", "multiclass"),
        ("reg:squarederror", "regression"),
        ("reg:absoluteerror", "regression"),
    ],
)
def test_a_booster_by_itself_answers_as_it_did(tmp_path, monkeypatch, objective, task, kept):
    if kept == "xgboost":
        native(monkeypatch)
    booster = train(objective, task)
    made = export_xgboost(tmp_path / "1", saved(booster, tmp_path), card(), rows(), wrapped=False)
    assert (made.runtime, made.task) == (kept, task), made.provenance
    expected = probabilities(booster, task)
    got = load_model(tmp_path / "1").predict(rows().numbers, rows().strings)
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, float(np.sqrt(np.mean(expected**2))))


@pytest.mark.parametrize(
    ("objective", "more"),
    [("count:poisson", {}), ("reg:gamma", {}), ("binary:logistic", {"booster": "dart", "rate_drop": 0.3}),
     ("binary:logistic", {"booster": "gblinear"}), ("multi:softprob", {"num_parallel_tree": 3})],
)  # fmt: skip
def test_whatever_has_no_faithful_graph_is_served_by_xgboost_itself(tmp_path, objective, more):
    """Some of these convert and agree; none may answer otherwise than the booster."""
    task = "multiclass" if "multi" in objective else "binary" if "binary" in objective else "regression"
    booster = train(objective, task, **more)
    export_xgboost(tmp_path / "1", saved(booster, tmp_path), card(), rows(), wrapped=False)
    expected = probabilities(booster, task)
    got = load_model(tmp_path / "1").predict(rows().numbers, rows().strings)
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, float(np.sqrt(np.mean(expected**2))))


@pytest.mark.parametrize("kept", ["onnx", "xgboost"])
def test_training_that_stopped_early_answers_with_the_best_iteration(tmp_path, monkeypatch, kept):
    from xgboost import XGBClassifier

    if kept == "xgboost":
        native(monkeypatch)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, 600)  # nothing to learn: the best iteration is an early one
    model = XGBClassifier(n_estimators=60, early_stopping_rounds=20, n_jobs=1)
    model.fit(table()[:400], noise[:400], eval_set=[(table()[400:], noise[400:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    path = saved(model, tmp_path)
    export_xgboost(tmp_path / "wrapped", path, card(), rows(), wrapped=True)
    got = load_model(tmp_path / "wrapped").predict(rows().numbers, rows().strings)
    assert np.abs(got - model.predict_proba(table())).max() < 1e-5
    export_xgboost(tmp_path / "alone", path, card(), rows(), wrapped=False)
    all_trees = load_model(tmp_path / "alone").predict(rows().numbers, rows().strings)
    assert np.abs(all_trees - got).max() > 1e-3


@pytest.mark.parametrize("form", ["ubj", "json"])
@pytest.mark.parametrize("kind", ["estimator", "booster"])
def test_what_mlflow_has_logged_is_served(tmp_path, kind, form):
    import mlflow.xgboost
    from xgboost import XGBClassifier

    from shadow_mlops.models.preparation import prepare

    model = XGBClassifier(n_estimators=20, max_depth=4, n_jobs=1).fit(table(), samples.labels("binary"))
    logged = model if kind == "estimator" else model.get_booster()
    mlflow.xgboost.save_model(
        logged, str(tmp_path / "m"), input_example=table().head(8), model_format=form, pip_requirements=[]
    )
    registry = samples.registry_in(tmp_path)
    run = registry.log_run("theirs", folders={"model": tmp_path / "m"}, metrics={}, params={}, tags={})
    version = registry.create_version("churn", run_id=run, path="model", tags={})
    served = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    got = served.predict(rows().numbers, rows().strings)
    assert served.card.runtime == "onnx", served.card.provenance
    assert np.abs(got - model.predict_proba(table())).max() < 1e-5


def test_a_registered_estimator_is_one_for_mlflow_too(tmp_path):
    import mlflow.xgboost
    from xgboost import XGBRegressor

    from shadow_mlops.models.preparation import prepare
    from shadow_mlops.models.registration import register

    model = XGBRegressor(n_estimators=20, max_depth=4, n_jobs=1).fit(table(), samples.labels("regression"))
    registry = samples.registry_in(tmp_path)
    register(
        registry, name="churn", version="1", estimator=model, signature=NUMERIC, task="regression", classes=(),
        metrics={}, reference=samples.reference(), data_hash="x",
    )  # fmt: skip
    version = registry.version("churn", "1")
    served = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    expected = model.predict(table())
    got = served.predict(rows().numbers, rows().strings)[:, 0]
    assert np.abs(got - expected).max() < 1e-5 * np.sqrt(np.mean(expected**2))
    theirs = mlflow.xgboost.load_model(str(next((tmp_path / "artifacts").rglob("MLmodel")).parent))
    assert np.array_equal(theirs.predict(table()), expected)


def test_a_pipeline_with_a_step_that_has_no_graph_is_served_whole(tmp_path, monkeypatch):
    from shadow_mlops.models import export as exporting
    from shadow_mlops.models.conversion import ConversionError

    def failing(*_):
        raise ConversionError("not in this test")

    monkeypatch.setattr(exporting, "to_onnx", failing)
    original = samples.estimator("xgboost")
    made = export(
        tmp_path, estimator=original, rows=samples.rows(), card=card(signature=samples.SIGNATURE, classes=("0", "1"))
    )
    assert made.runtime == "skops"
    got = load_model(tmp_path).predict(samples.rows().numbers, samples.rows().strings)
    assert np.abs(got - original.predict_proba(samples.frame())).max() < 1e-9


def refused(tmp_path, path, said, **more):
    with pytest.raises(ModelRefusedError, match=said):
        export_xgboost(tmp_path / "refused", path, card(**more), rows(), wrapped=False)


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "model.xgb"
    path.write_bytes(pickle.dumps(train("binary:logistic", "binary")))
    refused(tmp_path, path, "no JSON or UBJSON booster")
    path.write_bytes(b"{L\x00\x00")
    refused(tmp_path, path, "cannot be loaded")


def test_scores_that_are_no_probabilities_are_refused(tmp_path):
    refused(tmp_path, saved(train("binary:logitraw", "binary"), tmp_path), "gives no probabilities")


def test_features_in_another_order_are_refused(tmp_path):
    backwards = Signature(NUMERIC.features[::-1])
    path = saved(train("binary:logistic", "binary"), tmp_path)
    refused(tmp_path, path, "in this order", signature=backwards)
    refused(tmp_path, path, "its signature names 1", signature=Signature((Feature("tenure"),)))


def test_categories_of_pandas_are_refused(tmp_path):
    import pandas as pd
    import xgboost

    frame = table().assign(partner=pd.Categorical(samples.frame().segment))
    data = xgboost.DMatrix(frame, label=samples.labels("binary"), enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 5)
    refused(tmp_path, saved(booster, tmp_path), "pandas categories")


def test_another_mark_for_missing_values_is_refused_where_only_the_booster_is_kept(tmp_path):
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=5, missing=-1.0, n_jobs=1).fit(table().fillna(-1), samples.labels("binary"))
    filled = Rows(np.nan_to_num(rows().numbers, nan=-1.0), rows().strings)
    with pytest.raises(ModelRefusedError, match="missing=nan"):
        export(tmp_path / "1", estimator=model, rows=filled, card=card(classes=("0", "1")))
