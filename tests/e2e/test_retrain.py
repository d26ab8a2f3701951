"""`make retrain`'s command on real traffic: a challenger of its own reference, or a refusal that changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system import System, get, trained_example, wait_for

SHADOW = str(Path(sys.executable).with_name("shadow"))
EVENTS = 2000


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(trained_example(tmp_path_factory.mktemp("retrain") / "data"))
    with running.deployment_file.open("a") as file:
        file.write(f"retrain: {{action: {{command: [{SHADOW}, retrain, train]}}}}\n")
    with running.running():
        yield running


def retrain(system: System, *arguments: str, refused: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [SHADOW, "retrain", "train", *arguments]
    command += ["--data-dir", str(system.data), "--deployment", str(system.deployment_file)]
    environment = {**os.environ, **({} if refused is None else {"SHADOW_RETRAIN_REFUSED": str(refused)})}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=system.data, env=environment)


def challenger(system: System) -> str:
    found = json.loads(get(f"{system.url}/models")[1]).get("challengers")
    return found[0]["version"] if found else ""


def test_without_labels_training_is_refused_and_nothing_changes(system: System):
    told = system.data / "refused"
    done = retrain(system, refused=told)
    assert done.returncode == 75, done.stderr
    assert told.read_text() in " ".join(done.stderr.split())
    assert "archived" in done.stderr or "labelled events are too few" in done.stderr
    wait_for(lambda: challenger(system) == "3.0.0-beta", "the challenger is not served")


def test_labelled_traffic_becomes_the_next_challenger_and_is_shadowed(system: System, tmp_path: Path):
    traffic = [SHADOW, "traffic", "--url", system.url, "--example", "churn", "--rate", "500", "--label-delay", "1"]
    subprocess.run([*traffic, "--count", str(EVENTS)], stdout=subprocess.DEVNULL, cwd=tmp_path, check=True)
    rows = 0

    def archived() -> bool:
        nonlocal rows
        done = retrain(system, "--dry-run", "--output", str(tmp_path / "set.parquet"))
        rows = json.loads(done.stdout)["rows"] if done.returncode == 0 else 0
        return rows == EVENTS

    wait_for(archived, "labels do not become training rows", 60)
    table = pq.read_table(tmp_path / "set.parquet")
    assert table.num_rows == EVENTS
    assert set(table["__label__"].to_pylist()) == {0, 1}
    assert len(table.column_names) == 27  # features, label, entity
    wait_for(lambda: challenger(system) == "3.0.0-beta", "a dry run has changed the challenger")
    done = retrain(system)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["version"], told["rows"]) == ("3.1.0", EVENTS)
    assert told["metrics"]["auc"] > 0.85  # far above chance: it has learnt from this traffic
    wait_for(lambda: challenger(system) == "3.1.0", "the new version is not shadowed", 60)
    models = json.loads(get(f"{system.url}/models")[1])
    assert models["champion"]["version"] == "2.1.0"
    number = models["challengers"][0]["registry_version"]
    assert (system.data / "models" / "churn" / number / "reference.json").exists()


def test_an_order_reaches_the_command_with_the_monitors_data(system: System):
    before = challenger(system)
    order = [SHADOW, "retrain", "run", "--reason", "a new price list", "--format", "json"]
    order += ["--data-dir", str(system.data), "--deployment", str(system.deployment_file)]
    done = subprocess.run(order, capture_output=True, text=True, check=True, cwd=system.data)
    key = json.loads(done.stdout)["key"]
    wait_for(lambda: challenger(system) not in {before, "3.0.0-beta"}, "no new version is shadowed", 90)
    assert challenger(system) == "3.2.0"
    record = system.data / "retraining" / f"{key}.json"
    wait_for(lambda: json.loads(record.read_bytes())["exit_code"] == 0, "the command does not end")
    log = (system.data / "retraining" / f"{key}.log").read_text()
    assert json.loads(log.splitlines()[-1])["version"] == "3.2.0"
