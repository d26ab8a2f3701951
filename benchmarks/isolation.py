"""What a client notices of a challenger: the champion's p99, open loop, as challengers behave and misbehave.

Everything, challengers too, is pinned to core 0, the client to core 1. The load is 30 % of the capacity, which
is measured first. One gateway runs throughout; between rounds ``serving.json`` names another challenger, whose
process the supervisor starts. The faults are real model runtimes: they hang, abort, burn CPU on threads of
their own, or leak 128 MiB with each batch.

    python benchmarks/isolation.py --rounds 9 --write
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

import report
import wrk
from shadow_mlops.cli.loadclient import Exchange, Pool, run_schedule
from shadow_mlops.cli.trafficrows import example_rows

sys.path.insert(0, str(report.ROOT / "tests"))
sys.path.insert(0, str(report.ROOT / "tests" / "chaos"))
from faults import KINDS, RUNTIMES, plant

from system import System, trained_example, wait_for

SHARE = 0.3
LIMIT = 1.10
SERVER_CORE, LOAD_CORE = 0, 1
CAUGHT_UP_SECONDS = 60.0
REPLACED_FOR = {"hang": "timeout", "crash": "died", "leak": "memory"}
"""Fault -> why the challenger must have replaced its scorer."""


@dataclass
class Rounds:
    """What was seen in one state."""

    p99: list[float] = field(default_factory=list)
    p999: list[float] = field(default_factory=list)
    failed: int = 0
    answered: int = 0


def drive(url: str, bodies: list[bytes], rate: float, seconds: float) -> tuple[list[float], int]:
    """Latencies of the answered requests, from the moment each was due, and the number of failed ones."""
    latencies: list[float] = []
    failed = 0

    def done(exchange: Exchange) -> None:
        nonlocal failed
        if exchange.failure:
            failed += 1
        else:
            latencies.append(exchange.latency)

    async def main() -> None:
        pool = Pool(url, done)
        numbered = enumerate(islice(cycle(bodies), int(rate * seconds)))
        requests = (Exchange("/predict", body, f"i-{number}") for number, body in numbered)
        await run_schedule(pool, requests, rate, asyncio.Event(), spin=True)
        await pool.close()

    gc.collect()
    gc.disable()  # the client's own pauses are not the server's latency
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        gc.enable()
    return latencies, failed


def switch(system: System, state: str, directories: dict[str, str]) -> None:
    """Let this challenger shadow, and no other; return when its model is loaded, and its fault has struck."""
    before = replacements(system, state)
    wanted = {state: directories[state]} if state in directories else {}
    system.publish(challengers=wanted)
    roles = {f"challenger-{name}" for name in wanted}
    wait_for(lambda: set(system.challengers()) == roles, f"challengers {roles or 'ended'}")
    for name in wanted:
        wait_for(lambda name=name: (b := beat(system, name)) and b["status"] != "loading", f"{name} at work")
    if state in REPLACED_FOR:
        wait_for(lambda: replacements(system, state) > before, f"{state} does what it should")
    if state == "healthy":
        wait_for(lambda: (b := beat(system, state)) and b["lag_events"] == 0, "it caught up", CAUGHT_UP_SECONDS)


def replacements(system: System, challenger: str) -> float:
    """How often the challenger's scorer was replaced for its fault."""
    reason = REPLACED_FOR.get(challenger, "")
    return system.total("shadow_scorer_restarts_total", challenger=challenger, reason=reason)


def beat(system: System, challenger: str) -> dict[str, Any] | None:
    """The challenger's heart-beat of the last two seconds; None without one."""
    path = system.data / "run" / f"challenger-{challenger}.json"
    if not path.exists() or time.time() - path.stat().st_mtime > 2:
        return None
    return json.loads(path.read_bytes())


def paired_share(system: System, challenger: str) -> float:
    """Share of what the challenger was sent that it has scored."""
    paired = system.total("shadow_results_total", challenger=challenger, status="paired")
    return paired / system.total("shadow_results_total", challenger=challenger)


def measure(options: argparse.Namespace) -> tuple[float, float, dict[str, Rounds]]:
    """Capacity, share of pairs of the healthy challenger, and what was seen in each state."""
    bodies = [row.body for row in islice(example_rows(seed=options.seed), 5000)]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shadow-bench-")))
        environment = {
            "RATE_LIMIT_REQUESTS": "1000000000",
            "CHALLENGER_MEMORY_MB": "384",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(RUNTIMES), os.environ.get("PYTHONPATH")])),
        }
        data = trained_example(scratch / "data")
        system = stack.enter_context(System(data, core=SERVER_CORE, environment=environment).running())
        good = wait_for(lambda: system.serving()["challengers"].get("challenger"), "no challenger is published")
        directories = {"healthy": good, **{kind: plant(data, good, kind) for kind in KINDS}}
        os.kill(system.pids()["resolver"], signal.SIGSTOP)  # it would take back what is published below
        stack.callback(os.kill, system.pids()["resolver"], signal.SIGCONT)
        switch(system, "off", directories)
        script = wrk.write_script(scratch, seed=options.seed)
        capacity = wrk.run(system.url, script, seconds=5, connections=64, core=LOAD_CORE).rate
        os.sched_setaffinity(0, {LOAD_CORE})
        seen = {state: Rounds() for state in ("off", *directories)}
        states = list(seen)
        for number in range(options.rounds):
            for state in states[number % len(states) :] + states[: number % len(states)]:
                switch(system, state, directories)
                _, failed = drive(system.url, bodies, SHARE * capacity, options.settle)
                latencies, also_failed = drive(system.url, bodies, SHARE * capacity, options.seconds)
                rounds = seen[state]
                rounds.failed += failed + also_failed
                rounds.answered += len(latencies)
                p99, p999 = np.quantile(latencies, [0.99, 0.999]) * 1e3
                rounds.p99.append(float(p99))
                rounds.p999.append(float(p999))
                print(f"round {number + 1}: {state:8} p99 {p99:.2f} p99.9 {p999:.2f} ms", file=sys.stderr)
        switch(system, "healthy", directories)
        return capacity, paired_share(system, "healthy"), seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=1.5, help="seconds of load before each measurement")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/isolation.json")
    options = parser.parse_args()
    capacity, paired, seen = measure(options)
    ratios = {
        state: [p99 / off for p99, off in zip(rounds.p99, seen["off"].p99, strict=True)]
        for state, rounds in seen.items()
        if state != "off"
    }
    intervals = {state: report.median_interval(values, options.seed) for state, values in ratios.items()}
    report.table(
        f"champion at {SHARE * capacity:,.0f} requests/s ({SHARE:.0%} of capacity), challenger on its core, "
        f"{options.rounds} interleaved rounds: median (min-max)",
        ["challenger", "p99 ms", "p99.9 ms", "p99 / off", "95 % interval", "failed"],
        [
            [
                state,
                report.spread(rounds.p99),
                report.spread(rounds.p999),
                "" if state == "off" else f"{intervals[state][0]:.3f}",
                "" if state == "off" else f"{intervals[state][1]:.3f}-{intervals[state][2]:.3f}",
                f"{rounds.failed:,} of {rounds.answered + rounds.failed:,}",
            ]
            for state, rounds in seen.items()
        ],
    )
    worst = max(median for median, _, _ in intervals.values())
    failed = sum(rounds.failed for rounds in seen.values())
    print(f"worst median ratio {worst:.3f} (required: at most {LIMIT}); failed answers {failed} (required: 0)")
    print(f"healthy challenger paired {paired:.2%} of what it was sent (required: at least 95 %)")
    if options.write:
        figures: dict[str, object] = {
            "capacity": capacity,
            "rate": SHARE * capacity,
            "p99_ms": {state: rounds.p99 for state, rounds in seen.items()},
            "p999_ms": {state: rounds.p999 for state, rounds in seen.items()},
            "failed": {state: rounds.failed for state, rounds in seen.items()},
            "p99_ratio_median_low_high": intervals,
            "healthy_paired_share": paired,
        }
        print(f"written: {report.write('isolation', options.seed, figures)}")
    if worst > LIMIT or failed or paired < 0.95:
        sys.exit(1)


if __name__ == "__main__":
    main()
