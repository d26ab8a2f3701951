"""A feature store that hangs: each request has its declared answer within the time-out, and the breaker spares most."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from load import Load

from featurerepo import filled_repository
from shadow_mlops.cli.loadclient import Exchange
from shadow_mlops.domain.events import Origin
from shadow_mlops.lake.queries import connect
from system import System, get, wait_for

pytestmark = pytest.mark.chaos
CUSTOMERS, TIMEOUT_MS = 300, 50


def check(system: System) -> str:
    return msgspec.json.decode(get(f"{system.url}/health")[1])["checks"]["feature_store"]["status"]


def test_no_request_is_without_its_declared_answer_while_the_store_hangs(
    example_data: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    rate, hang = request.config.getoption("--keyed"), request.config.getoption("--hang")
    repository = filled_repository(tmp_path / "feature_repo", customers=CUSTOMERS)
    system = System(example_data, environment={"RATE_LIMIT_REQUESTS": "100000000"})
    with system.deployment_file.open("a") as file:
        file.write(f"feature_store: {{kind: feast, path: {repository}, timeout_ms: {TIMEOUT_MS}}}\n")
    bodies = [f'{{"customer_id":"CUST-{n:03d}"}}'.encode() for n in range(1, CUSTOMERS + 1)]
    seen: list[tuple[float, float, str]] = []

    def answered(_number: int, exchange: Exchange) -> None:
        seen.append((exchange.scheduled, exchange.latency, exchange.request_id))

    with system.running():
        wait_for(lambda: check(system) == "ok", "the feature store does not become ready", 60)
        with Load(system.url, rate=rate, bodies=bodies, prefix="keyed", seen=answered) as load:
            time.sleep(4)
            pid = system.pids()["features"]
            stopped = time.perf_counter()
            os.kill(pid, signal.SIGSTOP)
            try:
                wait_for(lambda: system.total("shadow_feature_breaker_open") > 0, "the breaker does not open", 10)
                time.sleep(hang)
            finally:
                os.kill(pid, signal.SIGCONT)
            continued = time.perf_counter()
            wait_for(lambda: check(system) == "ok", "the breaker does not close", 20)
            closed = time.perf_counter()
            time.sleep(3)
        assert load.failed == Counter()
        reads = {each: system.total("shadow_feature_reads_total", result=each) for each in ("ok", "timeout", "open")}
        origins = origins_of(system, {request_id for _, _, request_id in seen})

    def p99(since: float, until: float) -> float:
        return float(np.quantile([took for due, took, _ in seen if since <= due < until], 0.99)) * 1000

    before, during, after = p99(stopped - 3, stopped), p99(stopped, continued), p99(closed, np.inf)
    print(
        f"\n{rate:g} keyed predictions/s, the store hangs {hang:g} s: {len(seen):,} answered, 0 failed; p99 "
        f"{before:.2f} ms before, {during:.2f} during (time-out {TIMEOUT_MS}), {after:.2f} after; reads {reads}; "
        f"worst {max(took for _, took, _ in seen) * 1000:.1f} ms; breaker closed {closed - continued:.2f} s after"
    )
    assert len(origins) == len(seen)
    kinds = {request_id: set(each) for request_id, each in origins.items()}
    stored, fallen = {int(Origin.STORE)}, {int(Origin.FALLBACK)}
    assert all(each in (stored, fallen) for each in kinds.values())  # all or nothing, and which is recorded
    again = [kinds[i] == stored for due, _, i in seen if due > closed + 0.5]
    print(f"{np.mean(again):.2%} of {len(again):,} from the store again")
    assert np.mean(again) > 0.9  # on a busy machine one may wait in vain all the same
    assert sum(each == fallen for each in kinds.values()) > rate * hang * 0.9
    assert reads["open"] > 0.8 * rate * hang  # nearly nobody waited


def origins_of(system: System, wanted: set[str]) -> dict[str, list[int]]:
    """Request id -> origins in the lake, once all are there."""
    found: dict[str, list[int]] = {}

    def look() -> bool:
        with closing(connect(system.data / "lake", tables=("events",))) as connection:
            rows = connection.execute("SELECT request_id, origins FROM events WHERE request_id LIKE 'keyed-%'")
            found.update({key: value for key, value in rows.fetchall() if key in wanted})
        return found.keys() == wanted

    wait_for(look, "not every answered request is archived", 60)
    return found
