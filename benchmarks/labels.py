"""How fast labels find their predictions: a file of them through the log and the archive into pairs.

python benchmarks/labels.py [--labels N] [--form csv|parquet] [--folder DIR] [--write]

The events and one challenger's results are put into a log and archived before the clock starts. The labels are
shuffled, 5 % of them are given twice, and they come up to 90 days after their predictions. One process does all of it,
one step after the other; a monitor would archive while the import still runs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet
from rich.progress import track

from report import table, write
from shadow_mlops.cli.outcomefiles import OutcomeFile
from shadow_mlops.cli.outcomes import append_outcomes
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.events import EVENTS, OUTCOMES, EventSchema, ResultSchema, Span, Status, results_stream
from shadow_mlops.eventlog.records import EventBatch, ResultBatch
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.lake.queries import connect

SEED = 7
FRAME_ROWS = 10_000
DAYS = 89.5  # so that no label is later than 90 days when the benchmark itself takes some time
SCHEMA = EventSchema(
    deployment="churn",
    task="binary",
    model="churn",
    version="2.1.0",
    registry_version="1",
    numbers=tuple(f"number_{i}" for i in range(4)),
    strings=("gender",),
    outputs=("0", "1"),
    positive="1",
)
RESULTS = ResultSchema(
    deployment="churn",
    challenger="challenger",
    model="churn",
    version="3.0.0-beta",
    registry_version="2",
    outputs=("0", "1"),
)
_CHECK = """
SELECT (SELECT count(*) FROM pairs),
    (SELECT count(*) FROM (SELECT DISTINCT segment, row, version FROM pairs)),
    (SELECT bit_xor(hash(p)) FROM pairs p),
    (SELECT count(*) FROM labels WHERE verdict = 'joined'),
    (SELECT count(*) FROM (SELECT DISTINCT segment, row FROM labels WHERE verdict = 'joined')),
    (SELECT count(*) FROM labels WHERE verdict = 'repeated')
"""


def request_ids(count: int) -> list[str]:
    """As the gateway makes them: 32 hexadecimal digits."""
    high, low = np.random.default_rng(SEED).integers(2**63, size=(2, count), dtype=np.uint64)
    return [f"{a:016x}{b:016x}" for a, b in zip(high.tolist(), low.tolist(), strict=True)]


def fill(log: SegmentLog, ids: list[str]) -> None:
    """Put events, and a result for each, into the log."""
    rng = np.random.default_rng(SEED + 1)
    now = time.time_ns() // 1000
    times = np.sort(now - (rng.random(len(ids)) * DAYS * 86400e6).astype(np.int64))
    events = log.appender(EVENTS, writer="gateway-0")
    results = log.appender(results_stream("challenger"), writer="challenger")
    for start in track(range(0, len(ids), FRAME_ROWS), "filling the log", transient=True):
        n = len(ids[start : start + FRAME_ROWS])
        scores = rng.random((n, 2))
        segment, first = events.append(
            EventBatch(
                schema=SCHEMA,
                times=times[start : start + n],
                latencies=np.full(n, 900, dtype=np.uint32),
                request_ids=ids[start : start + n],
                entities=[f"CUST-{i % 200_000:06d}" for i in range(start, start + n)],
                numbers=rng.normal(size=(n, len(SCHEMA.numbers))),
                strings=np.array([["male"], ["female"]], dtype=object)[rng.integers(2, size=n)],
                scores=scores,
            )
        )
        results.append(
            ResultBatch(
                schema=RESULTS,
                spans=[Span(segment, first, n, n)],
                statuses=np.full(n, Status.PAIRED, dtype=np.uint8),
                scores=scores[:, ::-1].copy(),
                latencies=np.full(n, 40, dtype=np.uint32),
            )
        )
    events.close()
    results.close()


def write_labels(path: Path, ids: list[str]) -> int:
    """The file: every id once and a twentieth of them again, shuffled; the number of its rows."""
    rng = np.random.default_rng(SEED + 2)
    labels = rng.integers(2, size=len(ids))
    order = np.concatenate([np.arange(len(ids)), rng.choice(len(ids), len(ids) // 20, replace=False)])
    rng.shuffle(order)
    data = pa.table({"request_id": pa.array(ids).take(pa.array(order)), "label": labels[order]})
    (parquet.write_table if path.suffix == ".parquet" else csv.write_csv)(data, path)
    return len(order)


def imported(path: Path, log: SegmentLog, archiver: Archiver) -> dict[str, float]:
    """Seconds of each step of one import."""
    began = time.perf_counter()
    file = OutcomeFile(path)
    rows = sum(len(each.labels) for each in file.rows())
    checked = time.perf_counter()
    appender = log.appender(OUTCOMES, writer="import")
    append_outcomes(file, appender, SCHEMA.deployment)
    appender.close()
    logged = time.perf_counter()
    rounds = archive(archiver)
    ended = time.perf_counter()
    return {
        "rows": rows,
        "check_s": checked - began,
        "append_s": logged - checked,
        "archive_and_match_s": ended - logged,
        "rounds": rounds,
        "total_s": ended - began,
        "labels_per_second": rows / (ended - began),
    }


def archive(archiver: Archiver) -> int:
    """Rounds until nothing is new."""
    rounds = 0
    while archiver.round():
        rounds += 1
    return rounds


def state(lake: Path) -> tuple[int, ...]:
    """Pairs, different ones, a hash over them; joined labels, different events of them; repeated ones."""
    connection = connect(lake)
    found = connection.execute(_CHECK).fetchone()
    connection.close()
    assert found is not None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000, help="different labels; 5 %% are given twice")
    parser.add_argument("--form", choices=("csv", "parquet"), default="csv", help="of the file")
    parser.add_argument("--folder", type=Path, default=None, help="where files are written; default: a temporary one")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/labels.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        log = SegmentLog(root / "log")
        ids = request_ids(options.labels)
        fill(log, ids)
        archiver = Archiver(log, root / "lake", labels=Labels(), retain_days=400)
        began = time.perf_counter()
        archive(archiver)
        archived = time.perf_counter() - began
        path = root / f"labels.{options.form}"
        write_labels(path, ids)
        first = imported(path, log, archiver)
        after = state(root / "lake")
        second = imported(path, log, archiver)
        again = state(root / "lake")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    joined_once = after[0] == after[1] == after[3] == after[4] == options.labels
    unchanged = again[:5] == after[:5]
    steps = ("check_s", "append_s", "archive_and_match_s", "total_s")
    table(
        f"{options.labels:,} labels, shuffled, 5 % twice, up to 90 days late ({options.form})",
        ("", "first import", "again"),
        [
            *((name, f"{first[name]:.2f}", f"{second[name]:.2f}") for name in steps),
            ("rounds", f"{first['rounds']}", f"{second['rounds']}"),
            ("labels/s, end to end", f"{first['labels_per_second']:,.0f}", f"{second['labels_per_second']:,.0f}"),
            ("joined", f"{after[3]:,}", f"{again[3]:,}"),
            ("repeated", f"{after[5]:,}", f"{again[5]:,}"),
            ("pairs", f"{after[0]:,}", f"{again[0]:,}"),
        ],
    )
    print(f"each joined once: {joined_once}; the second import changed no pair and no label: {unchanged}")
    print(f"events and results archived before: {archived:.1f} s; peak memory {memory:,.0f} MB")
    if options.write:
        figures = {"form": options.form, "first": first, "second": second, "peak_memory_mb": round(memory)}
        write("labels", SEED, {**figures, "joined_once": joined_once, "second_import_unchanged": unchanged})
    if not (joined_once and unchanged):
        raise SystemExit("the lake is not what it should be")


if __name__ == "__main__":
    main()
