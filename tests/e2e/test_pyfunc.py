"""A model that only MLflow can load, as champion and as challenger of the real system."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow.pyfunc
import numpy as np
import psutil
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import Registry
from system import System, get, trained_example, wait_for
from venvs import venv_with

MODEL = """
import mlflow.pyfunc
import numpy as np

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        p = 1 / (1 + np.exp(model_input["tenure"].to_numpy(dtype=float) / 12 - 1))
        return np.column_stack((1 - p, p))

mlflow.models.set_model(Model())
"""
BODY = {"customer_id": "CUST-001", "tenure": 24, "monthly_charges": 75.50, "contract_type": 1, "num_support_tickets": 2}


def register(data: Path, alias: str) -> Registry:
    import pandas as pd

    registry = Registry(f"sqlite:///{data / 'mlflow.db'}", data / "artifacts")
    code = data / "model.py"
    code.write_text(MODEL)
    mlflow.pyfunc.save_model(
        str(data / "pyfunc"), python_model=str(code), input_example=pd.DataFrame({"tenure": [1.0, 24.0]}),
        signature=ModelSignature(inputs=Schema([ColSpec("double", "tenure")])), pip_requirements=[],
    )  # fmt: skip
    run = registry.log_run("theirs", folders={"model": data / "pyfunc"}, metrics={}, params={}, tags={})
    version = registry.create_version("churn", run_id=run, path="model", tags={"version": "5.0-pyfunc"})
    registry.set_alias("churn", alias, version.number)
    return registry


def predict(system: System) -> tuple[int, Any]:
    request = Request(f"{system.url}/predict", json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


def children_of(system: System, roles: dict[str, int]) -> list[psutil.Process]:
    found = [child for pid in roles.values() for child in psutil.Process(pid).children(recursive=True)]
    return [child for child in found if any("pyfunc_child" in part for part in _command_of(child))]


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):  # it has ended since it was listed
        return []


def test_a_pyfunc_champion_answers_and_comes_back_when_its_process_is_killed(tmp_path):
    data = trained_example(tmp_path / "data")
    registry = register(data, "champion")
    with System(data, environment={"ALLOW_PICKLE": "true"}).running() as system:
        status, body = predict(system)
        assert (status, body["model_version"]) == (200, "5.0-pyfunc")
        assert body["probability"] == pytest.approx(1 / (1 + 2.718281828459045))
        (child,) = children_of(system, system.workers())
        os.kill(child.pid, signal.SIGSTOP)  # it hangs: killed when the time-out is over, and brought back
        status, body = predict(system)
        assert (status, body["error"]["code"]) == (503, "unavailable")
        wait_for(lambda: predict(system)[0] == 200, "the champion is not back")
        assert children_of(system, system.workers())[0].pid != child.pid
        registry.set_alias("churn", "champion", "1")
        wait_for(lambda: predict(system)[1]["model_version"] == "2.1.0", "the old champion is not served")
        wait_for(lambda: not children_of(system, system.workers()), "the pyfunc's process outlives its reign")
        family = system.family()
    assert not [each for each in family if each.is_running()]


def test_a_pyfunc_challenger_is_paired(tmp_path):
    data = trained_example(tmp_path / "data")
    register(data, "challenger")
    with System(data, environment={"ALLOW_PICKLE": "true"}).running() as system:
        for _ in range(20):
            assert predict(system)[0] == 200
        wait_for(
            lambda: system.total("shadow_results_total", version="5.0-pyfunc", status="paired") == 20,
            "not all are paired",
        )
        assert children_of(system, system.challengers())


def test_a_pyfunc_is_refused_by_default_and_after_the_permission_is_taken_back(tmp_path, monkeypatch):
    data = trained_example(tmp_path / "data")
    registry = register(data, "challenger")
    with System(data).running() as system:
        assert predict(system)[0] == 200  # by the champion
        wait_for(lambda: b"ALLOW_PICKLE" in get(f"{system.url}/health")[1], "health does not say why it is refused")
    from shadow_mlops.models.permission import environment

    with monkeypatch.context() as patch:
        for key, value in environment("", allowed=True).items():
            patch.setenv(key, value)
        directory = prepare(registry, registry.version("churn", "5.0-pyfunc"), data_dir=data, allow_pickle=True)
    assert read_card(directory).runtime == "pyfunc"
    with System(data).running() as system:
        wait_for(lambda: b"ALLOW_PICKLE" in get(f"{system.url}/health")[1], "what was prepared is loaded all the same")
        assert system.serving()["challengers"] == {}


@pytest.mark.slow
def test_a_pyfunc_runs_with_an_interpreter_of_its_own(tmp_path, monkeypatch):
    """Another environment with other versions, which this platform is not installed in."""
    from shadow_mlops.models.loading import load_model
    from shadow_mlops.models.permission import PYTHON_VARIABLE

    python = venv_with("pyfunc", ["mlflow-skinny<3.17", "pandas<3", "numpy<2.4"]) / "python"
    data = trained_example(tmp_path / "data")
    registry = register(data, "challenger")
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    directory = prepare(registry, registry.version("churn", "5.0-pyfunc"), data_dir=data, allow_pickle=True)
    model = load_model(directory)
    assert psutil.Process(model.runtime.pid).cmdline()[0] == str(python)
    got = model.predict(np.array([[24.0]]), np.empty((1, 0), dtype=object))
    assert got[0, 1] == pytest.approx(1 / (1 + 2.718281828459045))
