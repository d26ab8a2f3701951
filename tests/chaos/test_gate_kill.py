"""``kill -9`` of the monitor while a gate runs: the evidence is that of an undisturbed run over the same log."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine

from gatelogs import START_US, Hours
from lakelogs import BINARY
from shadow_mlops.domain.models import CREATED_US
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.state import gates as stored
from shadow_mlops.state import open_state
from system import System, wait_for

pytestmark = pytest.mark.chaos

SHADOW = str(Path(sys.executable).with_name("shadow"))
OLD, NEW = "2.1.0", "3.0.0-beta"
EVENTS = msgspec.structs.replace(BINARY, version=OLD)
HOURS_A_LIFE, EACH = 6, 40
FRESH = ("log", "lake", "drift", "monitor")
"""Folders that a log that was never read has not."""
GATE = """
labels: {{max_delay: 5h, cohort: 1h}}
lake: {{retain_days: 36500}}
gate: {{metric: log_loss, min_labels: {labels}, guardrails: [{{name: errors, margin: 0.1}}]}}
"""


def prepared(data: Path, lives: int) -> None:
    """Champion and challenger are published; there is no log yet, and a gate that decides towards the end of it."""
    with System(data).running() as system:
        wait_for(lambda: system.serving()["challengers"], "the challenger is published")
    for folder in FRESH:
        shutil.rmtree(data / folder, ignore_errors=True)
    for card in (data / "models" / "churn").glob("*/card.json"):  # registered before the first of the hours below
        told = json.loads(card.read_bytes())
        told["provenance"][CREATED_US] = str(START_US - 1)
        card.write_text(json.dumps(told))
    path = data / "example" / "shadow.yaml"
    path.write_text(path.read_text() + GATE.format(labels=int(0.8 * lives * HOURS_A_LIFE * EACH)))


@contextlib.contextmanager
def monitor(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [SHADOW, "monitor", "--data-dir", str(data), "--deployment", str(data / "example" / "shadow.yaml")]
    with (data / "monitor.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=data)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def database(data: Path) -> Engine:
    return open_state(f"sqlite:///{data / 'state.db'}")


def gate_of(data: Path) -> stored.StoredGate | None:
    found = stored.find(database(data), model="churn", name="challenger", champion=OLD, challenger=NEW)
    return found[0] if found else None


def decided(data: Path) -> bool:
    gate = gate_of(data)
    return gate is not None and gate.evidence is not None


def write_hours(hours: Hours, first: int, rng: np.random.Generator) -> None:
    """Six hours, in which the challenger knows a little more, and some customers come back."""
    for hour in range(first, first + HOURS_A_LIFE):
        truth = rng.random(EACH) < 0.5
        champion = np.clip(0.5 + 0.1 * (2 * truth - 1) + rng.normal(0, 0.2, EACH), 0.01, 0.99)
        challenger = np.clip(champion + 0.05 * (2 * truth - 1), 0.01, 0.99)
        entities = [f"c{hour}-{i}" if i % 10 else f"c{rng.integers(1000)}" for i in range(EACH)]
        span, ids = hours.ask(hour, champion, entities=entities, schema=EVENTS)
        hours.shadow(span, challenger, version=NEW)
        hours.label(hour + 0.9, ids, truth.astype(int).tolist())
    hours.beat()


def moment_of(data: Path, life: int, dice: random.Random) -> None:
    """Until when a monitor lives: any moment, or the one just after it has written something."""
    if life % 3 == 0:
        time.sleep(dice.uniform(0.2, 2.5))
        return
    watched = data / "state.db-wal" if life % 3 == 1 else data / "lake"
    before = watched.stat().st_mtime_ns if watched.exists() else 0
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: watched.exists() and watched.stat().st_mtime_ns != before, f"{watched} changes", 6)
    time.sleep(dice.uniform(0.0, 0.4))


def test_evidence_is_the_same_whenever_the_monitor_is_killed(
    example_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lives = request.config.getoption("--kills")
    prepared(example_data, lives)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(example_data, undisturbed)
    rng, dice, places = np.random.default_rng(3), random.Random(4), set()
    hours = Hours(SegmentLog(example_data / "log"))
    for life in range(lives):
        write_hours(hours, life * HOURS_A_LIFE, rng)
        with monitor(example_data) as process:
            moment_of(example_data, life, dice)
            assert process.poll() is None, (example_data / "monitor.log").read_text()[-2000:]
        gate = gate_of(example_data)
        places.add(None if gate is None else gate.next_cohort)
    hours.later(lives * HOURS_A_LIFE + 9)
    hours.close()
    shutil.copytree(example_data / "log", undisturbed / "log")
    for data in (example_data, undisturbed):
        with monitor(data):
            wait_for(lambda data=data: decided(data), "the gate decides", 180)
    one, other = (stored.chain(database(data)) for data in (example_data, undisturbed))
    assert [each.record for each in one] == [each.record for each in other]
    assert [each.hash for each in one] == [each.hash for each in other]
    assert gate_of(example_data) == gate_of(undisturbed)
    assert len(places) > lives // 4, "the kills came while the gate was at work"
    key = one[0].key
    verify = [SHADOW, "gate", "verify", key, "--data-dir", str(example_data)]
    deployment = ["--deployment", str(example_data / "example" / "shadow.yaml")]
    subprocess.run([*verify, *deployment], check=True, cwd=example_data, timeout=120)
    print(
        f"{lives} kills at {len(places)} places of the gate; evidence {key}, {len(one[0].record):,} bytes, is the same"
    )
