"""`shadow replay` of a day's log into an empty results directory, on one core: events a second, and a second run.

The log has the bundled example's 25 features, written straight into segments as a gateway would, 32 rows a frame. The
command runs as a user runs it, on one core with its scorer. Whoever shares the core slows it down: events per second of
processor time count what replaying costs, events per second what it took.

python benchmarks/replay.py [--events N] [--core N] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

import report

sys.path.insert(0, str(report.ROOT / "tests"))
from shadow_mlops.domain.events import EVENTS, EventSchema, replays_stream
from shadow_mlops.eventlog import EventBatch, Frame, ResultBatch
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.example.columns import ENTITY, FEATURES, TARGET
from shadow_mlops.example.generator import generate
from system import trained_example

SEED = 11
FRAME_ROWS = 32
MODEL = "models:/churn/3.0.0-beta"
_DISTINCT = 50_000  # customers that are drawn; a day's traffic repeats them


def write_log(root: Path, count: int, day: datetime) -> None:
    """A day of traffic, evenly spread."""
    columns = generate(min(count, _DISTINCT), seed=SEED, missing=0.02).columns()
    names = [name for name in columns if name not in {ENTITY, TARGET}]
    texts = [column.name for column in FEATURES if column.kind == "string"]
    schema = EventSchema(
        deployment="churn",
        task="binary",
        model="churn",
        version="2.1.0",
        registry_version="1",
        numbers=tuple(name for name in names if name not in texts),
        strings=tuple(name for name in names if name in texts),
        outputs=("0", "1"),
        positive="1",
    )
    numbers = np.column_stack([np.array(columns[name], dtype=np.float64) for name in schema.numbers])
    strings = np.array([columns[name] for name in schema.strings], dtype=object).T
    times = int(day.timestamp() * 1e6) + np.linspace(0, 86_400e6, count, endpoint=False).astype(np.int64)
    appender = SegmentLog(root).appender(EVENTS, writer="gateway-0")
    for start in range(0, count, FRAME_ROWS):
        n = min(FRAME_ROWS, count - start)
        rows = np.arange(start, start + n) % len(numbers)
        appender.append(
            EventBatch(
                schema=schema,
                times=times[start : start + n],
                latencies=np.full(n, 900, dtype=np.uint32),
                request_ids=[f"{start + i:032x}" for i in range(n)],
                entities=[columns[ENTITY][row] for row in rows.tolist()],
                numbers=numbers[rows],
                strings=strings[rows],
                scores=np.full((n, 2), 0.5),
            )
        )
    appender.close()


def replay(data: Path, day: datetime, core: int) -> dict[str, float]:
    """Run the command; what it says, with wall and processor time of all its processes."""
    command = ["taskset", "-c", str(core), str(Path(sys.executable).with_name("shadow")), "replay", "--model", MODEL]
    command += ["--since", day.isoformat(), "--until", (day + timedelta(days=1)).isoformat(), "--format", "json"]
    environment = os.environ | {"DATA_DIR": str(data), "DEPLOYMENT_FILE": str(data / "example" / "shadow.yaml")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout), "wall_seconds": wall, "processor_seconds": processor}


def results_in(data: Path) -> int:
    """Results that the replay has left, each of another event."""
    tail = SegmentLog(data / "log").tail(replays_stream("3.0.0-beta"))
    seen: set[tuple[int, int]] = set()
    rows = 0
    while items := tail.poll(100_000):
        for item in items:
            if isinstance(item, Frame) and isinstance(item.batch, ResultBatch):
                rows += len(item.batch)
                for span in item.batch.spans:
                    seen |= {(span.segment, row) for row in range(span.first, span.first + span.count)}
    if len(seen) != rows:
        raise RuntimeError(f"{rows} results of {len(seen)} events")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/replay.json")
    options = parser.parse_args()
    day = datetime(2026, 11, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        data = trained_example(Path(folder) / "data")
        write_log(data / "log", options.events, day)
        empty = replay(data, day, options.core)
        first = results_in(data)
        again = replay(data, day, options.core)
        if first != options.events or results_in(data) != first or again["paired"]:
            raise RuntimeError(f"{first} results of {options.events} events, {again['paired']} more the second time")
    # what starting costs is in the second run too, which scores nothing
    scoring = empty["processor_seconds"] - again["processor_seconds"] + again["seconds"]
    figures: dict[str, float] = {
        "events": options.events,
        "paired": empty["paired"],
        "scoring_seconds": empty["seconds"],
        "events_per_second": round(empty["paired"] / empty["seconds"]),
        "events_per_processor_second": round(empty["paired"] / scoring),
        "command_seconds": round(empty["wall_seconds"], 2),
        "scored_when_run_again": again["paired"],
        "seconds_to_find_nothing": again["seconds"],
    }
    report.table(
        "Replay of a day on one core",
        ("what", "value"),
        [
            (name.replace("_", " "), f"{value:,g}" if value < 1000 else f"{value:,.0f}")
            for name, value in figures.items()
        ],
    )
    if options.write:
        print(report.write("replay", SEED, {"frame_rows": FRAME_ROWS, "model": MODEL, **figures}))


if __name__ == "__main__":
    main()
