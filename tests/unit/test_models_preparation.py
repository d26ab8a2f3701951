"""Versions that somebody registered with plain MLflow, prepared at first sight."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mlflow import MlflowClient

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.models import preparing
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.preparing import Job, prepare_job
from shadow_mlops.models.registry import VERSION_TAG


@pytest.fixture(autouse=True)
def here(request, monkeypatch):
    """Without the three seconds of a process of its own, but for the tests of that."""
    if "elsewhere" not in request.fixturenames:
        monkeypatch.setattr(preparing, "run_elsewhere", lambda _, arguments, **__: prepare_job(read_job(*arguments)))


@pytest.fixture
def elsewhere(monkeypatch):
    """As it is: in a process of its own."""
    monkeypatch.setattr(preparing, "_SECONDS", 60.0)


def read_job(path):
    return msgspec.msgpack.decode(Path(path).read_bytes(), type=Job)


def register_folder(folder, model, tags=None):
    """What any tool does: upload a folder in MLflow's format, and register it."""
    registry = samples.registry_in(folder)
    run = registry.log_run("strangers", folders={"model": model}, metrics={"auc": 0.8}, params={}, tags={})
    return registry, registry.create_version("churn", run_id=run, path="model", tags=tags or {})


def save(folder, flavor, model, **more):
    import importlib

    module = importlib.import_module(f"mlflow.{flavor}")
    module.save_model(model, str(folder), pip_requirements=[], **more)
    return folder


def test_a_pipeline_logged_by_mlflow_alone_serves(tmp_path):
    original = samples.estimator("boosting", "multiclass")
    saved = save_skops(tmp_path / "m", original, input_example=samples.frame().head(20))
    registry, version = register_folder(tmp_path, saved)
    model = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    rows = samples.rows()
    assert np.abs(model.predict(rows.numbers, rows.strings) - original.predict_proba(samples.frame())).max() < 1e-5
    assert (model.card.runtime, model.card.task) == ("onnx", "multiclass")
    assert model.card.classes == ("high", "low", "middle")
    assert model.card.signature.strings == ("gender", "segment")
    assert model.card.version == "1"  # untagged: the registry's number
    assert model.card.metrics == {"auc": 0.8}
    assert model.card.provenance["compared_on"] == "input example"


def test_agreement_is_checked_on_recorded_traffic_where_there_is_some(tmp_path):
    saved = save_skops(tmp_path / "m", samples.estimator("linear"), input_example=samples.frame().head(2))
    registry, version = register_folder(tmp_path, saved, {VERSION_TAG: "7.0"})
    asked = []

    def recent(signature):
        asked.append(signature.names)
        rows = samples.rows()
        return rows.numbers, rows.strings

    model = load_model(prepare(registry, version, data_dir=tmp_path / "data", recent_rows=recent))
    assert asked == [samples.SIGNATURE.names]
    assert model.card.version == "7.0"
    assert model.card.provenance["compared_on"] == "recorded traffic"
    assert model.card.provenance["compared_rows"] == "600"


def test_pickle_is_loaded_only_with_permission(tmp_path):
    saved = save(
        tmp_path / "m", "sklearn", samples.estimator("linear"), input_example=samples.frame().head(5),
        serialization_format="cloudpickle",
    )  # fmt: skip
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match="ALLOW_PICKLE"):
        prepare(registry, version, data_dir=tmp_path / "data")
    model = load_model(prepare(registry, version, data_dir=tmp_path / "data", allow_pickle=True))
    assert model.card.runtime == "onnx"


class Unpickled:
    """Does something when it is unpickled."""

    def __init__(self, what, *arguments):
        self.what, self.arguments = what, arguments

    def __reduce__(self):
        return self.what, self.arguments


def pickled(folder, what, *arguments):
    import pickle

    saved = flavor_only(
        folder, {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}},
        signature={"inputs": json.dumps([{"name": "x", "type": "double"}])},
    )  # fmt: skip
    (saved / "model.pkl").write_bytes(pickle.dumps(Unpickled(what, *arguments)))
    return saved


def ones(_):
    return np.ones((3, 1)), np.empty((3, 0), dtype=object)


@pytest.mark.parametrize(
    ("what", "said"),
    [((os.abort,), r"ended with -6"), ((os._exit, 3), r"ended with 3"), ((time.sleep, 1e6), "takes more than 5 s")],
    ids=["crashes", "exits", "hangs"],
)
def test_a_model_that_harms_its_process_is_refused_and_harms_no_other(tmp_path, elsewhere, monkeypatch, what, said):
    monkeypatch.setattr(preparing, "_SECONDS", 5.0 if what[0] is time.sleep else 60.0)
    registry, version = register_folder(tmp_path, pickled(tmp_path / "m", *what))
    with pytest.raises(ModelRefusedError, match=said):
        prepare(registry, version, data_dir=tmp_path / "data", allow_pickle=True, recent_rows=ones)
    assert not any((tmp_path / "data" / "models" / "churn").iterdir())


def test_reasons_come_back_from_the_process(tmp_path, elsewhere):
    registry, version = register_folder(tmp_path, pickled(tmp_path / "m", time.time))
    with pytest.raises(ModelRefusedError, match="a float predicts nothing"):
        prepare(registry, version, data_dir=tmp_path / "data", allow_pickle=True, recent_rows=ones)


def test_rows_that_are_no_unicode_do_not_keep_a_model_from_being_prepared(tmp_path):
    """A client may send half a surrogate pair, and it stays among the recorded rows for a while."""
    saved = save_skops(tmp_path / "m", samples.estimator("linear"), input_example=samples.frame().head(2))
    registry, version = register_folder(tmp_path, saved)

    def recent(_):
        rows = samples.rows()
        rows.strings[3, 0] = "\ud800"
        return rows.numbers, rows.strings

    model = load_model(prepare(registry, version, data_dir=tmp_path / "data", recent_rows=recent))
    assert model.card.provenance["compared_rows"] == "599"


def test_untrusted_types_are_refused_by_name(tmp_path):
    import os

    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    saved = save_skops(tmp_path / "m", samples.estimator("linear"), input_example=samples.frame().head(5))
    skops.io.dump(FunctionTransformer(os.system), saved / "model.skops")
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match=r"not trusted.*system"):
        prepare(registry, version, data_dir=tmp_path / "data", allow_pickle=True)


def save_skops(folder, model, **more):
    import skops.io

    trusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    return save(folder, "sklearn", model, serialization_format="skops", skops_trusted_types=trusted, **more)


def onnx_of(estimator, signature_width, zipmap):
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    return convert_sklearn(
        estimator, initial_types=[("X", FloatTensorType([None, signature_width]))], options={"zipmap": zipmap},
        target_opset={"": 18, "ai.onnx.ml": 3},
    )  # fmt: skip


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_foreign_graph_over_one_matrix_serves(tmp_path, zipmap):
    from sklearn.linear_model import LogisticRegression

    table = samples.frame()[["tenure", "partner"]].to_numpy()
    original = LogisticRegression().fit(table, samples.labels("multiclass"))
    example = table[:6].astype(np.float32)
    saved = save(
        tmp_path / "m", "onnx", onnx_of(original, 2, zipmap), input_example=example, save_as_external_data=False
    )
    registry, version = register_folder(tmp_path, saved)
    model = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    assert model.card.signature.names == ("x0", "x1")
    assert (model.card.task, model.card.classes) == ("multiclass", ("high", "low", "middle"))
    got = model.predict(table[:50], np.empty((50, 0), dtype=object))
    assert np.abs(got - original.predict_proba(table[:50])).max() < 1e-5


def test_a_foreign_graph_with_an_input_per_column_serves(tmp_path):
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    from shadow_mlops.models.converters import register_converters

    register_converters()
    original = samples.estimator("linear")
    kinds = {name: StringTensorType if name in samples.STRINGS else FloatTensorType for name in samples.SIGNATURE.names}
    graph = convert_sklearn(
        original, initial_types=[(name, kind([None, 1])) for name, kind in kinds.items()],
        target_opset={"": 18, "ai.onnx.ml": 3},
    )  # fmt: skip
    saved = save(tmp_path / "m", "onnx", graph, input_example=samples.frame().head(5), save_as_external_data=False)
    registry, version = register_folder(tmp_path, saved)
    model = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    rows = samples.rows()
    got = model.predict(rows.numbers, rows.strings)
    assert np.abs(got - original.predict_proba(samples.frame())).max() < 1e-5


@pytest.mark.needs_lightgbm
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_lightgbm_booster_serves(tmp_path, task):
    from lightgbm import LGBMClassifier, LGBMRegressor

    table = samples.frame()[samples.NUMBERS]
    kind = LGBMClassifier if task == "binary" else LGBMRegressor
    original = kind(n_estimators=15, verbose=-1, n_jobs=1).fit(table, samples.labels(task))
    saved = save(tmp_path / "m", "lightgbm", original.booster_, input_example=table.head(5))
    registry, version = register_folder(tmp_path, saved)
    model = load_model(prepare(registry, version, data_dir=tmp_path / "data"))
    expected = original.predict_proba(table) if task == "binary" else original.predict(table).reshape(-1, 1)
    got = model.predict(samples.rows().numbers, np.empty((600, 0), dtype=object))
    assert model.card.task == task
    assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def flavor_only(folder, flavors, **more):
    folder.mkdir()
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors, **more}))  # JSON is YAML
    return folder


def test_what_cannot_be_served_is_refused_with_its_reason(tmp_path):
    saved = flavor_only(tmp_path / "cat", {"catboost": {"data": "model.cb"}})
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match=r"catboost.*these can: onnx, sklearn, lightgbm, xgboost"):
        prepare(registry, version, data_dir=tmp_path / "data")

    saved = flavor_only(tmp_path / "pyfunc", {"python_function": {}, "catboost": {"data": "model.cb"}})
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match=r"catboost.*as a pyfunc.*ALLOW_PICKLE"):
        prepare(registry, version, data_dir=tmp_path / "data")

    saved = flavor_only(tmp_path / "bare", {"sklearn": {"pickled_model": "model.skops"}})
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match="neither a signature nor an input example"):
        prepare(registry, version, data_dir=tmp_path / "data")

    inputs = json.dumps([{"name": "when", "type": "datetime"}])
    saved = flavor_only(tmp_path / "dates", {"sklearn": {}}, signature={"inputs": inputs})
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match=r"'when'.*datetime"):
        prepare(registry, version, data_dir=tmp_path / "data")
    assert not any((tmp_path / "data" / "models" / "churn").iterdir())


def test_a_malformed_description_is_refused_not_fatal(tmp_path):
    saved = flavor_only(tmp_path / "m", {"sklearn": {}}, signature={"inputs": "[[1]]"})
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match="not understood"):
        prepare(registry, version, data_dir=tmp_path / "data")


def test_artefacts_may_not_point_outside_of_their_folder(tmp_path):
    (tmp_path / "secret.skops").write_bytes(b"x")
    inputs = json.dumps([{"name": "x", "type": "double"}])
    saved = flavor_only(
        tmp_path / "m", {"sklearn": {"pickled_model": "../../secret.skops", "serialization_format": "skops"}},
        signature={"inputs": inputs},
    )  # fmt: skip
    registry, version = register_folder(tmp_path, saved)
    with pytest.raises(ModelRefusedError, match="have no"):
        prepare(
            registry, version, data_dir=tmp_path / "data",
            recent_rows=lambda _: (np.ones((3, 1)), np.empty((3, 0), dtype=object)),
        )  # fmt: skip


def test_a_version_logged_as_an_mlflow_3_model_is_found(tmp_path, elsewhere):
    """``log_model`` registers ``models:/m-…``, not a path below its run."""
    import subprocess
    import sys

    samples.registry_in(tmp_path).names()
    code = """
import sys, mlflow, skops.io
sys.path.insert(0, sys.argv[3])
import modelsamples as samples
mlflow.set_tracking_uri(sys.argv[1])
mlflow.create_experiment("theirs", artifact_location=sys.argv[2])
mlflow.set_experiment("theirs")
with mlflow.start_run():
    mlflow.sklearn.log_model(samples.estimator("linear"), name="model", input_example=samples.frame().head(8),
        registered_model_name="churn", serialization_format="skops", skops_trusted_types=["numpy.dtype"],
        pip_requirements=[])
"""
    registry = samples.registry_in(tmp_path)
    where = (tmp_path / "theirs").as_uri()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, registry.tracking_uri, where, str(Path(samples.__file__).parent)],
        check=True, capture_output=True,
    )  # fmt: skip
    version = registry.version("churn", "1")
    assert MlflowClient(registry.tracking_uri).get_model_version("churn", "1").source.startswith("models:/")
    assert load_model(prepare(registry, version, data_dir=tmp_path / "data")).card.runtime == "onnx"
