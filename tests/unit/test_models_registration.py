from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import modelsamples as samples
from shadow_mlops.domain.errors import ConflictError, ModelNotFoundError, ModelRefusedError, RegistryError
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.registry import Registry


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    samples.register_sample(samples.registry_in(folder), "2.1.0", aliases=("champion",), params={"C": "1.0"})
    return folder


@pytest.fixture
def registry(home) -> Registry:
    return samples.registry_in(home)


def test_a_registered_estimator_serves_as_it_answered(registry, tmp_path):
    version = registry.version("churn", "2.1.0")
    model = load_model(prepare(registry, version, data_dir=tmp_path))
    rows = samples.rows()
    expected = samples.estimator("linear").predict_proba(samples.frame())
    assert np.abs(model.predict(rows.numbers, rows.strings) - expected).max() < 1e-5
    assert (model.card.version, model.card.registry_version, model.card.runtime) == ("2.1.0", "1", "onnx")
    assert model.card.signature == samples.SIGNATURE
    assert float(model.card.provenance["largest_difference"]) <= float(model.card.provenance["tolerance"]) == 1e-5
    assert model.single_row_seconds > 0


def test_what_other_tools_and_later_checks_need_is_in_the_registry(registry, tmp_path):
    version = registry.version("churn", "2.1.0")
    assert registry.aliases("churn") == {"champion": "1"}
    assert version.tags["version"] == "2.1.0"
    assert version.tags["data_hash"] == "abc"
    assert registry.metrics(version) == {"accuracy": 0.9}
    folder = registry.download(version, tmp_path / "all")
    described = (folder / "MLmodel").read_text()
    assert "skops" in described
    assert "tenure" in described
    from mlflow import MlflowClient

    client = MlflowClient(registry.tracking_uri)
    run = client.get_run(version.run_id)
    assert run.data.params == {"C": "1.0"}
    kept = pq.read_table(client.download_artifacts(version.run_id, "reference/reference.parquet", str(tmp_path)))
    assert kept.num_rows == 600


def test_mlflow_itself_can_load_what_we_register(home, tmp_path):
    code = (
        "import mlflow, sys, pandas as pd; mlflow.set_tracking_uri(sys.argv[1]);"
        "model = mlflow.pyfunc.load_model('models:/churn@champion');"
        "print(model.predict(model.input_example).shape)"
    )
    uri = samples.registry_in(home).tracking_uri
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, uri], capture_output=True, text=True, check=False
    )
    assert "(5, 2)" in done.stdout, done.stderr


def test_a_version_is_registered_once(registry):
    with pytest.raises(ConflictError, match=r"already has version '2\.1\.0'"):
        samples.register_sample(registry, "2.1.0", aliases=("challenger",))
    assert registry.aliases("churn") == {"champion": "1"}
    assert len(registry.versions("churn")) == 1


def test_a_failed_alias_leaves_no_alias_behind(tmp_path, monkeypatch):
    registry = samples.registry_in(tmp_path)
    samples.register_sample(registry, "1", aliases=("champion",))
    real = Registry.set_alias

    def failing(self, name, alias, number):
        if alias == "canary":
            raise RegistryError("the model registry does not answer")
        real(self, name, alias, number)

    monkeypatch.setattr(Registry, "set_alias", failing)
    with pytest.raises(RegistryError):
        samples.register_sample(registry, "2", aliases=("champion", "challenger", "canary"))
    assert registry.aliases("churn") == {"champion": "1"}


def test_versions_are_found_as_people_name_them(registry):
    assert registry.version("churn", "1").human == "2.1.0"
    with pytest.raises(ModelNotFoundError, match=r"no version '9\.9'"):
        registry.version("churn", "9.9")
    with pytest.raises(ModelNotFoundError, match="nothing"):
        registry.aliases("nothing")


def test_a_registry_that_does_not_answer_says_so(tmp_path):
    with pytest.raises(RegistryError, match="does not answer"):
        Registry("http://127.0.0.1:9", tmp_path).aliases("churn")


def test_reference_rows_without_a_feature_are_refused(tmp_path):
    registry = samples.registry_in(tmp_path)
    with pytest.raises(ModelRefusedError, match="charges"):
        samples.register_sample(registry, "1", reference=samples.reference().drop_columns(["charges"]))
    with pytest.raises(ModelNotFoundError):
        registry.aliases("churn")


def test_tampered_artefacts_are_refused(tmp_path):
    registry = samples.registry_in(tmp_path)
    samples.register_sample(registry, "1")
    stored = next((tmp_path / "artifacts").rglob("shadow/model.onnx"))
    stored.write_bytes(stored.read_bytes() + b"\0")
    with pytest.raises(ModelRefusedError, match="not the one its card describes"):
        prepare(registry, registry.version("churn", "1"), data_dir=tmp_path)
    assert not (tmp_path / "models" / "churn" / "1").exists()


def test_a_registry_begun_anew_is_not_served_from_old_directories(tmp_path):
    data = tmp_path / "data"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, kind in ((first, "linear"), (second, "boosting")):
        folder.mkdir()
        samples.register_sample(samples.registry_in(folder), "1", kind=kind)
    one = samples.registry_in(first)
    before = load_model(prepare(one, one.version("churn", "1"), data_dir=data))
    two = samples.registry_in(second)
    after = load_model(prepare(two, two.version("churn", "1"), data_dir=data))
    assert before.card.sha256 != after.card.sha256


def test_loading_onnx_imports_nothing_heavy(registry, tmp_path):
    directory = prepare(registry, registry.version("churn", "2.1.0"), data_dir=tmp_path)
    code = (
        "import sys, json; from pathlib import Path; from shadow_mlops.models.loading import load_model;"
        "from shadow_mlops.models.serving import read_serving;"
        "m = load_model(Path(sys.argv[1])); print(json.dumps([m.card.runtime, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=True)
    runtime, modules = json.loads(done.stdout)
    heavy = {"pandas", "scipy", "sklearn", "mlflow", "pyarrow", "duckdb", "onnx", "skl2onnx", "sqlalchemy"}
    assert runtime == "onnx"
    assert not heavy.intersection(modules)
