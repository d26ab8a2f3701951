"""The example with its feature store: a real Feast, a real ``shadow up``, and the skew report on what it logged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurerepo import filled_repository
from shadow_mlops.domain.events import Origin
from shadow_mlops.lake.queries import connect
from system import System, trained_example, wait_for

SHADOW = str(Path(sys.executable).with_name("shadow"))
FIVE = {"tenure": 24, "monthly_charges": 75.50, "contract_type": 1, "num_support_tickets": 2}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``feature_repo``, filled as ``make run`` does it."""
    return filled_repository(tmp_path_factory.mktemp("store") / "feature_repo", customers=300)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[System]:
    data = trained_example(tmp_path_factory.mktemp("features") / "data")
    with (data / "example" / "shadow.yaml").open("a") as file:
        # generous: what is to be seen here must not depend on a busy machine
        file.write(f"feature_store: {{kind: feast, path: {repository}, timeout_ms: 5000}}\n")
    running = System(data)
    with running.running():
        ready = lambda: check(running)["status"] == "ok"  # noqa: E731
        wait_for(ready, "the feature store does not become ready", 60)
        yield running


def check(system: System) -> dict:
    return httpx2.get(f"{system.url}/health").json()["checks"]["feature_store"]


def ask(system: System, body: dict) -> dict:
    answer = httpx2.post(f"{system.url}/predict", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def recorded(system: System, request_id: str) -> dict:
    """An archived event, features and origins by name."""
    found: list[dict] = []

    def look() -> bool:
        with closing(connect(system.data / "lake", tables=("events",))) as connection:
            query = connection.execute("SELECT * FROM events WHERE request_id = ?", [request_id])
            names = [column[0] for column in query.description]
            found[:] = [dict(zip(names, row, strict=True)) for row in query.fetchall()]
        return bool(found)

    wait_for(look, f"{request_id} is not archived", 60)
    return found[0]


def stored(repository: Path, customer: str) -> dict:
    rows = {}
    for name in ("churn_stats", "customer_demographics"):
        table = pq.read_table(repository / "data" / f"{name}.parquet")
        rows |= table.filter(pc.field("customer_id") == customer).to_pylist()[0]
    return rows


def test_an_entity_alone_is_answered_from_its_stored_features_and_the_request_wins(system: System, repository: Path):
    alone, five = ask(system, {"customer_id": "CUST-007"}), ask(system, {"customer_id": "CUST-007", **FIVE})
    nobody = ask(system, {"customer_id": "nobody"})
    assert len({each["probability"] for each in (alone, five, nobody)}) == 3
    known = stored(repository, "CUST-007")
    features = {
        name: value for name, value in known.items() if name not in {"customer_id", "event_timestamp", "created"}
    }
    assert ask(system, {"customer_id": "CUST-007", **features})["probability"] == alone["probability"]
    event = recorded(system, five["request_id"])
    for name, value in FIVE.items():
        assert event[f"n_{name}"] == value
    assert event["n_satisfaction_score"] == known["satisfaction_score"]
    assert event["s_gender"] == known["gender"]
    counts = [event["origins"].count(origin) for origin in (Origin.REQUEST, Origin.STORE)]
    assert counts == [4, 21]
    assert sum(age is not None for age in event["ages"]) == 21
    assert set(recorded(system, nobody["request_id"])["origins"]) == {int(Origin.DEFAULT)}


def test_a_store_that_stops_midway_leaves_the_declared_defaults_and_comes_back(system: System):
    before = ask(system, {"customer_id": "CUST-008"})
    pid = system.pids()["features"]
    os.kill(pid, signal.SIGKILL)
    fallen = [ask(system, {"customer_id": "CUST-008"})]
    wait_for(lambda: system.pids().get("features", pid) != pid, "the feature process does not come back", 30)
    wait_for(lambda: check(system)["status"] == "ok", "the feature store does not come back", 60)
    assert ask(system, {"customer_id": "CUST-008"})["probability"] == before["probability"]
    assert fallen[0]["probability"] != before["probability"]
    assert set(recorded(system, fallen[0]["request_id"])["origins"]) == {int(Origin.FALLBACK)}


def skew(system: System) -> tuple[int, dict]:
    command = [SHADOW, "features", "skew", "--format", "json"]
    command += ["--data-dir", str(system.data), "--deployment", str(system.deployment_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=system.data)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def test_the_skew_report_names_the_skewed_features_and_only_them(system: System, repository: Path):
    answers = [ask(system, {"customer_id": f"CUST-{n:03d}"}) for n in range(1, 61)]
    recorded(system, answers[-1]["request_id"])
    code, report = skew(system)
    assert (code, [each for each in report["features"] if each["skewed"]]) == (0, [])
    assert min(each["rows"] for each in report["features"]) >= 60
    # What training will read is changed under the feet of what requests have read.
    path = repository / "data" / "churn_stats.parquet"
    table = pq.read_table(path)
    for name, change in (("tenure", 1), ("monthly_charges", 0.5)):
        at = table.column_names.index(name)
        table = table.set_column(at, name, pc.add(table[name], pa.scalar(change, table[name].type)))
    try:
        shutil.copy(path, path.with_suffix(".kept"))
        pq.write_table(table, path)
        code, report = skew(system)
    finally:
        path.with_suffix(".kept").replace(path)
    assert code == 1
    assert {each["feature"] for each in report["features"] if each["skewed"]} == {"tenure", "monthly_charges"}
    assert {each["different"] for each in report["features"] if not each["skewed"]} == {0}


def test_show_prints_what_the_store_has(system: System):
    command = [SHADOW, "features", "show", "CUST-001", "--deployment", str(system.deployment_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=system.data)
    assert done.returncode == 0, done.stderr
    assert "satisfaction_score" in done.stdout
    assert done.stdout.count("fresh") == 25


def test_what_make_feast_ui_starts_has_all_that_it_imports() -> None:
    code = "import feast.api.registry.rest, feast.ui_server"  # the first needs an extra of Feast's own
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
