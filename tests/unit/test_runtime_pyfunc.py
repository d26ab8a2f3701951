"""MLflow pyfuncs in a process of their own: what they may answer, and what they may do to nobody."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import psutil
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError, UnavailableError
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.outputs import in_order, scores_of
from shadow_mlops.models.permission import PYTHON_VARIABLE
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.pyfuncs import understood
from shadow_mlops.models.runtimes.pyfunc import Answer

MODEL = '''
import os, sys, time
import mlflow.pyfunc
import numpy as np
import pandas as pd

class Model(mlflow.pyfunc.PythonModel):
    """Chance of the value, which it takes from the first column; misbehaves at values that tell it to."""

    def predict(self, context, model_input, params=None):
        value = model_input["value"].to_numpy(dtype=float)
        assert str(model_input["visits"].dtype) in ("int64", "float64"), model_input.dtypes
        assert str(model_input["member"].dtype) == "bool", model_input.dtypes
        print("a model may print")
        if (value == 100).any():
            time.sleep(1e6)
        if (value == 200).any():
            os.abort()
        if (value == 300).any():
            raise ValueError("300 is not for me")
        p = np.clip(value, 0, 1)
        return np.column_stack((1 - p, p))

mlflow.models.set_model(Model())
'''
COLUMNS = {"value": "double", "visits": "long", "gender": "string", "member": "boolean"}
SIGNATURE = ModelSignature(inputs=Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()]))
STRINGS = np.array([["female"], [None], ["male"], ["x"], ["y"]], dtype=object)
NUMBERS = np.array([[0.1, 3, 1], [0.9, 2, 0], [0.5, 1, 1], [0.25, 0, 0], [0.75, 5, 1]])


def save(folder: Path) -> Path:
    import pandas as pd

    code = folder / "model.py"
    folder.mkdir(parents=True)
    code.write_text(MODEL)
    example = pd.DataFrame(
        {"value": [0.1, 0.8], "visits": [3, 2], "gender": ["female", "male"], "member": [True, False]}
    )
    mlflow.pyfunc.save_model(
        str(folder / "saved"), python_model=str(code), signature=SIGNATURE, input_example=example, pip_requirements=[],
    )  # fmt: skip
    return folder / "saved"


def recent(_signature):
    return NUMBERS, STRINGS


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)


def register(tmp_path, tags=None):
    registry = samples.registry_in(tmp_path)
    saved = save(tmp_path / "made")
    run = registry.log_run("theirs", folders={"model": saved}, metrics={}, params={}, tags={})
    return registry, registry.create_version("churn", run_id=run, path="model", tags=tags or {})


BINARY = {"task": "binary"}
P = NUMBERS[:, 0]


def understood_as(values, columns=None, classes=(), **provenance):
    card = ModelCard(
        name="churn", version="1", registry_version="1", task=provenance.get("task", "binary"), runtime="pyfunc",
        file="", sha256="", signature=Signature(()), provenance=provenance,
    )  # fmt: skip
    made = understood(card, Answer(values, columns), classes, len(P))
    return made, scores_of(in_order(values, columns, made), len(P), made)


def test_answers_of_every_shape_are_scores():
    both = np.column_stack((1 - P, P))
    made, got = understood_as(both)
    assert (made.task, made.classes) == ("binary", ("0", "1"))
    assert np.array_equal(got, both)
    made, got = understood_as(P, **BINARY)  # of the positive class alone
    assert (made.classes, got.tolist()) == (("0", "1"), both.tolist())
    made, got = understood_as(P[:, None], ["probability"], ("no", "yes"), **BINARY)
    assert (made.classes, got.tolist()) == (("no", "yes"), both.tolist())
    made, got = understood_as(both, ["yes", "no"], ("no", "yes"))  # columns find their class by name
    assert (made.classes, got.tolist()) == (("no", "yes"), both[:, ::-1].tolist())
    made, got = understood_as(P * 1000, task="regression")
    assert (made.classes, got.tolist()) == ((), (P * 1000)[:, None].tolist())
    made, _ = understood_as(np.column_stack((P / 2, P / 2, 1 - P)))
    assert (made.task, made.classes) == ("multiclass", ("0", "1", "2"))


def test_labels_are_refused_unless_declared():
    labels = (P > 0.5).astype(float)
    with pytest.raises(ModelRefusedError, match=r"labels, not probabilities.*shadow\.outputs"):
        understood_as(labels, **BINARY)
    texts = np.where(P > 0.5, "yes", "no").tolist()
    with pytest.raises(ModelRefusedError, match=r"labels.*shadow\.outputs"):
        understood_as(texts, None, ("no", "yes"), **BINARY)
    for values, classes in ((labels, ()), (texts, ("no", "yes"))):
        _, got = understood_as(values, None, classes, **BINARY, outputs="labels")
        assert got[:, 1].tolist() == labels.tolist()
    with pytest.raises(ModelRefusedError, match="'maybe', which is none of no, yes"):
        understood_as(["maybe"] * len(P), None, ("no", "yes"), **BINARY, outputs="labels")


@pytest.mark.parametrize(
    ("values", "given", "said"),
    [
        (P, {}, "tag task to binary or regression"),
        (P * 7, BINARY, "outside of 0 to 1"),
        (P[:3], BINARY, "shape"),
        (np.full(len(P), np.nan), BINARY, "no finite score"),
        (P, {"task": "multiclass"}, "classes are not known"),
        (np.column_stack((P, P, P)), BINARY, "binary, and it answers with 3 columns"),
    ],
)
def test_answers_that_are_no_scores_are_refused(values, given, said):
    with pytest.raises(ModelRefusedError, match=said):
        understood_as(values, **given)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON_VARIABLE, sys.executable)
        folder = tmp_path_factory.mktemp("pyfunc")
        registry, version = register(folder, {"shadow.timeout_ms": "400"})
        return prepare(registry, version, data_dir=folder / "data", allow_pickle=True, recent_rows=recent)


@pytest.fixture
def model(prepared, allowed):
    return load_model(prepared)


def test_a_version_that_only_mlflow_knows_is_served(model):
    assert (model.card.task, model.card.classes, model.card.runtime) == ("binary", ("0", "1"), "pyfunc")
    assert model.detached is not None
    got = model.predict(NUMBERS, STRINGS)
    assert np.abs(got - np.column_stack((1 - P, P))).max() < 1e-12
    assert model.predict(NUMBERS[:0], STRINGS[:0]).shape == (0, 2)
    got = model.predict(*rows_with(300))  # a row that it fails on costs no other its score
    assert np.isnan(got[:, 0]).tolist() == [False, False, True, False, False]


def test_without_permission_nothing_is_loaded(prepared, tmp_path, monkeypatch):
    registry, version = register(tmp_path)
    with pytest.raises(ModelRefusedError, match="ALLOW_PICKLE"):
        prepare(registry, version, data_dir=tmp_path / "data", recent_rows=recent)
    monkeypatch.setenv(PYTHON_VARIABLE, "")  # taken back: what was prepared is not loaded either
    with pytest.raises(ModelRefusedError, match="ALLOW_PICKLE"):
        load_model(prepared)


def test_a_pyfunc_does_not_come_in_as_prepared_by_us(prepared, tmp_path, allowed):
    """Its folder is taken over from the registry without a look at the setting."""
    registry = samples.registry_in(tmp_path)
    run = registry.log_run("theirs", folders={"model/shadow": prepared}, metrics={}, params={}, tags={})
    version = registry.create_version("churn", run_id=run, path="model", tags={})
    with pytest.raises(ModelRefusedError, match="prepared files are of a pyfunc"):
        prepare(registry, version, data_dir=tmp_path / "data")


def test_changed_files_are_refused(prepared, tmp_path, allowed):
    copy = shutil.copytree(prepared, tmp_path / "1")
    path = copy / "model" / "model.py"
    path.write_text(path.read_text() + "\nimport this\n")
    with pytest.raises(ModelRefusedError, match="not those that were prepared"):
        load_model(copy)


def test_an_interpreter_without_mlflow_says_so(prepared, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -S -I "$@"\n')  # -S: no site-packages
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with pytest.raises(ModelRefusedError, match="No module named"):
        load_model(prepared)


def rows_with(value):
    numbers = NUMBERS.copy()
    numbers[2, 0] = value
    return numbers, STRINGS


@pytest.mark.parametrize("value", [100, 200])
def test_one_that_hangs_or_dies_is_unavailable_and_comes_back(model, value):
    before = model.runtime.pid
    with pytest.raises(UnavailableError, match="the model's process"):
        model.predict(*rows_with(value))
    assert (
        not psutil.pid_exists(before)
        or psutil.Process(before).status() == psutil.STATUS_ZOMBIE
        or eventually_gone(before)
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            got = model.predict(NUMBERS, STRINGS)
            break
        except UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert np.abs(got[:, 1] - NUMBERS[:, 0]).max() < 1e-12
    assert model.runtime.pid != before


def eventually_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_its_process_ends_with_whoever_has_it(prepared, allowed):
    model = load_model(prepared)
    pid = model.runtime.pid
    del model
    gc.collect()
    assert eventually_gone(pid)


def test_its_process_ends_with_a_killed_parent_even_while_it_hangs(prepared, allowed):
    code = (
        "import sys, threading; from pathlib import Path; import numpy as np;"
        "from shadow_mlops.models.loading import load_model; m = load_model(Path(sys.argv[1]));"
        "print(m.runtime.pid, flush=True);"
        "m.runtime._milliseconds = 100000;"
        "m.predict(np.array([[100.0, 1, 1]]), np.array([['x']], dtype=object))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(prepared)], stdout=subprocess.PIPE, text=True)
    pid = next(int(line) for line in parent.stdout if line.strip().isdecimal())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert eventually_gone(pid)


def test_it_sees_no_setting_of_ours(prepared, allowed, monkeypatch):
    monkeypatch.setenv("SHADOW_SETTINGS", "{}")
    monkeypatch.setenv("OPERATOR_TOKEN", "secret")
    model = load_model(prepared)
    environment = psutil.Process(model.runtime.pid).environ()
    assert not {"SHADOW_SETTINGS", "OPERATOR_TOKEN", PYTHON_VARIABLE} & set(environment)
