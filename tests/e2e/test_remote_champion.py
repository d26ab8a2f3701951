"""The example's model served elsewhere, behind the gateway: its answers, and its bad days."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from remotemodel import RemoteModel
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog import EventBatch, Frame
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.models.loading import LoadedModel, load_model
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.prepared import read_recorded, recorded_rows
from shadow_mlops.models.registry import Registry
from system import System, free_port, get, trained_example, wait_for, wait_for_http
from venvs import venv_with

REMOTE = "9.0-remote"
DAYS = ("hang", "error", "not json", "wrong shape", "nan", "closed")


def registry_of(data: Path) -> Registry:
    return Registry(f"sqlite:///{data / 'mlflow.db'}", data / "artifacts")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return trained_example(tmp_path_factory.mktemp("remote") / "data")


@pytest.fixture(scope="module")
def local(home, tmp_path_factory) -> LoadedModel:
    """The same model in this process."""
    registry = registry_of(home)
    return load_model(prepare(registry, registry.version("churn", "2.1.0"), data_dir=tmp_path_factory.mktemp("local")))


def register(data: Path, url: str, protocol: str, signature: Path, *, version: str = REMOTE, alias: str = "champion"):
    command = [
        str(Path(sys.executable).with_name("shadow")), "models", "register-remote", "--name", "churn",
        "--version", version, "--url", url, "--protocol", protocol, "--signature", str(signature),
        "--timeout-ms", "800", "--alias", alias, "--data-dir", str(data),
    ]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "DATA_DIR": str(data)}
    )


def frame_scores(local: LoadedModel):
    def predict(frame):
        signature = local.card.signature
        numbers = frame[list(signature.numbers)].to_numpy(dtype=float)
        strings = frame[list(signature.strings)].to_numpy(dtype=object)
        return local.predict(numbers, strings)

    return predict


def post(url: str, body: Any, timeout: float = 60.0) -> tuple[int, Any, dict[str, str]]:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer), {key.lower(): value for key, value in answer.headers.items()}
    except HTTPError as error:
        return error.code, json.load(error), {key.lower(): value for key, value in error.headers.items()}


def requests_of(local: LoadedModel, count: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Requests with every feature, a missing one here and there, and the scores that the model gives to them."""
    rows = recorded_rows(read_recorded(local.directory), local.card).take(count)
    signature, found = local.card.signature, []
    for numbers, strings in zip(rows.numbers, rows.strings, strict=True):
        given = {n: None if np.isnan(v) else float(v) for n, v in zip(signature.numbers, numbers, strict=True)}
        found.append(given | dict(zip(signature.strings, strings, strict=True)))
    return found, local.predict(rows.numbers, rows.strings)


def logged(data: Path) -> int:
    tail = SegmentLog(data / "log").tail(EVENTS)
    try:
        count = 0
        while items := tail.poll(10_000):
            for item in items:
                if isinstance(item, Frame) and isinstance(item.batch, EventBatch):
                    count += len(item.batch) if item.batch.schema.version == REMOTE else 0
        return count
    finally:
        tail.close()


def answers_as(system: System, local: LoadedModel, tolerance: float) -> int:
    """Post rows alone and in a batch; they must be answered as the model itself answers. How many were."""
    rows, expected = requests_of(local, 20)
    status, body, _ = post(f"{system.url}/predict/batch", {"instances": rows})
    assert status == 200, body
    got = np.array([each["probability"] for each in body["predictions"]])
    assert np.abs(got - expected[:, 1]).max() <= tolerance
    assert {each["model_version"] for each in body["predictions"]} == {REMOTE}
    for row, score in zip(rows[:3], expected[:3, 1], strict=True):
        status, body, _ = post(f"{system.url}/predict", row)
        assert (status, body["model_version"]) == (200, REMOTE)
        assert abs(body["probability"] - score) <= tolerance
    return len(rows) + 3


@pytest.mark.parametrize("protocol", ["v2", "mlflow"])
def test_a_remote_champion_answers_and_its_bad_days_are_answered_as_declared(home, local, tmp_path, protocol):
    data = trained_example(tmp_path / "data")
    with RemoteModel(frame_scores(local)).running() as remote:
        done = register(data, remote.url, protocol, local.directory)
        assert done.returncode == 0, done.stderr
        with System(data).running() as system:
            answered = answers_as(system, local, 1e-6)
            rows, _ = requests_of(local, 20)
            for day in DAYS:
                remote.day, before = day, remote.calls
                for path, body in (("/predict", rows[0]), ("/predict/batch", {"instances": rows})):
                    status, problem, headers = post(f"{system.url}{path}", body)
                    assert status == 503, (day, problem)
                    assert headers["retry-after"] == "1"
                    assert problem["error"]["code"] == "unavailable"
                    assert problem["error"]["request_id"] == headers["x-request-id"]
                asked = remote.calls - before
                assert asked <= 4  # once for each tick's rows (and once more on a closed connection)
                remote.day = "well"
                wait_for(lambda: post(f"{system.url}/predict", rows[0])[0] == 200, f"it is not back after {day}")
                answered += 1
            remote.day = "error"
            wait_for(
                lambda: post(f"{system.url}/predict", rows[0])[1]["error"]["message"].endswith("for a moment"),
                "it is never left alone",
            )
            wait_for(lambda: b"its model is elsewhere" in get(f"{system.url}/health")[1], "health does not tell")
            remote.day = "well"
            wait_for(lambda: post(f"{system.url}/predict", rows[0])[0] == 200, "it is not back")
            answered += 1
            answered += answers_as(system, local, 1e-6)
            assert get(f"{system.url}/health/ready")[0] == 200
            wait_for(lambda: logged(data) == answered, f"the log has {logged(data)} of {answered} answered")
            for result in ("ok", "timeout", "status", "garbage", "unreachable"):
                assert system.total("shadow_detached_calls_total", version=REMOTE, result=result) > 0, result
            assert system.total("shadow_detached_breaker_open", version=REMOTE) == 0


def test_a_gateway_that_starts_while_its_remote_champion_is_away_serves_it_later(home, local, tmp_path):
    data = trained_example(tmp_path / "data")
    remote = RemoteModel(frame_scores(local))
    with remote.running():
        assert register(data, remote.url, "v2", local.directory).returncode == 0
        with System(data).running() as system:
            remote.day = "away"
            for pid in system.workers().values():
                os.kill(pid, 9)
            row = requests_of(local, 1)[0][0]
            wait_for(lambda: _status(system, row) == 503, "the new worker does not say that it has no champion")
            remote.day = "well"
            wait_for(lambda: _status(system, row) == 200, "the remote champion is not served")


def _status(system: System, row: dict[str, Any]) -> int:
    with contextlib.suppress(OSError):
        return post(f"{system.url}/predict", row)[0]
    return 0


def test_a_remote_that_is_away_is_not_registered(home, local):
    done = register(home, f"http://127.0.0.1:{free_port()}", "v2", local.directory, version="9.1", alias="challenger")
    assert done.returncode == 5
    assert "cannot be reached" in done.stderr
    assert "9.1" not in {each.human for each in registry_of(home).versions("churn")}


@contextlib.contextmanager
def server(command: list[str], ready: str, folder: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A server in a process group of its own, whose number it is."""
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=folder,
            process_group=0,
            env={**os.environ, **(environment or {})},
        )
        try:
            wait_for_http(ready, process)
            yield process.pid
        except BaseException:
            sys.stderr.write((folder / "server.log").read_text(errors="replace")[-4000:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def hangs_and_comes_back(system: System, group: int, row: dict[str, Any]) -> None:
    """The real server stops in the middle of things, and goes on."""
    os.killpg(group, signal.SIGSTOP)
    try:
        status, problem, headers = post(f"{system.url}/predict", row)
        assert (status, problem["error"]["code"]) == (503, "unavailable")
        assert "retry-after" in headers
    finally:
        os.killpg(group, signal.SIGCONT)
    wait_for(lambda: _status(system, row) == 200, "it is not back")


@pytest.mark.slow
def test_mlflows_scoring_server_as_champion(home, local, tmp_path):
    packages = ("scikit-learn", "skops", "numpy", "pandas")
    bin_folder = venv_with(
        "mlflow", [f"mlflow=={installed('mlflow-skinny')}", *(f"{name}=={installed(name)}" for name in packages)]
    )
    data = trained_example(tmp_path / "data")
    registry = registry_of(data)
    version = registry.version("churn", "2.1.0")
    model = registry.download(version, tmp_path / "model")
    port = free_port()
    command = [
        str(bin_folder / "mlflow"), "models", "serve", "--model-uri", str(model), "--host", "127.0.0.1",
        "--port", str(port), "--env-manager", "local", "--workers", "1",
    ]  # fmt: skip
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path, environment) as group:
        done = register(data, f"http://127.0.0.1:{port}", "mlflow", local.directory)
        assert done.returncode == 0, done.stderr
        with System(data).running() as system:
            answers_as(system, local, 1e-5)
            hangs_and_comes_back(system, group, requests_of(local, 1)[0][0])


MLSERVER_MODEL = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

NUMBERS, STRINGS = {numbers!r}, {strings!r}

class Churn(MLModel):
    async def load(self):
        self._session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        frame = PandasCodec.decode_request(payload)
        given = {{
            "numbers": frame[NUMBERS].to_numpy(dtype=float),
            "strings": frame[STRINGS].to_numpy(dtype=object),
        }}
        scores = self._session.run(["scores"], {{name: given[name] for name in self._inputs}})[0]
        output = ResponseOutput(
            name="predict_proba", shape=list(scores.shape), datatype="FP64", data=scores.astype(float).ravel().tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


@pytest.mark.slow
def test_mlserver_as_champion(home, local, tmp_path):
    assert local.card.runtime == "onnx"
    bin_folder = venv_with("mlserver", ["mlserver", f"onnxruntime=={installed('onnxruntime')}", "pandas<3"])
    data = trained_example(tmp_path / "data")
    signature = local.card.signature
    (tmp_path / "churn_model.py").write_text(
        MLSERVER_MODEL.format(
            numbers=list(signature.numbers),
            strings=list(signature.strings),
            path=str(local.directory / local.card.file),
        )
    )
    (tmp_path / "model-settings.json").write_text(json.dumps({"name": "churn", "implementation": "churn_model.Churn"}))
    port = free_port()
    (tmp_path / "settings.json").write_text(
        json.dumps(
            {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
             "parallel_workers": 0}
        )
    )  # fmt: skip
    command = [str(bin_folder / "mlserver"), "start", str(tmp_path)]
    with server(
        command, f"http://127.0.0.1:{port}/v2/models/churn/ready", tmp_path, {"PYTHONPATH": str(tmp_path)}
    ) as group:
        done = register(data, f"http://127.0.0.1:{port}", "v2", local.directory)
        assert done.returncode == 0, done.stderr
        with System(data).running() as system:
            answers_as(system, local, 1e-6)
            hangs_and_comes_back(system, group, requests_of(local, 1)[0][0])
