"""What it costs to read a request's features: a prediction by entity alone over one with all of its features.

One ``shadow up`` for each online store, the example's 25 features, open loop; rounds of both kinds of requests in turn.
The limit is a full prediction; the store's own read, in a process that does nothing else, is printed beside.

    python benchmarks/features.py --rounds 9 --write
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np
import uvloop

import report
from shadow_mlops.cli.loadclient import Exchange, Pool, run_schedule
from shadow_mlops.cli.trafficrows import example_rows

sys.path.insert(0, str(report.ROOT / "tests"))
from featurerepo import feast, filled_repository
from system import System, free_port, get, trained_example, wait_for

CUSTOMERS, RATE, SEED = 1000, 200.0, 77
READ = """
import sys, time
from pathlib import Path
from shadow_mlops.features.feast import FeastFeatures
store = FeastFeatures(Path(sys.argv[1]), "customer_id")
names, took = sorted(store.declared), []
for n in range(600):
    began = time.perf_counter()
    store.online(names, [f"CUST-{n % 900 + 1:03d}"])
    took.append(time.perf_counter() - began)
print(sorted(took[100:])[250] * 1000)
"""


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis of our own on loopback."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def drive(url: str, bodies: list[bytes], seconds: float) -> list[float]:
    """Latencies in milliseconds, from the moment each was due."""
    took: list[float] = []

    def done(exchange: Exchange) -> None:
        assert not exchange.failure, exchange.failure
        took.append(exchange.latency * 1000)

    async def main() -> None:
        pool = Pool(url, done)
        requests = (
            Exchange("/predict", body, f"f-{n}") for n, body in enumerate(islice(cycle(bodies), int(RATE * seconds)))
        )
        await run_schedule(pool, requests, RATE, asyncio.Event(), spin=True)
        await pool.close()

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        gc.enable()
    return took


def measure(folder: Path, repository: Path, rounds: int, seconds: float) -> dict[str, object]:
    """p50 and p99 of each round, for both kinds of requests, and the store's own read."""
    full = [row.body for row in islice(example_rows(seed=SEED), CUSTOMERS)]
    keyed = [f'{{"customer_id":"CUST-{n:03d}"}}'.encode() for n in range(1, CUSTOMERS + 1)]
    data = trained_example(folder / "data")
    system = System(data, environment={"RATE_LIMIT_REQUESTS": "100000000"})
    with system.deployment_file.open("a") as file:
        file.write(f"feature_store: {{kind: feast, path: {repository}, timeout_ms: 200}}\n")

    def well() -> bool:
        return msgspec.json.decode(get(f"{system.url}/health")[1])["checks"]["feature_store"]["status"] == "ok"

    found: dict[str, list[list[float]]] = {"full": [], "keyed": []}
    with system.running():
        wait_for(well, "the feature store does not become ready", 60)
        for _ in range(rounds + 1):
            for kind, bodies in (("full", full), ("keyed", keyed)):
                took = drive(system.url, bodies, seconds)
                found[kind].append([float(np.quantile(took, q)) for q in (0.5, 0.99)])
        reads = {each: system.total("shadow_feature_reads_total", result=each) for each in ("ok", "timeout", "open")}
    own = subprocess.run([sys.executable, "-c", READ, str(repository)], capture_output=True, text=True, check=True)
    return {**{kind: each[1:] for kind, each in found.items()}, "reads": reads, "own_read_ms": float(own.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(verify: 9)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each kind in a round")
    parser.add_argument("--write", action="store_true", help="9 rounds; write benchmarks/results/features.json")
    options = parser.parse_args()
    rounds = 9 if options.write else options.rounds
    began, figures, rows = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        figures["SQLite"] = measure(
            folder / "s", filled_repository(folder / "repo", customers=CUSTOMERS), rounds, options.seconds
        )
        if shutil.which("redis-server"):
            with redis(folder) as address:
                os.environ["REDIS_CONNECTION"] = address
                os.environ["FEAST_FS_YAML_FILE_PATH"] = str(folder / "repo" / "feature_store.redis.yaml")
                feast(folder / "repo", "apply")
                feast(folder / "repo", "materialize", "2000-01-01T00:00:00", "2100-01-01T00:00:00")
                figures["Redis"] = measure(folder / "r", folder / "repo", rounds, options.seconds)
    for name, each in figures.items():
        full, keyed = (np.median(np.array(each[kind]), axis=0) for kind in ("full", "keyed"))
        p50, p99 = (f"{keyed[i]:.2f} − {full[i]:.2f} = {keyed[i] - full[i]:.2f}" for i in (0, 1))
        rows.append((name, p50, p99, f"{each['own_read_ms']:.2f}", str(each["reads"])))
    report.table(
        f"a prediction by entity alone, over a full one: ms, median of {rounds} rounds at {RATE:g}/s",
        ("online store", "p50", "p99", "the store's own read", "reads"),
        rows,
    )
    if "Redis" not in figures:
        print("redis-server is absent: SQLite only")
    print(f"{time.monotonic() - began:.0f} s")
    if options.write:
        print(f"wrote {report.write('features', SEED, {'rate': RATE, 'figures': figures})}")


if __name__ == "__main__":
    main()
