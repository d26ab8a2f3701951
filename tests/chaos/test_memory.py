"""What a serving worker carries: none of the heavy libraries, and no more memory after many requests than after few."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from system import ROOT, System, get, wait_for

sys.path.insert(0, str(ROOT / "benchmarks"))
import wrk

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.needs_wrk]

FORBIDDEN = {"pandas", "pyarrow", "scipy", "duckdb", "sklearn", "feast", "mlflow", "sqlalchemy", "alembic"}
MOST_BYTES = 150 * 2**20
MOST_GROWTH = 1.10
MODULE_LIST = Path(__file__).parent / "module_list"
ROUND_SECONDS = 5.0


def modules_of(pid, folder):
    """Top-level modules that a process has imported, by its own word."""
    os.kill(pid, signal.SIGUSR2)
    path = folder / str(pid)
    wait_for(path.exists, f"process {pid} lists its modules")
    return {name.partition(".")[0] for name in path.read_text().split()}


def test_a_worker_stays_light_and_small(example_data, tmp_path, request):
    wanted = request.config.getoption("--requests", 100_000)
    listed = tmp_path / "modules"
    listed.mkdir()
    environment = {
        "PYTHONPATH": str(MODULE_LIST),
        "MODULE_LIST": str(listed),
        "RATE_LIMIT_REQUESTS": "1000000000",
    }
    script = wrk.write_script(tmp_path, seed=3)
    with System(example_data, workers=1, environment=environment).running() as system:
        (pid,) = system.workers().values()
        worker = psutil.Process(pid)
        served, failed, first = 0, 0, 0
        while served < wanted:
            load = wrk.run(system.url, script, seconds=ROUND_SECONDS, connections=64, core=None)
            served, failed = served + load.requests, failed + load.failed
            if not first and served >= wanted / 10:
                first = worker.memory_info().rss
        wait_for(lambda: get(f"{system.url}/shadow/comparison")[0] == 200, "the console answers through the worker")
        last = worker.memory_info().rss
        modules = modules_of(pid, listed)
        assert system.workers() == {"gateway-worker-0": pid}  # the same process served them all
    print(f"RSS {first / 2**20:.1f} MiB after a tenth of {served:,} requests, {last / 2**20:.1f} MiB after all")
    assert failed == 0
    assert modules & FORBIDDEN == set()
    assert "shadow_mlops" in modules
    assert last <= MOST_BYTES
    assert last <= MOST_GROWTH * first
