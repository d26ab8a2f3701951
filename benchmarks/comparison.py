"""``shadow compare`` over millions of pairs, beside the bare sums that no comparison can beat.

    python benchmarks/comparison.py [--pairs 10000000] [--rounds 5] [--write]

Writes events, results and pairs into a lake of its own (some 170 bytes a pair, in 24 days), then, in turn: ``compare``
over everything, a sum by DuckDB over the columns that it reads (the limit), ``compare`` with exact areas, and over one
week. Each run is a process of its own, so that its peak of memory is its own; seconds are those of the call alone, and
of the whole process with its start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import report

sys.path.insert(0, str(report.ROOT))
from tests.lakerows import START_US, bulk, schema

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.manifest import Manifest, schema_hash

PIECE = 500_000
DAYS = 24
LIMIT_SECONDS = 3.0
ROWS_OF_SEGMENT = 150_000
_SUMS = """
import json, resource, sys, time
from pathlib import Path
from shadow_mlops.lake.queries import connect
begun = time.perf_counter()
connection = connect(Path(sys.argv[1]), memory_limit="1GB", threads=int(sys.argv[2]))
connection.execute('''SELECT sum(score), sum(champion_score), sum(target), sum(p_outcome), sum(champion_p_outcome),
    max(version), max(champion_version), max(status), max(schema) FROM pairs''').fetchall()
connection.execute('''SELECT sum(score), sum(champion_score), sum(latency_us), sum(champion_latency_us),
    max(epoch_us(time)), max(version), max(champion_version), max(status), max(schema),
    max(challenger), max(task), max(replayed)
    FROM results''').fetchall()
print(json.dumps({"seconds": time.perf_counter() - begun,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
_COMPARE = """
import json, resource, sys, time
from datetime import datetime
from pathlib import Path
import msgspec
from shadow_mlops.comparison import compare
since = datetime.fromisoformat(sys.argv[4]) if sys.argv[4] else None
begun = time.perf_counter()
found = compare(Path(sys.argv[1]), accounting=Path(sys.argv[1]) / "accounting.json", threads=int(sys.argv[2]),
    exact=sys.argv[3] == "exact", since=since)
seconds = time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "comparison": msgspec.to_builtins(found)}))
"""


def fill(lake: Path, pairs: int, seed: int) -> None:
    """A lake of so many labelled pairs."""
    of = schema("binary", ("0", "1"))
    rng = np.random.default_rng(seed)
    manifest = Manifest()
    for start in range(0, pairs, PIECE):
        change = Change(lake, manifest)
        change.learn(schema_hash(of), of)
        rows = min(PIECE, pairs - start)
        columns = piece(rng, np.arange(start, start + rows), pairs, of)
        events = {name: values for name, values in columns.items() if name not in _SHADOW}
        champion = {name.removeprefix("champion_"): values for name, values in columns.items() if name in _CHAMPION}
        change.add("events", bulk("events", {**events, **champion}, rows, of))
        change.add("results", bulk("results", columns, rows, of))
        change.add("pairs", bulk("pairs", columns, rows, of))
        manifest = change.commit()
    counts = dict.fromkeys(("timed_out", "shed", "errored", "pending"), 0)
    account = {"version": "v2", "sampled": pairs, "paired": pairs, **counts}
    (lake / "accounting.json").write_text(json.dumps({"challengers": {"challenger": account}}))


_CHAMPION = ("champion_score", "champion_label", "champion_scores", "champion_latency_us")
_SHADOW = (*_CHAMPION, "score", "label", "scores", "latency_us", "p_outcome", "champion_p_outcome", "target", "outcome")


def piece(rng: np.random.Generator, numbers: np.ndarray, pairs: int, of: EventSchema) -> dict[str, object]:
    """Columns of consecutive events, shadowed and labelled."""
    rows = len(numbers)
    truth = rng.random(rows) < 0.27
    columns: dict[str, object] = {
        "segment": numbers // ROWS_OF_SEGMENT + 2**40,
        "row": numbers % ROWS_OF_SEGMENT,
        "monotonic_ns": numbers * 1000,
        "time": pa.array(START_US + numbers * (DAYS * 86_400_000_000 // pairs), pa.timestamp("us", tz="UTC")),
        "request_id": pa.array([f"{number:032x}" for number in numbers.tolist()]),
        "entity": pa.array([f"CUST-{number % 1_000_003:07d}" for number in numbers.tolist()]),
        "target": truth.astype(np.float64),
        "outcome": _words(truth),
        "outputs": pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1, dtype=np.int32) * 2), _words(np.arange(2 * rows) % 2 == 1)
        ),
        "result_row": numbers % ROWS_OF_SEGMENT,
    }
    for side, slope, p50 in (("", 2.2, 40), ("champion_", 1.7, 700)):
        score = 1 / (1 + np.exp(-rng.normal(-1.2 + slope * truth, 1.3)))
        columns |= {
            f"{side}score": score,
            f"{side}label": _words(score >= of.threshold),
            f"{side}scores": pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * 2),
                pa.array(np.column_stack([1 - score, score]).reshape(-1)),
            ),
            f"{side}p_outcome": np.where(truth, score, 1 - score),
            f"{side}latency_us": np.minimum(rng.lognormal(np.log(p50), 0.7, rows), 2e9).astype(np.int32),
        }
    return columns


def _words(positive: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(positive.astype(np.int8), ["0", "1"]).cast(pa.string())


def run(code: str, *arguments: str) -> dict[str, object]:
    """One measured process; ``whole`` is its life."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout), "whole": time.perf_counter() - begun}


def measure(lake: Path, rounds: int, threads: int) -> dict[str, list[dict[str, object]]]:
    """Rounds in turn, so that a noisy minute hits everything alike."""
    week = np.datetime64(START_US + (DAYS - 7) * 86_400_000_000, "us").item().isoformat() + "+00:00"
    found: dict[str, list[dict[str, object]]] = {}
    for _ in range(rounds):
        for name, code, rest in (
            ("compare", _COMPARE, ("bins", "")),
            ("limit", _SUMS, ("", "")),
            ("compare --exact", _COMPARE, ("exact", "")),
            ("compare --since, 7 days", _COMPARE, ("bins", week)),
        ):
            found.setdefault(name, []).append(run(code, str(lake), str(threads), *rest))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lake", type=Path, help="a lake that stays for later runs; default: a temporary one")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = options.lake or Path(folder) / "lake"
        if not lake.exists():
            begun = time.perf_counter()
            fill(lake, options.pairs, options.seed)
            print(f"written in {time.perf_counter() - begun:.0f} s")
        size = sum(path.stat().st_size for path in lake.rglob("*.parquet"))
        print(f"{options.pairs:,} pairs, {size / 1e9:.2f} GB on disk, {options.threads} threads of {os.cpu_count()}")
        found = measure(lake, options.rounds, options.threads)
    rows, figures = [], {}
    for name, runs in found.items():
        columns = {key: [float(run[key]) for run in runs] for key in ("seconds", "whole", "peak_mb")}
        spreads = [report.spread(columns[key]) for key in ("seconds", "whole")]
        rows.append([name, *spreads, f"{max(columns['peak_mb']):,.0f}"])
        figures[name] = columns
    report.table("seconds, median (least-most)", ("", "the call", "the process", "peak MB"), rows)
    binned, exact = (found[name][0]["comparison"] for name in ("compare", "compare --exact"))
    for name, side in (("champion", lambda c: c["champion"]), ("challenger", lambda c: c["challengers"][0])):
        area, bound = side(binned)["auc"], side(binned)["auc_error"]
        apart = abs(area - side(exact)["auc"])
        print(f"AUC of the {name}: {area:.9f}, {apart:.1e} from the exact one; bound {bound:.1e}")
        figures[f"auc {name}"] = {"difference": apart, "bound": bound}
    median = float(np.median(figures["compare"]["seconds"]))
    print(f"{'within' if median <= LIMIT_SECONDS else 'ABOVE'} the {LIMIT_SECONDS:g} s: {median:.2f} s")
    if options.write:
        settings = {"pairs": options.pairs, "threads": options.threads, "bytes": size, "figures": figures}
        print(f"wrote {report.write('comparison', options.seed, settings)}")


if __name__ == "__main__":
    main()
