"""How fast the log becomes the lake: events of the bundled example, with results and outcomes of half of them.

python benchmarks/lake.py [--events N] [--rounds N] [--write]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

import report
from eventlog import SCHEMA, batch
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.events import EVENTS, OUTCOMES, OutcomeSchema, ResultSchema, Span, results_stream
from shadow_mlops.eventlog.records import NO_TIME, EventBatch, OutcomeBatch, ResultBatch
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.lake.queries import connect

SEED = 1
EXAMPLE = msgspec.structs.replace(SCHEMA, positive="1")
RESULTS = ResultSchema(
    deployment="churn", challenger="c", model="churn", version="3.0.0", registry_version="2", outputs=("0", "1")
)
_START_US = 1_800_000_000_000_000


def fill(log: SegmentLog, events: int, frame: int, *, shadowed: bool) -> None:
    """Events in frames of a busy gateway; where they are shadowed, one result each and a label for every second."""
    gateway = log.appender(EVENTS, writer="gateway-0")
    challenger = log.appender(results_stream("c"), writer="c") if shadowed else None
    outcomes = log.appender(OUTCOMES, writer="gateway-0") if shadowed else None
    template = batch(frame)
    rng = np.random.default_rng(SEED)
    for start in range(0, events, frame):
        ids = [f"{start + i:032x}" for i in range(frame)]
        times = np.full(frame, _START_US + start * 1000)
        written = EventBatch(
            schema=EXAMPLE,
            **{name: getattr(template, name) for name in ("latencies", "entities", "strings")},
            numbers=rng.normal(size=template.numbers.shape),
            times=times,
            request_ids=ids,
            scores=template.scores,
        )
        segment, row = gateway.append(written)
        if challenger is None or outcomes is None:
            continue
        challenger.append(
            ResultBatch(
                schema=RESULTS,
                spans=[Span(segment, row, frame, frame)],
                statuses=np.zeros(frame, dtype=np.uint8),
                scores=rng.random((frame, 2)),
                latencies=np.full(frame, 90, dtype=np.uint32),
            )
        )
        labels = frame // 2
        outcomes.append(
            OutcomeBatch(
                schema=OutcomeSchema(deployment="churn"),
                received=times[:labels] + 60_000_000,
                times=np.full(labels, NO_TIME),
                labels=["1", "0"] * (labels // 2),
                request_ids=ids[:labels],
            )
        )
    for appender in (gateway, challenger, outcomes):
        if appender is not None:
            appender.close()


def archive(events: int, frame: int, *, shadowed: bool, folder: Path | None) -> dict[str, float]:
    """Rows of the log a second, and a count of the events by DuckDB."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        log = SegmentLog(Path(temporary, "log"))
        fill(log, events, frame, shadowed=shadowed)
        lake = Path(temporary, "lake")
        archiver = Archiver(log, lake, labels=Labels(), retain_days=36500)
        start, cpu = time.perf_counter(), time.process_time()
        while archiver.round():
            pass
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert archiver.manifest.counts["events"] == events
        start = time.perf_counter()
        pairs = connect(lake).execute("SELECT count(*), avg(score) FROM pairs").fetchone()[0]
        query = time.perf_counter() - start
        size = sum(file.bytes for files in archiver.manifest.files.values() for file in files)
        return {
            "events_per_second": events / took,
            "events_per_cpu_second": events / cpu,
            "pairs": pairs,
            "lake_bytes_per_event": size / events,
            "query_ms": query * 1e3,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=512_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where files are written; default: a temporary one")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/lake.json")
    options = parser.parse_args()
    cases = [("events only, frames of 32", 32, False), ("events only, frames of 256", 256, False)]
    cases += [("with results and labels, frames of 32", 32, True)]
    found: dict[str, dict[str, list[float]]] = {name: {} for name, *_ in cases}
    for _ in range(options.rounds):  # interleaved, so that a noisy minute hits everything alike
        for name, frame, shadowed in cases:
            figures = archive(options.events, frame, shadowed=shadowed, folder=options.folder)
            for key, value in figures.items():
                found[name].setdefault(key, []).append(value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if os.uname().sysname == "Linux" else 2**20)
    columns = ("events_per_second", "events_per_cpu_second", "pairs", "lake_bytes_per_event", "query_ms")
    report.table(
        f"{options.events:,} events to the lake, median (min-max) of {options.rounds}; peak memory {peak:,.0f} MiB",
        ("", *columns),
        [(name, *(report.spread(found[name][key], 0) for key in columns)) for name, *_ in cases],
    )
    if options.write:
        path = report.write("lake", SEED, {"events": options.events, "peak_mib": peak, "figures": found})
        print(path)


if __name__ == "__main__":
    main()
