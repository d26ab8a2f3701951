"""Readers of the lake while it is written, merged and shortened and its writer is killed: no error, no wrong row."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shadow_mlops.domain.events import EVENTS, OUTCOMES, OutcomeSchema, Span, Status, results_stream
from shadow_mlops.eventlog import OutcomeBatch
from shadow_mlops.eventlog.records import NO_TIME
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import settings_to_environment
from shadowing import events, results

pytestmark = pytest.mark.chaos

READERS = 2
# The monitor with everything that it does now and then done all the time.
_MONITOR = """
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.monitor import archiving
from shadow_mlops.processes.monitor import run
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
archiving._EVERY_SECONDS = 0.1
Archiver.__init__.__kwdefaults__.update(tidy_seconds=0.3)
run(settings_from_environment(), parent=parent_from_environment())
"""
# A reader knows the manifest's JSON and DuckDB, no product code.
_READER = """
import json, os, sys, time
from pathlib import Path
import duckdb

os.nice(15)  # below the monitor, which readers without a pause would starve
lake, stop = Path(sys.argv[1]), Path(sys.argv[2])
told = {"reads": 0, "snapshots": 0, "errors": [], "wrong": []}
last = 0
while not stop.exists() or not told["reads"]:
    try:
        manifest = json.loads((lake / "manifest.json").read_bytes())
        told["snapshots"] += manifest["number"] != last
        if manifest["number"] < last:
            told["wrong"].append("the number of the snapshot went back")
        last = manifest["number"]
        connection = duckdb.connect(config={"threads": 1})
        connection.execute("SET enable_progress_bar = false")  # it would go to the output, as of any python -c
        for table, files in manifest["files"].items():
            paths = [str(lake / file["path"]) for file in files]
            connection.execute(
                f"CREATE VIEW {table} AS SELECT *, list_position({paths!r}, filename) AS file FROM "
                f"read_parquet({paths!r}, union_by_name = true, filename = true, file_row_number = true)"
            )
            found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            if found != sum(file["rows"] for file in files):
                told["wrong"].append(f"{table}: {found} rows")
        checks = {
            "gap or repetition in the events of a segment":
                "SELECT count(*) FROM (SELECT segment FROM events GROUP BY segment "
                "HAVING count(*) <> max(row) - min(row) + 1 OR count(*) <> count(DISTINCT row))",
            "order of the events of a segment":
                "SELECT count(*) FROM (SELECT row <= lag(row) OVER (PARTITION BY segment, time::DATE "
                "ORDER BY file, file_row_number) AS back FROM events) WHERE back",
            "result twice":
                "SELECT count(*) - count(DISTINCT (segment, row, version)) FROM results",
            "outcome twice":
                "SELECT count(*) - count(DISTINCT (segment, row)) FROM outcomes",
            "pair twice":
                "SELECT count(*) - count(DISTINCT (segment, row, version)) FROM pairs",
            "champion's side of another event":
                "SELECT count(*) FROM results r JOIN events e USING (segment, row) "
                "WHERE r.champion_score IS DISTINCT FROM e.score OR r.time <> e.time",
        }
        for name, query in checks.items():
            try:
                found = connection.execute(query).fetchone()[0]
            except duckdb.CatalogException:
                continue  # a table that has no file yet
            if found:
                told["wrong"].append(f"{name}: {found} in snapshot {last}")
        connection.close()
        told["reads"] += 1
    except Exception as error:
        told["errors"].append(repr(error))
print(json.dumps(told))
"""


class Host:
    """A data directory with a gateway and a challenger of the test, a monitor, and readers."""

    def __init__(self, folder: Path) -> None:
        self.data, self.lake = folder, folder / "lake"
        deployment = folder / "shadow.yaml"
        deployment.write_text("name: d\nlake: {retain_days: 1}\nlabels: {max_delay: 1h}\n")
        self.settings = Settings(data_dir=folder, deployment_file=deployment)
        self.log = SegmentLog(folder / "log", segment_bytes=300_000)
        self.written = {"events": 0, "results": 0, "outcomes": 0}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        with (output or self.data / "output").open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **settings_to_environment(self.settings)},
                stdout=file,
                stderr=file,
            )
        self.processes.append(process)
        return process

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Events, one result for each, outcomes for some."""
        stop = threading.Event()

        def write() -> None:
            dice = random.Random(1)
            gateway = self.log.appender(EVENTS, writer="gateway-0")
            challenger = self.log.appender(results_stream("c"), writer="c")
            outcomes = self.log.appender(OUTCOMES, writer="gateway-0")
            late = self.log.appender(EVENTS, writer="gateway-1")  # imported ones, to be dropped in a few seconds
            while not stop.wait(0.005):
                n = dice.choice([1, 2, 8, 30])
                batch = events([dice.random() for _ in range(n)])
                segment, row = gateway.append(batch)
                challenger.append(results([Span(segment, row, n, n)], [Status.PAIRED] * n))
                outcomes.append(
                    OutcomeBatch(
                        schema=OutcomeSchema(deployment="d"),
                        received=np.array([time.time_ns() // 1000]),
                        times=np.array([NO_TIME]),
                        labels=["1"],
                        request_ids=[batch.request_ids[0]],
                    )
                )
                late.append(events([0.5] * 3, age=86_400 - 8))
                for name, count in (("events", n + 3), ("results", n), ("outcomes", 1)):
                    self.written[name] += count
            for appender in (gateway, challenger, outcomes, late):
                appender.close()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def output(self) -> str:
        return (self.data / "output").read_text(errors="replace")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for process in host.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(happened: Callable[[], bool], what: str, host: Host, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what}\n{host.output()[-5000:]}"
        time.sleep(0.1)


def test_readers_see_whole_snapshots_whatever_happens_to_the_monitor(
    host: Host, request: pytest.FixtureRequest
) -> None:
    seconds = request.config.getoption("duration")
    dice = random.Random(2)
    stop = host.data / "stop"
    kills = 0
    told = [host.data / f"reader-{i}" for i in range(READERS)]
    with host.traffic():
        monitor = host.start("-c", _MONITOR)
        wait_for(lambda: read_manifest(host.lake).rows("pairs") > 0, "no pairs", host)
        readers = [host.start("-c", _READER, str(host.lake), str(stop), output=path) for path in told]
        end = time.monotonic() + seconds
        while time.monotonic() < end or kills <= seconds / 30:  # on a busy machine it takes longer
            before = read_manifest(host.lake).number
            wait_for(lambda before=before: read_manifest(host.lake).number > before, "no snapshot", host)
            time.sleep(dice.random())
            monitor.kill()
            monitor.wait()
            kills += 1
            monitor = host.start("-c", _MONITOR)
    counts = read_manifest(host.lake).counts

    def archived() -> bool:
        nonlocal counts
        counts = read_manifest(host.lake).counts
        return all(counts.get(table, 0) >= rows for table, rows in host.written.items())

    wait_for(archived, f"{host.written} are not archived", host)
    # The last imported events expire eight seconds after they were written.
    wait_for(lambda: read_manifest(host.lake).rows("events") == host.written["results"], "rows are not dropped", host)
    stop.touch()
    assert [reader.wait(60) for reader in readers] == [0] * READERS
    reports = [json.loads(path.read_text()) for path in told]
    assert {table: counts[table] for table in host.written} == host.written
    assert not [name for name in counts if name.startswith(("lost", "orphaned", "repeated_"))]
    assert sum(counts.get(name, 0) for name in ("joined", "repeated", "unmatched")) == host.written["outcomes"]
    for report in reports:
        assert report["errors"] == []
        assert report["wrong"] == []
        assert report["snapshots"] > 1
    assert read_manifest(host.lake).dropped
    sys.stdout.write(f"{host.written}, {kills} kills, {[report['reads'] for report in reports]} reads\n")
