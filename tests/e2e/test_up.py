"""``shadow up`` as a person meets it: start, answer, reload, refuse, end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tests.system import System, free_port, get, trained_example, wait_for

CONTRACT = {
    "customer_id": "CUST-001",
    "tenure": 24,
    "monthly_charges": 75.50,
    "contract_type": 1,
    "num_support_tickets": 2,
}
SHADOW = str(Path(sys.executable).with_name("shadow"))


def predict(url: str, body: object = CONTRACT) -> dict:
    request = Request(f"{url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def health(system: System) -> dict:
    return json.loads(get(f"{system.url}/health")[1])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return trained_example(tmp_path / "data")


@pytest.fixture
def system(data: Path) -> Iterator[System]:
    with System(data).running() as running:
        yield running


def test_the_contracts_request_is_answered_and_shadowed_and_everything_ends_cleanly(system: System):
    answer = predict(system.url)
    assert list(answer) == ["probability", "label", "confidence", "risk_tier", "model_version", "request_id"]
    assert answer["model_version"] == "2.1.0"
    assert 0 < answer["probability"] < 1

    def shadowed() -> bool:
        models = json.loads(get(f"{system.url}/models")[1])
        return [each["predictions"] for each in (models["champion"], *models["challengers"])] == [1, 1]

    wait_for(shadowed, "the challenger did not score the event")
    wait_for(lambda: health(system)["status"] == "ok", "health does not become ok")
    models = json.loads(get(f"{system.url}/models")[1])
    assert models["champion"]["metrics"]["accuracy"] >= 0.892
    assert models["challengers"][0]["version"] == "3.0.0-beta"
    assert models["challengers"][0]["metrics"]["auc"] >= 0.941
    assert set(system.pids()) >= {"gateway", "gateway-worker-0", "resolver", "monitor", "challenger-challenger"}
    assert system.stop() == 0


def test_a_second_start_serves_what_the_first_one_resolved_even_without_a_registry(data: Path):
    with System(data).running() as first:
        predict(first.url)
        first.stop()
    nowhere = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    with System(data, environment=nowhere).running() as second:
        assert predict(second.url)["model_version"] == "2.1.0"
        wait_for(lambda: health(second)["checks"]["registry"]["status"] == "degraded", "health hides the registry")
        assert get(f"{second.url}/health")[0] == 200


def test_a_second_supervisor_on_the_same_data_is_refused(system: System):
    command = [SHADOW, "up", "--port", str(free_port()), "--data-dir", str(system.data)]
    done = subprocess.run(command, cwd=system.data, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "already running" in done.stderr
    assert predict(system.url)["model_version"] == "2.1.0"


def test_a_port_that_is_taken_is_told_in_one_line(data: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [SHADOW, "up", "--port", port, "--data-dir", str(data)]
        done = subprocess.run(
            command, cwd=data, env={"API_HOST": "127.0.0.1"}, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"shadow: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


def test_a_wrong_deployment_file_is_told_with_its_line(data: Path, tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text("name: churn\nshdow: {}\n")
    command = [SHADOW, "up", "--deployment", str(file), "--data-dir", str(data)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        f"shadow: {file}:2: unknown key `shdow`, did you mean `shadow`?",
    )


def test_a_changed_deployment_file_is_checked_and_applied_without_a_failed_answer(data: Path):
    system = System(data, workers=2)
    system._command.append("--reload")
    with system.running():
        text = system.deployment_file.read_text()
        before = system.workers()
        system.deployment_file.write_text(text + "\nnonsense: 1\n")
        wait_for(lambda: health(system)["checks"]["deployment"]["status"] == "degraded", "the bad file is not told")
        assert "nonsense" in health(system)["checks"]["deployment"]["detail"]
        assert predict(system.url)["risk_tier"] in {"LOW", "MEDIUM", "HIGH", "CRITICAL"}
        assert system.workers() == before

        changed = text.replace("tiers: {LOW: 0.25, MEDIUM: 0.5, HIGH: 0.75, CRITICAL: 1.0}", "tiers: {ONLY: 1.0}")
        assert changed != text
        system.deployment_file.write_text(changed)

        def applied() -> bool:
            return predict(system.url)["risk_tier"] == "ONLY" and not set(system.workers().values()) & set(
                before.values()
            )

        wait_for(applied, "the good file is not applied")
        assert health(system)["checks"]["deployment"]["status"] == "ok"


def test_doctor_finds_a_running_system_fit(system: System):
    predict(system.url)
    command = [SHADOW, "doctor", "--data-dir", str(system.data), "--deployment", str(system.deployment_file)]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=60, check=False)
    findings = {f["check"]: f["status"] for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done.stdout
    assert {findings["deployment"], findings["event log"], findings["models"]} == {"ok"}
