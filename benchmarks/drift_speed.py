"""How fast drift of 25 numeric columns is found: in memory, in Parquet files, live; beside SciPy, Evidently and DuckDB.

    python benchmarks/drift_speed.py [--rows N] [--file-rows N] [--rounds N] [--folder DIR] [--without-evidently]
                                     [--write]

Methods everywhere: PSI and Jensen-Shannon over the same ten quantile bins of the reference, and KS; the results of ours
and of SciPy are compared with each other in each round. Evidently cannot be given bins and uses its own. In memory all
have the same float64 arrays, and ours has two threads. Each round takes every contender once, so that a noisy minute
hits all alike. Files are read by child processes, whose peak memory is their own; each is read once before it counts.

A live event is an answered request; a busy gateway writes those of one turn of its loop as one frame. Of a frame of one
nearly all is the cost of reading a frame of the log.

What is counted in files is cells of the bins (250), so KS is a lower bound there, off by at most what the table says;
PSI and Jensen-Shannon are exact.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import report

sys.path.insert(0, str(report.ROOT / "tests"))
from venvs import venv_with

SEED = 1
COLUMNS = 25
BINS = 10
EVIDENTLY = ["evidently==0.7.23", "pandas<3", "plotly<6"]
ROW_GROUP = 1 << 20  # as PyArrow writes files by default
SHAPES = ("normal", "lognormal", "exponential", "standard_t", "gamma")
_TENTH = ", a tenth of the rows"
LIVE_EVENTS, LIVE_BUCKETS = 512_000, 10


def columns(rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float64 (COLUMNS, rows): five shapes, every fifth column shifted a little."""
    rng = np.random.default_rng([SEED, seed])
    made = np.empty((COLUMNS, rows))
    for at in range(COLUMNS):
        shape = SHAPES[at % len(SHAPES)]
        given = {"standard_t": (3,), "gamma": (2,)}.get(shape, ())
        made[at] = getattr(rng, shape)(*given, size=rows)
        if at % 5 == 4:
            made[at] += shift
    return made


# in memory


def ours(reference: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    from shadow_mlops.drift.detecting import detect

    found: dict[str, dict[str, float]] = {name: {} for name in reference}
    for score in detect(reference, current, bins=BINS, exact_ks=True).scores:
        found[score.feature][score.method] = score.score
    return found


def by_scipy(reference: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """As it is written with SciPy and NumPy: column by column, one call for each thing."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import ks_2samp

    found = {}
    for name, old in reference.items():
        new = current[name]
        edges = np.quantile(old, np.arange(1, BINS) / BINS, method="inverted_cdf")
        shares = []
        for values in (old, new):
            counts = np.bincount(np.searchsorted(edges, values), minlength=BINS)
            shares.append((counts + 0.5) / (len(values) + BINS / 2))
        found[name] = {
            "psi": float(np.sum((shares[0] - shares[1]) * np.log(shares[0] / shares[1]))),
            "js": float(jensenshannon(*shares, base=2)),
            "ks": float(ks_2samp(old, new).statistic),
        }
    return found


@contextmanager
def evidently(samples: tuple[np.ndarray, np.ndarray], folder: Path) -> Iterator[Any]:
    """Seconds of the reports that are named, on call."""
    for name, sample in zip(("reference", "current"), samples, strict=True):
        np.save(folder / f"{name}.npy", sample)
    python = venv_with("evidently", EVIDENTLY) / "python"
    script = report.ROOT / "benchmarks" / "evidently_drift.py"
    with subprocess.Popen(
        [python, script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"

        def once(kind: str) -> dict[str, float]:
            child.stdin.write(f"{kind}\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        yield once
        child.stdin.close()


def in_memory(rows: int, rounds: int, folder: Path, *, with_evidently: bool) -> dict[str, list[dict[str, float]]]:
    samples = columns(rows, 1), columns(rows, 2, shift=0.05)
    reference, current = ({f"f{at}": column for at, column in enumerate(sample)} for sample in samples)
    took: dict[str, list[dict[str, float]]] = {"ours, exact": [], "SciPy and NumPy": []}
    for side in (reference, current):
        ours({"f0": side["f0"]}, {"f0": side["f0"]})  # imports
    with evidently(samples, folder) if with_evidently else _nothing() as rival:
        for _ in range(rounds):
            results = []
            for name, contender in (("ours, exact", ours), ("SciPy and NumPy", by_scipy)):
                start, cpu = time.perf_counter(), time.process_time()
                results.append(contender(reference, current))
                took[name].append({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu})
            worst = max(abs(results[0][f][m] - results[1][f][m]) for f in reference for m in ("psi", "ks", "js"))
            assert worst < 1e-12, worst
            if rival is not None:
                for kind in ("presets", "single metrics"):
                    took.setdefault(f"Evidently, {kind}", []).append(rival(kind))
    return took


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


# files, each job in a child process


def write_file(path: Path, rows: int, seed: int, shift: float = 0.0) -> None:
    writer = None
    for start in range(0, rows, ROW_GROUP):
        made = columns(min(ROW_GROUP, rows - start), seed + start, shift)
        table = pa.table({f"f{at}": column for at, column in enumerate(made)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def child(job: str, reference: str, current: str) -> dict[str, Any]:
    """Runs in a process of its own: seconds, largest error of KS, peak memory."""
    error = 0.0
    if job == "sum":
        import duckdb

        connection = duckdb.connect(config={"threads": len(os.sched_getaffinity(0))})
        connection.execute("SET enable_progress_bar = false")
        start, cpu = time.perf_counter(), time.process_time()
        summed = ", ".join(f"sum(f{at})" for at in range(COLUMNS))
        connection.execute(f"SELECT {summed} FROM read_parquet('{current}')").fetchall()
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
    else:
        from shadow_mlops.drift.detecting import detect, profile_report
        from shadow_mlops.drift.files import file_source
        from shadow_mlops.drift.reference import baseline_of
        from shadow_mlops.statistics.profiles import Profile

        if job == "frozen":
            frozen = baseline_of(file_source(reference), bins=BINS)
            start, cpu = time.perf_counter(), time.process_time()
            source = file_source(current)
            counted = source.tally(frozen.bins)
            names = tuple(frozen.bins)
            profile = Profile(names, tuple(counted[name].counts for name in names), source.schema().rows)
            found = profile_report(frozen.bins, frozen.profile, profile)
        else:
            start, cpu = time.perf_counter(), time.process_time()
            found = detect(file_source(reference), file_source(current), bins=BINS, exact_ks=False)
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        error = max(score.error_bound or 0.0 for score in found.scores)
        assert len(found.scores) == 3 * COLUMNS
    return {"seconds": took, "cpu": cpu, "peak_mib": peak_mib(), "ks_error": error}


def peak_mib() -> float:
    """Of this process; Linux counts to ru_maxrss what the parent had in memory."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def in_child(job: str, reference: Path, current: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", job, str(reference), str(current)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    return json.loads(done.stdout)


def in_files(rows: int, rounds: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    sizes = {"": rows, _TENTH: rows // 10}
    for label, size in sizes.items():
        for seed, name in enumerate(("reference", "current"), 3):
            write_file(folder / f"{name}{label}.parquet", size, seed, 0.05 * (seed - 3))
    jobs = (
        ("DuckDB's sum of every column", "sum"),
        ("ours, against a frozen reference", "frozen"),
        ("ours, two files of that size (sum of one)", "both"),
    )
    took: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds + 1):
        for label in sizes:
            paths = [folder / f"{name}{label}.parquet" for name in ("reference", "current")]
            for name, job in jobs:
                reference = folder / f"reference{_TENTH}.parquet" if job == "frozen" else paths[0]
                found = in_child(job, reference, paths[1])
                if turn:
                    took.setdefault(name + label, []).append(found)
    return took


# live


def live(folder: Path, events: int, frame: int) -> dict[str, float]:
    """Microseconds that the fold of the monitor takes for an event: from the log to counts, detector and a report."""
    import eventlog
    from shadow_mlops.domain.events import EVENTS
    from shadow_mlops.drift.detection import Watching
    from shadow_mlops.drift.lanes import Span
    from shadow_mlops.drift.live import LiveFold
    from shadow_mlops.drift.livereporting import live_report
    from shadow_mlops.drift.livestate import LiveState
    from shadow_mlops.drift.references import References
    from shadow_mlops.drift.rules import Rules
    from shadow_mlops.eventlog.segments import SegmentLog
    from shadow_mlops.models.reference import SCORE, ReferenceProfile, write_reference_profile
    from shadow_mlops.statistics.bins import category_bins, quantile_bins
    from shadow_mlops.statistics.profiles import profile_of

    schema, kept = eventlog.SCHEMA, eventlog.batch(10_000)
    sample = dict(zip(schema.numbers, kept.numbers.T, strict=True)) | {SCORE: kept.scores[:, 1]}
    texts = dict(zip(schema.strings, kept.strings.T, strict=True))
    bins = {name: quantile_bins(values, BINS) for name, values in sample.items()}
    bins |= {name: category_bins(values) for name, values in texts.items()}
    home = folder / "models" / schema.model / schema.registry_version
    home.mkdir(parents=True)
    profile = profile_of(bins, sample | texts)
    write_reference_profile(home, ReferenceProfile(schema.model, schema.version, "benchmark", bins, profile))
    log = SegmentLog(folder / "log")
    appender = log.appender(EVENTS, writer="gateway-0")
    written = eventlog.batch(frame)
    start = time.monotonic_ns()
    for _ in range(events // frame):
        appender.append(written)
    span_us = (time.monotonic_ns() - start) // 1000
    appender.close()
    watching = Watching(
        deployment="churn",
        rules=Rules(),
        span=Span(24, 500, None),
        bucket_us=max(span_us // LIVE_BUCKETS, 1),
        threshold=43_200,
    )
    fold = LiveFold(
        log,
        watching,
        References(folder),
        LiveState(deployment="churn"),
        task="binary",
        birth=lambda _: None,
        now=lambda: (1, 0),
    )
    start, read = time.process_time(), 0
    while rows := fold.read():
        read += rows
    folded = time.process_time() - start
    start = time.process_time()
    found = live_report(fold, created="2026-01-01T00:00:00Z")
    reported = time.process_time() - start
    fold.close()
    assert read == events // frame * frame
    assert len({score.feature for score in found.scores}) == len(bins), found.reason
    return {"us_per_event": folded / read * 1e6, "report_ms": reported * 1e3, "events_a_bucket": read / LIVE_BUCKETS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of each sample in memory (verify: 1000000)")
    parser.add_argument("--file-rows", type=int, default=1_000_000, help="of each file (verify: 10000000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where files are written; default: a temporary one")
    parser.add_argument("--without-evidently", action="store_true")
    parser.add_argument("--write", action="store_true", help="full size; write benchmarks/results/drift_speed.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    if options.write:
        options.rows, options.file_rows = 1_000_000, 10_000_000
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = in_files(options.file_rows, options.rounds, Path(folder))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        memory = in_memory(options.rows, options.rounds, Path(folder), with_evidently=not options.without_evidently)
    folds: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for frame in (1, 32, 256):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                folds.setdefault(f"frames of {frame}", []).append(live(Path(folder), LIVE_EVENTS, frame))
    show(options, memory, files, folds)
    print(f"{time.monotonic() - began:.0f} s")
    if options.write:
        figures = {"in memory": memory, "files": files, "live": folds}
        settings = {"rows": options.rows, "file_rows": options.file_rows, "columns": COLUMNS, "evidently": EVIDENTLY}
        print(f"wrote {report.write('drift_speed', SEED, {**settings, 'figures': figures})}")


def show(
    options: argparse.Namespace,
    memory: dict[str, list[dict[str, float]]],
    files: dict[str, list[dict[str, Any]]],
    folds: dict[str, list[dict[str, float]]],
) -> None:
    """One table."""
    rows: list[tuple[str, ...]] = []

    def median(found: list[dict[str, Any]], key: str = "seconds") -> float:
        return float(np.median([each[key] for each in found]))

    def row(name: str, found: list[dict[str, Any]], peak: str, words: str) -> None:
        seconds = report.spread([each["seconds"] for each in found])
        rows.append((name, seconds, f"{median(found, 'cpu'):.2f}", peak, words))

    for name, found in memory.items():
        ratio = "" if name.startswith("ours") else f"{median(found) / median(memory['ours, exact']):,.1f} times ours"
        row(f"{options.rows:,} + {options.rows:,} rows in memory: {name}", found, "", ratio)
    for name, found in files.items():
        tenth = _TENTH * name.endswith(_TENTH)
        size = options.file_rows // (10 if tenth else 1)
        bare = median(files["DuckDB's sum of every column" + tenth])
        ratio = "" if name.startswith("DuckDB") else f"{median(found) / bare:.2f} times the sum"
        error = max(each["ks_error"] for each in found)
        words = ratio + (f"; KS within {error:.4f}" if error else "")
        peak = report.spread([each["peak_mib"] for each in found], 0)
        row(f"{size:,} rows of Parquet: {name.removesuffix(tenth)}", found, peak, words)
    for name, found in folds.items():
        cost = report.spread([each["us_per_event"] for each in found])
        held = f"{median(found, 'events_a_bucket'):,.0f} events a bucket; a report {median(found, 'report_ms'):.0f} ms"
        rows.append((f"a live event of {COLUMNS} features and a score, {name}", "", f"{cost} µs", "", held))
    report.table(
        f"drift of {COLUMNS} columns on {len(os.sched_getaffinity(0))} cores, median (min-max) of {options.rounds}",
        ("", "seconds", "CPU seconds", "peak MiB", ""),
        rows,
    )


if __name__ == "__main__":
    main()
