from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.export import export
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.prepared import file_sha256


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "1"
    export(
        folder, estimator=samples.estimator("linear"), rows=samples.rows(),
        card=ModelCard(
            name="churn", version="1", registry_version="1", task="binary", runtime="", file="", sha256="",
            signature=samples.SIGNATURE, classes=("0", "1"),
        ),
    )  # fmt: skip
    return folder


@pytest.fixture
def directory(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "1")


def test_a_changed_file_is_refused(directory):
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelRefusedError, match="not the file that was prepared"):
        load_model(directory)


def test_another_model_in_the_same_place_is_refused(directory, tmp_path):
    """The hash alone would not do: whoever replaces the file can replace the card."""
    other = export(
        tmp_path / "other", estimator=samples.estimator("boosting"), rows=samples.rows(),
        card=msgspec.json.decode((directory / "card.json").read_bytes(), type=ModelCard),
    )  # fmt: skip
    shutil.copyfile(tmp_path / "other" / other.file, directory / "model.onnx")
    card = json.loads((directory / "card.json").read_text())
    card["sha256"] = file_sha256(directory / "model.onnx")
    (directory / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelRefusedError, match="answers its recorded rows otherwise"):
        load_model(directory)


def test_recorded_rows_hold_missing_values(directory):
    recorded = json.loads((directory / "recorded.json").read_text())
    assert len(recorded["scores"]) == 32
    assert any(cell is None for row in recorded["numbers"] for cell in row)
    assert load_model(directory).single_row_seconds > 0


@pytest.mark.parametrize("name", ["card.json", "recorded.json", "model.onnx"])
def test_an_incomplete_directory_is_refused(directory, name):
    (directory / name).unlink()
    with pytest.raises(ModelRefusedError, match=name):
        load_model(directory)


def test_a_graph_runs_few_nodes_on_two_blocks(directory):
    """25 inputs, fed one by one, cost five times the scoring."""
    import onnx

    graph = onnx.load(directory / "model.onnx").graph
    assert sorted(each.name for each in graph.input) == ["numbers", "strings"]
    assert [each.name for each in graph.output] == ["scores"]
    assert len(graph.node) <= 20


def test_an_export_that_disagrees_is_not_kept(tmp_path, monkeypatch):
    """Negative control: a graph of another model is found out on the reference rows, and the original serves."""
    from shadow_mlops.models import export as exporting
    from shadow_mlops.models.conversion import to_onnx

    other = samples.estimator("boosting")
    monkeypatch.setattr(exporting, "to_onnx", lambda _, signature, task: to_onnx(other, signature, task))
    card = ModelCard(
        name="churn", version="1", registry_version="1", task="binary", runtime="", file="", sha256="",
        signature=samples.SIGNATURE, classes=("0", "1"),
    )  # fmt: skip
    made = export(tmp_path, estimator=samples.estimator("linear"), rows=samples.rows(), card=card)
    assert made.runtime == "skops"
    assert "largest difference" in made.provenance["onnx_refused"]
    rows = samples.rows()
    got = load_model(tmp_path).predict(rows.numbers, rows.strings)
    assert np.abs(got - samples.estimator("linear").predict_proba(samples.frame())).max() < 1e-12
