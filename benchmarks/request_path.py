"""Predictions a second on one core: bare ASGI, this gateway, the usual FastAPI with a shadow task.

Every server is pinned to core 0 and loaded alone, in turn, by ``wrk`` with 64 connections from core 1. The
gateway runs as ``shadow up`` starts it, all on that one core: validation, rate limit, event log, metrics,
challenger and monitor.

    python benchmarks/request_path.py --rounds 5 --write
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import report
import wrk

sys.path.insert(0, str(report.ROOT / "tests"))
from system import System, free_port, trained_example, wait_for_http

CONNECTIONS = 64
SERVER_CORE, LOAD_CORE = 0, 1


@contextmanager
def uvicorn(module: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """A server of one worker on the server's core; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), "--no-access-log"]
    command += ["--no-proxy-headers", "--no-server-header", "--no-date-header"]  # as the gateway runs it
    process = subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *command, "--log-level", "warning", "--backlog", "2048"],
        cwd=Path(__file__).parent,
        env=os.environ | (environment or {}),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_http(f"{url}/openapi.json", process, any_status=True)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def measure(rounds: int, seconds: float, seed: int) -> dict[str, list[wrk.Load]]:
    """Interleaved rounds, after one that warms up and does not count."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shadow-bench-")))
        script = wrk.write_script(scratch, seed=seed)
        data = trained_example(scratch / "data")
        system = stack.enter_context(
            System(data, workers=1, core=SERVER_CORE, environment={"RATE_LIMIT_REQUESTS": "1000000000"}).running()
        )
        usual = {"MLFLOW_TRACKING_URI": system.tracking_uri, "SHADOW_LINES": str(scratch / "shadow.jsonl")}
        urls = {
            "bare ASGI": stack.enter_context(uvicorn("bare_asgi")),
            "gateway": system.url,
            "usual FastAPI": stack.enter_context(uvicorn("usual_fastapi", usual)),
        }
        loads: dict[str, list[wrk.Load]] = {name: [] for name in urls}
        for number in range(rounds + 1):
            for name, url in urls.items():
                load = wrk.run(url, script, seconds=seconds, connections=CONNECTIONS, core=LOAD_CORE)
                if load.failed:
                    sys.exit(f"{name}: {load.failed} of {load.requests} requests failed")
                if number:
                    loads[name].append(load)
                print(
                    f"round {number}: {name:14} {load.rate:9,.0f}/s  p99 {load.p99_ms:.1f} ms",
                    file=sys.stderr,
                )
                time.sleep(1.0)  # the challenger catches up a little, the next server finds the core quiet
        return loads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/request_path.json")
    options = parser.parse_args()
    loads = measure(options.rounds, options.seconds, options.seed)
    rates = {name: [load.rate for load in all_] for name, all_ in loads.items()}
    to_bare = [ours / bare for ours, bare in zip(rates["gateway"], rates["bare ASGI"], strict=True)]
    to_usual = [ours / usual for ours, usual in zip(rates["gateway"], rates["usual FastAPI"], strict=True)]
    report.table(
        f"/predict, {CONNECTIONS} connections, one core, {options.rounds} interleaved rounds, median (range)",
        ["server", "answers/s", "p99 ms"],
        [[name, report.spread(rates[name], 0), report.spread([x.p99_ms for x in loads[name]], 1)] for name in loads],
    )
    print(f"gateway / bare ASGI      {report.spread(to_bare)}   (required: at least 0.5)")
    print(f"gateway / usual FastAPI  {report.spread(to_usual, 1)}   (required: at least 10)")
    if options.write:
        figures: dict[str, object] = {
            "connections": CONNECTIONS,
            "seconds": options.seconds,
            "rates": rates,
            "p99_ms": {name: [load.p99_ms for load in all_] for name, all_ in loads.items()},
            "gateway_to_bare": to_bare,
            "gateway_to_usual": to_usual,
        }
        print(f"written: {report.write('request_path', options.seed, figures)}")


if __name__ == "__main__":
    main()
