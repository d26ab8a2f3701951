"""Beside existing serving: no gateway, CloudEvents of a plain client, and pairs in the lake."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest

from shadow_mlops.example.columns import ENTITY, TARGET
from shadow_mlops.example.generator import generate
from shadow_mlops.lake.manifest import read_manifest
from system import System, trained_example, wait_for

ROWS = 40
_SHADOW = str(Path(sys.executable).with_name("shadow"))


class Beside:
    """A data directory with the example's models, on which console, monitor and one challenger run, and no gateway."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.environment = os.environ | {
            "DATA_DIR": str(data),
            "DEPLOYMENT_FILE": str(data / "example" / "shadow.yaml"),
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Beside]:
        with (self.data / "beside.log").open("wb") as output, contextlib.ExitStack() as held:
            for command in (["console"], ["monitor"], ["challenger", "challenger"]):
                process = subprocess.Popen(
                    [_SHADOW, *command], env=self.environment, stdout=output, stderr=output, cwd=self.data
                )
                held.callback(process.wait, 30)
                held.callback(process.send_signal, signal.SIGINT)
            try:
                wait_for((self.data / "run" / "console.json").exists, "the console does not answer", 120)
                wait_for((self.data / "serving.json").exists, "nobody follows the registry", 120)
                yield self
            except BaseException:
                sys.stderr.write((self.data / "beside.log").read_text(errors="replace")[-8000:])
                raise

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [_SHADOW, *arguments], env=self.environment, cwd=self.data, check=True, capture_output=True, timeout=300
        )
        return done.stdout.decode()

    def post(self, body: object, **headers: str) -> tuple[int, Any]:
        return post(json.loads((self.data / "run" / "console.json").read_text())["url"], body, **headers)

    def table(self, name: str) -> list[dict[str, Any]]:
        files = read_manifest(self.data / "lake").files.get(name, ())
        return [row for file in files for row in pq.read_table(self.data / "lake" / file.path).to_pylist()]


def post(url: str, body: object, **headers: str) -> tuple[int, Any]:
    request = Request(f"{url}/events", json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    data = trained_example(tmp_path_factory.mktemp("beside") / "data")
    with Beside(data).running() as running:
        yield running


def _cloudevent(half: str, key: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-id": key,
        "ce-source": "http://localhost:9081/",
        "ce-type": f"org.kubeflow.serving.inference.{half}",
        "ce-time": "2026-11-20T12:00:00Z",
    }


def _features() -> list[dict[str, Any]]:
    columns = generate(ROWS, seed=3).columns()
    names = [name for name in columns if name not in {ENTITY, TARGET}]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def test_cloudevents_of_a_plain_client_become_pairs(beside: Beside) -> None:
    rows = _features()
    for i, (row, half) in enumerate(itertools.product(rows, ("request", "response"))):
        number = i // 2
        first = half == "request" if number % 2 else half == "response"  # whichever comes first
        kind = "request" if first else "response"
        body = {"instances": [row]} if kind == "request" else {"predictions": [0.25]}
        status, answer = beside.post(body, **_cloudevent(kind, f"pair-{number}"))
        assert (status, answer) == (202, {"accepted": i % 2, "waiting": 1 - i % 2})
    ids = {f"pair-{i}" for i in range(ROWS)}

    def paired() -> bool:
        results = [row for row in beside.table("results") if row["status"] == "paired"]
        return len(results) >= ROWS

    wait_for(paired, "the challenger's results do not reach the lake", 120)
    events = {row["request_id"]: row for row in beside.table("events")}
    assert ids <= events.keys()
    assert {(row["version"], row["role"], row["score"]) for row in events.values()} == {("2.1.0", "champion", 0.25)}

    labels = beside.data / "labels.csv"
    labels.write_text("request_id,label\n" + "".join(f"{key},{i % 2}\n" for i, key in enumerate(sorted(ids))))
    assert f"{ROWS} joined" in beside.run("outcomes", "import", str(labels))
    pairs = beside.table("pairs")
    assert len(pairs) == ROWS
    assert {row["champion_score"] for row in pairs} == {0.25}
    assert {(row["challenger"], row["version"], row["replayed"]) for row in pairs} == {
        ("challenger", "3.0.0-beta", False)
    }
    assert sum(row["target"] for row in pairs) == ROWS / 2


def test_events_of_both_kinds_are_checked_and_a_replay_scores_what_is_archived(beside: Beside) -> None:
    row = _features()[0]
    sent = {"request_id": "mine", "time": "2026-11-21T12:00:00Z", "version": "2.1.0", "score": 0.5, "features": row}
    status, answer = beside.post({"events": [sent]})
    assert (status, answer) == (202, {"accepted": 1})
    status, answer = beside.post({"events": [{**sent, "features": {**row, "tenur": 1}}]})
    assert (status, answer["error"]["code"]) == (422, "invalid_fields")
    assert "did you mean `tenure`?" in answer["error"]["details"][0]["problem"]
    said = json.loads(
        beside.run("replay", "--model", "models:/churn/2.1.0", "--since", "2026-11-20", "--format", "json")
    )
    assert said["paired"] == said["events"] >= 1
    again = beside.run("replay", "--model", "models:/churn/2.1.0", "--since", "2026-11-20")
    assert again.startswith("nothing to score")

    def archived() -> list[dict[str, Any]]:
        return [row for row in beside.table("results") if row["replayed"] and row["version"] == "2.1.0"]

    wait_for(lambda: len(archived()) == said["paired"], "the replay's results do not reach the lake", 120)
    assert {row["champion_version"] for row in archived()} == {"2.1.0"}


def test_with_a_gateway_the_route_is_the_gateways(tmp_path: Path) -> None:
    with System(trained_example(tmp_path / "data")).running() as system:
        row = _features()[0]
        wait_for((system.data / "run" / "console.json").exists, "the console does not answer", 120)
        assert post(system.url, {"predictions": [1]}, **_cloudevent("response", "one")) == (
            202,
            {"accepted": 0, "waiting": 1},
        )
        assert post(system.url, {"instances": [row]}, **_cloudevent("request", "one")) == (
            202,
            {"accepted": 1, "waiting": 0},
        )
        wait_for(lambda: system.total("shadow_results_total", status="paired") == 1, "no challenger has scored it")
        assert system.total("shadow_events_accepted_total", form="cloudevents") == 1
        resolvers = [each for each in system.family() if "shadow_mlops.processes.resolver" in each.cmdline()]
        assert len(resolvers) == 1, "the console keeps one only where there is no gateway"
