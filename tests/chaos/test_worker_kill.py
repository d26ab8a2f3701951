"""An answered prediction is in the log, whenever its worker is killed."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from load import Load, example_bodies

from frame_checker import request_ids
from system import System, wait_for

pytestmark = pytest.mark.chaos

RATE = 1200.0
KILLS = 20
LATE_APPEND = Path(__file__).parent / "late_append"


def kill_workers_under_load(system: System, kills: int, seed: int) -> Load:
    """Kill a worker again and again, each time while it answers; give what the client was answered."""
    rng = random.Random(seed)
    with Load(system.url, rate=RATE, bodies=example_bodies(500)) as load:
        for _ in range(kills):
            # Any moment of a tick must be hit: the pause is random, and every worker answers when it is hit.
            before = len(load.answered)
            wait_for(lambda before=before: len(load.answered) > before + RATE / 4, "the load is answered")
            time.sleep(rng.uniform(0.0, 0.1))
            role, pid = rng.choice(sorted(system.workers().items()))
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda role=role, pid=pid: system.workers().get(role, pid) != pid, f"{role} comes back")
            wait_for(lambda: len(generations(system)) == 2, "both workers serve")
    return load


def generations(system: System) -> list[int]:
    """Generations that workers report to serve."""
    return [g for g in system.gateway_word().get("generations", {}).values() if g > 0]


def logged(data: Path) -> Counter[str]:
    """Request id -> rows that have it, by a reader that knows the frame format and no product code."""
    return Counter(request_ids(data / "log"))


def test_every_answer_is_in_the_log_once(example_data):
    with System(example_data, workers=2).running() as system:
        load = kill_workers_under_load(system, KILLS, seed=1)
    found = logged(example_data)
    assert len(load.answered) > KILLS * RATE / 4
    assert load.ids - found.keys() == set()
    assert [request for request, times in found.items() if times > 1] == []


def test_an_append_after_the_answer_is_found_out(example_data):
    environment = {"PYTHONPATH": str(LATE_APPEND)}
    with System(example_data, workers=2, environment=environment).running() as system:
        load = kill_workers_under_load(system, 5, seed=2)
    assert load.ids - logged(example_data).keys() != set()
