"""One suite over every runtime and every kind of model: what a runtime must do, whatever its format."""

from __future__ import annotations

import contextlib
import sys

import msgspec
import numpy as np
import pytest

import modelsamples as samples
from remotemodel import RemoteModel
from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models import export as exporting
from shadow_mlops.models.conversion import ConversionError
from shadow_mlops.models.endpoint import endpoint_of
from shadow_mlops.models.export import export
from shadow_mlops.models.foreign import read_artefacts
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.mlflow_format import save_mlflow_model
from shadow_mlops.models.permission import PYTHON_VARIABLE
from shadow_mlops.models.pyfuncs import prepare_pyfunc
from shadow_mlops.models.remotes import prepare_remote
from shadow_mlops.models.rows import UNSEEN, Rows, as_frame

TASKS = ("binary", "multiclass", "regression")
NUMERIC = Signature(tuple(Feature(name) for name in samples.NUMBERS))


def card(task, signature=samples.SIGNATURE, classes=None):
    return ModelCard(
        name="churn", version="1", registry_version="1", task=task, runtime="", file="", sha256="", signature=signature,
        classes=samples.classes(task) if classes is None else classes,
    )  # fmt: skip


def refuse_onnx(monkeypatch):
    def failing(*_):
        raise ConversionError("not in this test")

    monkeypatch.setattr(exporting, "to_onnx", failing)


def xgboost_estimator(task):
    from xgboost import XGBClassifier, XGBRegressor

    codes = samples.labels(task)
    if task == "multiclass":  # XGBoost takes labels 0, 1, …
        codes = np.unique(codes, return_inverse=True)[1]
    model = (XGBRegressor if task == "regression" else XGBClassifier)(n_estimators=20, max_depth=4, n_jobs=1)
    return model.fit(samples.frame()[samples.NUMBERS], codes)


def booster(task):
    from lightgbm import LGBMClassifier, LGBMRegressor

    model = (LGBMRegressor if task == "regression" else LGBMClassifier)(n_estimators=20, verbose=-1, n_jobs=1)
    return model.fit(samples.frame()[samples.NUMBERS], samples.labels(task))


CASES = [
    *(
        pytest.param(("onnx", kind, task), id=f"onnx-{kind}-{task}")
        for kind in ("linear", "boosting")
        for task in TASKS
    ),
    *(
        pytest.param(("onnx", "lightgbm", task), id=f"onnx-lightgbm-{task}", marks=pytest.mark.needs_lightgbm)
        for task in TASKS
    ),
    *(pytest.param(("skops", "boosting", task), id=f"skops-{task}") for task in TASKS),
    *(
        pytest.param(("lightgbm", "booster", task), id=f"lightgbm-{task}", marks=pytest.mark.needs_lightgbm)
        for task in TASKS
    ),
    *(
        pytest.param(("onnx", "xgboost", task), id=f"onnx-xgboost-{task}", marks=pytest.mark.needs_xgboost)
        for task in ("binary", "regression")
    ),
    *(
        pytest.param(
            (runtime, "xgboost-alone", task), id=f"{runtime}-xgboost-alone-{task}", marks=pytest.mark.needs_xgboost
        )
        for runtime in ("onnx", "xgboost")
        for task in TASKS
    ),
    *(
        pytest.param(("http", protocol, task), id=f"http-{protocol}-{task}")
        for protocol in ("v2", "mlflow")
        for task in TASKS
    ),
    *(pytest.param(("pyfunc", "boosting", task), id=f"pyfunc-{task}") for task in ("binary", "regression")),
]


def remote_prepared(folder, remote, protocol, task):
    endpoint = endpoint_of("churn", url=remote.url, protocol=protocol, timeout_ms=10_000)
    return prepare_remote(folder, endpoint, card(task), samples.rows())


def pyfunc_prepared(folder, task):
    logged, made = folder / "logged", folder / "prepared"
    save_mlflow_model(logged, estimator=samples.estimator("boosting", task), card=card(task), rows=samples.rows())
    notes = {"task": task, "timeout_ms": "10000"}
    return prepare_pyfunc(
        made, read_artefacts(logged), msgspec.structs.replace(card(task), provenance=notes), samples.rows()
    )


@pytest.fixture(params=CASES, scope="module")
def case(request, tmp_path_factory):
    runtime, kind, task = request.param
    folder = tmp_path_factory.mktemp("prepared")
    rows, original = samples.rows(), samples.estimator("boosting", task)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as running:
        if runtime in {"skops", "xgboost", "lightgbm"}:
            refuse_onnx(patch)
        if runtime == "http":
            columns = list(samples.SIGNATURE.names)
            score = original.predict if task == "regression" else original.predict_proba
            remote = running.enter_context(RemoteModel(lambda frame: score(frame[columns])).running())
            made = remote_prepared(folder, remote, kind, task)
        elif runtime == "pyfunc":
            patch.setenv(PYTHON_VARIABLE, sys.executable)
            made = pyfunc_prepared(folder, task)
            folder /= "prepared"
        elif kind == "booster":
            original, rows = booster(task), Rows(rows.numbers, rows.strings[:, :0])
            made = export(folder, estimator=original, rows=rows, card=card(task, NUMERIC))
        elif kind == "xgboost-alone":
            original, rows = xgboost_estimator(task), Rows(rows.numbers, rows.strings[:, :0])
            classes = ("0", "1", "2") if task == "multiclass" else None
            made = export(folder, estimator=original, rows=rows, card=card(task, NUMERIC, classes))
        else:
            original = samples.estimator(kind, task)
            made = export(folder, estimator=original, rows=rows, card=card(task))
        assert made.runtime == runtime, made.provenance
        yield load_model(folder), original, rows


def expected(case, rows):
    model, original, _ = case
    table = as_frame(model.card.signature, rows)
    scores = original.predict_proba(table) if model.card.classes else original.predict(table).reshape(-1, 1)
    return scores, 1e-5 * max(1.0, float(np.sqrt(np.mean(scores**2))))


def test_many_rows_score_as_the_original_does(case):
    model, _, rows = case
    scores, tolerance = expected(case, rows)
    got = model.predict(rows.numbers, rows.strings)
    assert got.dtype == np.float64
    assert got.shape == (600, len(model.card.outputs))
    assert np.abs(got - scores).max() <= tolerance
    if model.card.classes:
        assert np.allclose(got.sum(axis=1), 1, atol=1e-6)


def test_a_row_scores_alone_as_among_others(case):
    model, _, rows = case
    together = model.predict(rows.numbers[:12], rows.strings[:12])
    alone = np.vstack([model.predict(rows.numbers[i : i + 1], rows.strings[i : i + 1]) for i in range(12)])
    backwards = model.predict(rows.numbers[11::-1], rows.strings[11::-1])[::-1]
    scale = max(1.0, np.abs(together).max())
    assert np.abs(together - alone).max() <= 1e-6 * scale
    assert np.abs(together - backwards).max() <= 1e-6 * scale


def test_no_rows_give_no_scores(case):
    model, _, rows = case
    got = model.predict(rows.numbers[:0], rows.strings[:0])
    assert got.shape == (0, len(model.card.outputs))
    assert got.dtype == np.float64


def test_missing_values_score_as_the_original_does(case):
    model, _, rows = case
    numbers, strings = rows.numbers[:20].copy(), rows.strings[:20].copy()
    numbers[::2], strings[1::2] = np.nan, None
    scores, tolerance = expected(case, Rows(numbers, strings))
    assert np.abs(model.predict(numbers, strings) - scores).max() <= tolerance


def test_an_unseen_category_scores_as_the_original_does(case):
    model, _, rows = case
    strings = rows.strings[:20].copy()
    strings[:, -1:] = UNSEEN  # a booster has no strings at all
    scores, tolerance = expected(case, Rows(rows.numbers[:20], strings))
    assert np.abs(model.predict(rows.numbers[:20], strings) - scores).max() <= tolerance


def test_the_rows_given_are_left_as_they_were(case):
    model, _, rows = case
    numbers, strings = rows.numbers[:3].copy(), rows.strings[:3].copy()
    strings[:, :1] = None
    before = numbers.copy(), strings.copy()
    model.predict(numbers, strings)
    assert np.array_equal(numbers, before[0], equal_nan=True)
    assert strings.tolist() == before[1].tolist()


def test_extreme_values_raise_no_warning(case, recwarn):
    model, _, rows = case
    numbers = rows.numbers[:4].copy()
    numbers[0], numbers[1] = 1e300, -1e300
    try:
        got = model.predict(numbers, rows.strings[:4])
    except PredictionError:
        assert model.card.runtime == "skops"  # scikit-learn refuses what it cannot hold
    else:
        assert got.shape == (4, len(model.card.outputs))
        assert np.isfinite(got[2:]).all()
    assert not [w for w in recwarn if "overflow" in str(w.message)]


def test_a_value_at_its_threshold_stays_on_its_side(tmp_path):
    """Boosting splits at data values; 75.55 as float32 is above 75.55, and must not cross for it."""
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier

    values = np.round(np.random.default_rng(0).uniform(20, 120, 20_000), 2)
    table = pd.DataFrame({"charges": values})
    model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.5).fit(
        table, (values * 7 % 3 > 1.5).astype(int)
    )
    signature = Signature((Feature("charges"),))
    rows = Rows(values.reshape(-1, 1), np.empty((len(values), 0), dtype=object))
    made = export(tmp_path, estimator=model, rows=rows, card=card("binary", signature))
    assert made.runtime == "onnx", made.provenance
    assert float(made.provenance["largest_difference"]) < 1e-6


def test_an_unknown_runtime_names_the_installed_ones(tmp_path):
    from shadow_mlops.models.runtimes import load_runtime

    made = ModelCard(
        name="x", version="1", registry_version="1", task="regression", runtime="abacus", file="x", sha256="",
        signature=NUMERIC,
    )  # fmt: skip
    with pytest.raises(ModelRefusedError, match="http, lightgbm, onnx, pyfunc, skops, xgboost"):
        load_runtime(tmp_path, made)
