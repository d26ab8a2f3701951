"""What one append and one decoded row cost, next to the limits of the machine: a bare write, a bare look at memory.

python benchmarks/eventlog.py [--rounds N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from shadow_mlops.domain.events import EVENTS, EventSchema
from shadow_mlops.eventlog.frames import encode_batch
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.segments import SegmentLog

SCHEMA = EventSchema(
    deployment="churn",
    task="binary",
    model="churn",
    version="2.1.0",
    registry_version="1",
    numbers=tuple(f"number_{i}" for i in range(23)),
    strings=("gender", "customer_segment"),
    outputs=("0", "1"),
)


def batch(rows: int) -> EventBatch:
    """A frame of the bundled example: 23 numbers, 2 strings."""
    rng = np.random.default_rng(rows)
    return EventBatch(
        schema=SCHEMA,
        times=np.full(rows, 1_800_000_000_000_000),
        latencies=np.full(rows, 900, dtype=np.uint32),
        request_ids=[f"{rng.integers(2**62):032x}" for _ in range(rows)],
        entities=[f"CUST-{rng.integers(10**6):06d}" for _ in range(rows)],
        numbers=rng.normal(size=(rows, 23)),
        strings=np.array([["male", "premium"], ["female", "basic"]], dtype=object)[rng.integers(2, size=rows)],
        scores=rng.random((rows, 2)),
    )


def timed(call: Callable[[], object], count: int) -> dict[str, float]:
    """Microseconds of one call: p50 and p99.9."""
    clock = time.perf_counter_ns
    took = np.empty(count)
    for i in range(count):
        start = clock()
        call()
        took[i] = clock() - start
    return {"p50_us": float(np.median(took)) / 1e3, "p999_us": float(np.quantile(took, 0.999)) / 1e3}


def append_cost(folder: Path, rows: int, count: int) -> dict[str, dict[str, float]]:
    """An append, and one ``os.write`` of as many bytes."""
    appender = SegmentLog(folder, segment_bytes=2**40).appender(EVENTS, writer="bench")
    frame = batch(rows)
    ours = timed(lambda: appender.append(frame), count)
    appender.close()
    data = bytes(len(encode_batch(frame).body) + 56)
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    bare = timed(lambda: os.write(fd, data), count)
    os.close(fd)
    return {"append": ours, "bare_write": bare}


def decode_rate(folder: Path, rows: int, total: int) -> dict[str, float]:
    """Rows a second from files to batches, from an idle poll's cost, and from a bare sum over the same bytes."""
    log = SegmentLog(folder, segment_bytes=2**40)
    appender = log.appender(EVENTS, writer="bench")
    frame = batch(rows)
    for _ in range(total // rows):
        appender.append(frame)
    tail = log.tail(EVENTS)
    start = time.perf_counter()
    read = 0
    while items := tail.poll(4096):
        read += sum(item.count for item in items)
    took = time.perf_counter() - start
    idle = timed(lambda: tail.poll(4096), 1000)["p50_us"]
    appender.close()
    (path,) = folder.glob("events/*.seg")
    data = path.read_bytes()
    start = time.perf_counter()
    np.frombuffer(data, np.uint8, len(data) // 8 * 8).view(np.uint64).sum()
    limit = time.perf_counter() - start
    return {
        "rows_per_second": read / took,
        "memory_limit_rows_per_second": read / limit,
        "bytes_per_row": len(data) / read,
        "idle_poll_us": idle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=5000, help="appends per round and size")
    parser.add_argument("--total", type=int, default=50_000, help="rows decoded per round and size")
    parser.add_argument("--folder", type=Path, default=None, help="where files are written; default: a temporary one")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):  # rounds interleave, so that a noisy minute hits everything alike
        for rows in (1, 32, 256):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                for kind, cost in append_cost(Path(folder), rows, options.count).items():
                    for name, value in cost.items():
                        found.setdefault(f"{kind}_{rows}_rows_{name}", []).append(value)
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                for name, value in decode_rate(Path(folder), rows, options.total).items():
                    found.setdefault(f"decode_{rows}_rows_{name}", []).append(value)
    print(json.dumps({name: round(median(values), 2) for name, values in found.items()}, indent=2))


if __name__ == "__main__":
    main()
