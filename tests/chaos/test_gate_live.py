"""The gate on live processes: it promotes what is better, never what is worse, and takes back what turns bad."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

import msgspec
import numpy as np
import pytest
from load import Load, example_bodies

from shadow_mlops.cli.trafficrows import example_rows
from shadow_mlops.models.loading import load_model
from system import System, get, wait_for

pytestmark = pytest.mark.chaos

SHADOW = str(Path(sys.executable).with_name("shadow"))
OLD, NEW = "2.1.0", "3.0.0-beta"
RATE = 500.0
CUSTOMERS = 30_000
GATE = """
labels: {max_delay: 20s, cohort: 1s}
gate: {metric: log_loss, min_labels: 200, auto_promote: AUTO, guardrails: [{name: errors, margin: 0.1}]}
canary: {steps: [0.1, 0.5], values_per_step: 600}
"""


class Answer(msgspec.Struct):
    model_version: str
    label: int


class Reporter:
    """Reports outcomes a moment after their answers, in batches, as somebody else's process would."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def tell(self, request_id: str, label: int) -> None:
        self._waiting.put((request_id, label))

    def _run(self) -> None:
        ended = False
        while not ended:
            time.sleep(0.2)
            batch = []
            while not self._waiting.empty() and len(batch) < 5000:
                item = self._waiting.get()
                ended |= item is None
                if item is not None:
                    batch.append({"request_id": item[0], "label": item[1]})
            if batch:
                body = msgspec.json.encode({"outcomes": batch})
                request = Request(f"{self._url}/outcomes", body, {"Content-Type": "application/json"})
                with urlopen(request, timeout=30) as answer:
                    assert answer.status == 202


def deployed(data: Path, *, auto: bool = True) -> Path:
    path = data / "example" / "shadow.yaml"
    path.write_text(path.read_text() + GATE.replace("AUTO", str(auto).lower()))
    return path


def shadow(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    data = ["--data-dir", str(system.data), "--deployment", str(system.deployment_file)]
    command = [SHADOW, *arguments, *data]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=system.data)


def trail(system: System) -> list[dict]:
    token = (system.data / "operator-token").read_text().strip()
    request = Request(f"{system.url}/audit?limit=1000", headers={"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())["entries"][::-1]


def champion(system: System) -> str:
    return json.loads(get(f"{system.url}/models")[1])["champion"]["version"]


def gate(system: System) -> dict:
    status, body = get(f"{system.url}/shadow/gate", timeout=20)
    assert status == 200, body
    return json.loads(body)


def customers(seed: int) -> tuple[list[bytes], list[int]]:
    rows = [row for row, _ in zip(example_rows(seed=seed), range(CUSTOMERS), strict=False)]
    return [row.body for row in rows], [int(row.label) for row in rows]


def test_the_better_challenger_is_promoted_by_the_gate_alone_and_nobody_notices(example_data: Path) -> None:
    deployed(example_data)
    bodies, labels = customers(5)
    sides: dict[tuple[int, int], set[str]] = defaultdict(set)
    versions: set[str] = set()
    with System(example_data, workers=2).running() as system, Reporter(system.url) as reporter:
        wait_for(lambda: system.serving()["challengers"], "the challenger is published")
        decode = msgspec.json.Decoder(Answer).decode
        step = -1

        def seen(number, exchange):
            version = decode(exchange.answer).model_version
            versions.add(version)
            sides[step, number % CUSTOMERS].add(version)
            reporter.tell(f"load-{number}", labels[number % CUSTOMERS])

        with Load(system.url, rate=RATE, bodies=bodies, seen=seen) as load:

            def promoted() -> bool:
                nonlocal step
                canary = system.serving().get("canary")
                now = -1 if canary is None else canary["step"]
                if now != step:
                    step = -2  # in between, workers take over one after the other
                    time.sleep(0.7)
                    step = now
                return champion(system) == NEW

            wait_for(promoted, "the gate promotes the better model", 240)
            time.sleep(1.0)
        actions = [(entry["action"], entry["who"], entry["outcome"]) for entry in trail(system)]
        (evidence,) = {entry["details"]["evidence"] for entry in trail(system) if "evidence" in entry["details"]}
        verified = shadow(system, "gate", "verify", evidence)
    assert load.failed == {}
    assert versions == {OLD, NEW}
    assert actions == [
        ("canary start", "gate", "done"),
        ("canary advance", "gate", "done"),
        ("promote", "gate", "done"),
    ]
    assert verified.returncode == 0, verified.stdout + verified.stderr
    torn = [key for key, found in sides.items() if key[0] >= 0 and len(found) > 1]
    assert torn == []
    canary = [found for (at, _), found in sides.items() if at == 0]
    assert 0.05 < sum(found == {NEW} for found in canary) / max(len(canary), 1) < 0.15
    print(f"{len(load.answered):,} answers, none failed; evidence {evidence} verifies")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(11, 11 + metafunc.config.getoption("--seeds")))


def test_the_worse_challenger_is_never_promoted(example_data: Path, seed: int) -> None:
    deployed(example_data)
    bodies, labels = customers(seed)
    with System(example_data, workers=1).running() as system, Reporter(system.url) as reporter:
        wait_for(lambda: system.serving()["challengers"], "the challenger is published")
        swapped = shadow(system, "models", "promote", NEW, "--reason", "so that the challenger is the worse one")
        assert swapped.returncode == 0, swapped.stderr
        with Load(
            system.url,
            rate=RATE,
            bodies=bodies,
            seen=lambda number, _: reporter.tell(f"load-{number}", labels[number % CUSTOMERS]),
        ) as load:
            wait_for(
                lambda: gate(system)["decision"] == "reject" or gate(system)["labelled"] > 12_000,
                "the gate has seen enough",
                120,
            )
            told = gate(system)
        assert champion(system) == NEW
    assert told["challengers"][0]["challenger"] == OLD
    assert told["decision"] != "promote"
    assert load.failed == {}
    print(f"{told['decision']} after {told['labelled']:,} values: {told['reasons']}")


def test_a_challenger_that_turns_bad_in_a_step_is_taken_back(example_data: Path) -> None:
    deployed(example_data)
    bodies, _ = customers(21)
    with System(example_data, workers=2).running() as system, Reporter(system.url) as reporter:
        wait_for(lambda: system.serving()["challengers"], "the challenger is published")
        said = decisions(system, bodies)
        bad = threading.Event()

        def seen(number, _exchange):
            ours, theirs = said[0][number % CUSTOMERS], said[1][number % CUSTOMERS]
            reporter.tell(f"load-{number}", ours if bad.is_set() else theirs)

        with Load(system.url, rate=RATE, bodies=bodies, seen=seen) as load:
            wait_for(lambda: (system.serving().get("canary") or {}).get("step") == 0, "the canary starts", 240)
            bad.set()
            wait_for(lambda: any(e["action"] == "canary abort" for e in trail(system)), "the canary is taken back", 240)
            wait_for(lambda: system.serving().get("canary") is None, "the champion answers all again")
            time.sleep(1.0)
            reached = len(load.answered)
            time.sleep(1.0)
        aborted = next(entry for entry in trail(system) if entry["action"] == "canary abort")
        assert champion(system) == OLD
        assert gate(system)["canary"] is None
    assert load.failed == {}
    assert len(load.answered) > reached
    assert (aborted["who"], aborted["outcome"]) == ("gate", "done")
    assert aborted["details"]["harmed"] > 0
    assert "harm at" in aborted["reason"]
    print(f"taken back: {aborted['reason']}; {aborted['details']}")


def decisions(system: System, bodies: list[bytes]) -> tuple[list[int], list[int]]:
    """What champion and challenger decide on each body."""
    serving = system.serving()
    rows = [msgspec.json.decode(body) for body in bodies]
    found = []
    for directory in (serving["champion"], serving["challengers"]["challenger"]):
        loaded = load_model(system.data / directory)
        signature = loaded.card.signature
        numbers = np.array([[row.get(name) for name in signature.numbers] for row in rows], dtype=np.float64)
        strings = np.array([[row.get(name) for name in signature.strings] for row in rows], dtype=object)
        found.append((loaded.predict(numbers, strings)[:, 1] >= 0.5).astype(int).tolist())
    return found[0], found[1]


def test_example_bodies_are_of_distinct_customers() -> None:
    ids = [msgspec.json.decode(body)["customer_id"] for body in example_bodies(1000)]
    assert len(set(ids)) == 1000
