"""Replay: the same results as live, each once, from the log and from the lake, whenever it is killed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import planted_challenger as planted
from modelsamples import NUMBERS, STRINGS, register_sample, registry_in, rows
from shadow_mlops.challenger.championside import ChampionSide
from shadow_mlops.challenger.consumer import Consumer, Policy
from shadow_mlops.challenger.coverage import Coverage
from shadow_mlops.challenger.recovery import recover_position
from shadow_mlops.challenger.replay import Replay, Replayed
from shadow_mlops.challenger.reporting import Reporter
from shadow_mlops.challenger.scorer import Limits, ScorerProcess
from shadow_mlops.challenger.scoring import Scored
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.challenger.steady import SteadyScorer
from shadow_mlops.cli.app import app
from shadow_mlops.comparison import Look, compare
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.errors import ConflictError, LakeError, ModelNotFoundError, ModelRefusedError, SettingsError
from shadow_mlops.domain.events import EVENTS, EventSchema, Span, Status, replays_stream, results_stream
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog import EventBatch, EventLog, Frame, ResultBatch
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.manifest import read_manifest, schema_hash
from shadow_mlops.lake.tables import SCHEMAS
from shadow_mlops.models.preparation import prepare
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.state import MonitorState
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.telemetry.metrics import open_metrics
from shadowing import RESULTS, SCHEMA, event_rows, events, results

CARD = ModelCard(
    name="m",
    version="c-1",
    registry_version="2",
    task="binary",
    runtime="none",
    file="none",
    sha256="",
    signature=Signature((Feature("a"), Feature("s", "string"), Feature("new"))),
    classes=("0", "1"),
)
ALWAYS = 2**60


class Model:
    """Scores a row by its first number; remembers how many it was given; fails on demand."""

    def __init__(self, fail_after: int = 10**9) -> None:
        self.given = 0
        self.fail_after = fail_after

    def __call__(self, numbers: np.ndarray, strings: np.ndarray) -> Scored:
        if self.given + len(numbers) > self.fail_after:
            raise KeyboardInterrupt
        assert np.isnan(numbers[:, 1]).all(), "no event has the feature `new`"
        assert set(strings.ravel().tolist()) <= {"text"}
        self.given += len(numbers)
        first = numbers[:, 0]
        return Scored(
            np.full(len(first), Status.PAIRED, dtype=np.uint8),
            np.column_stack([1 - first, first]),
            np.ones(len(first), dtype=np.uint32),
        )


def replay(
    log: EventLog, lake: Path, model: Callable[..., Any], *, since: int = 0, until: int = ALWAYS, batch_rows: int = 64
) -> Replayed:
    return Replay(
        log, lake, card=CARD, deployment="d", since_us=since, until_us=until, score=model, batch_rows=batch_rows
    ).run()


def frames(log: EventLog, stream: str) -> list[ResultBatch]:
    tail = log.tail(stream)
    found = []
    while items := tail.poll(10**6):
        found += [item.batch for item in items if isinstance(item, Frame)]
    return found


def scored(log: EventLog, stream: str) -> dict[tuple[int, int], float]:
    """(segment, row) -> score of each sampled row; fails on a row with two results."""
    found: dict[tuple[int, int], float] = {}
    for batch in frames(log, stream):
        values = iter(zip(batch.statuses.tolist(), batch.scores[:, -1].tolist(), strict=True))
        for span in batch.spans:
            for row in range(span.first, span.first + span.count):
                status, score = next(values)
                if status != Status.UNSAMPLED:
                    assert (span.segment, row) not in found, f"row {row} has two results"
                    found[span.segment, row] = score if status == Status.PAIRED else -status
    return found


@contextlib.contextmanager
def appending(log: EventLog) -> Iterator[Callable[..., tuple[int, int]]]:
    appender = log.appender(EVENTS, writer="gateway-0")
    yield lambda values, **more: appender.append(events(values, **more))
    appender.close()


def archive(log: SegmentLog, lake: Path, *, streams: Sequence[str] = ()) -> None:
    """Put everything that the log has into the lake, as the monitor would."""
    change = Change(lake, read_manifest(lake))
    tail = log.tail(EVENTS, read_manifest(lake).positions.get(EVENTS))
    times: dict[tuple[int, int], int] = {}
    while items := tail.poll(10**6):
        for frame in items:
            if not isinstance(frame, Frame) or not isinstance(frame.batch, EventBatch):
                continue
            batch, n = frame.batch, frame.count
            times |= {(frame.segment, frame.first + i): int(t) for i, t in enumerate(batch.times)}
            change.learn(schema_hash(batch.schema), batch.schema)
            columns = {
                "segment": [frame.segment] * n,
                "row": range(frame.first, frame.first + n),
                "boot": [frame.boot] * n,
                "monotonic_ns": [frame.monotonic_ns] * n,
                "time": batch.times,
                "request_id": batch.request_ids,
                "schema": [schema_hash(batch.schema)] * n,
                "sampled": [True] * n if batch.sampled is None else batch.sampled.tolist(),
            }
            arrays = {
                field.name: pa.array(columns.get(field.name, [None] * n), field.type) for field in SCHEMAS["events"]
            }
            for i, name in enumerate(batch.schema.numbers):
                arrays[f"n_{name}"] = pa.array(batch.numbers[:, i], from_pandas=True)
            for i, name in enumerate(batch.schema.strings):
                arrays[f"s_{name}"] = pa.array(batch.strings[:, i].tolist(), pa.string())
            change.add("events", pa.table(arrays))
    for segment, done in tail.position().items():
        change.set_position(EVENTS, segment, done)
    for stream in streams:
        for batch in frames(log, stream):
            ids = [(s.segment, s.first + i) for s in batch.spans for i in range(s.count)]
            columns = {
                "segment": [segment for segment, _ in ids],
                "row": [row for _, row in ids],
                "time": [times[each] for each in ids],
                "version": [batch.schema.version] * len(ids),
            }
            arrays = {f.name: pa.array(columns.get(f.name, [None] * len(ids)), f.type) for f in SCHEMAS["results"]}
            change.add("results", pa.table(arrays), part=stream)
    change.commit()


def retire(root: Path, stream: str) -> None:
    retention = Retention(root)
    for info in retention.segments(stream):
        retention.retire(info)
        retention.forget(next(i for i in retention.segments(stream) if i.segment == info.segment))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 8), st.booleans()), max_size=20),
)
def test_coverage_is_the_union_of_what_was_added(added: list[tuple[int, int, int, bool]]) -> None:
    coverage, expected = Coverage(), set()
    for segment, first, count, one_by_one in added:
        if one_by_one:
            at = np.arange(first, first + count)[::-1]
            coverage.add_rows(np.full(count, segment), at)
        else:
            coverage.add([Span(segment, first, count, count)])
        expected |= {(segment, row) for row in range(first, first + count)}
        asked = np.arange(-1, 45)
        got = coverage.covered(segment, asked)
        assert got.tolist() == [(segment, int(row)) in expected for row in asked]


def test_every_sampled_event_is_scored_once_and_again_nothing_is(tmp_path: Path) -> None:
    log, lake, model = SegmentLog(tmp_path / "log"), tmp_path / "lake", Model()
    values = np.round(np.random.default_rng(3).random(500), 6)
    where = {}
    with appending(log) as append:
        for start in range(0, 500, 7):
            chosen = [bool(i % 3) for i in range(start, min(start + 7, 500))]
            segment, first = append(values[start : start + 7], sampled=chosen)
            where |= {(segment, first + i): values[start + i] for i, yes in enumerate(chosen) if yes}
        done = replay(log, lake, model)
        assert scored(log, replays_stream("c-1")) == where
        assert (done.events, done.paired, done.already_scored) == (len(where), len(where), 0)
        assert {batch.schema.challenger for batch in frames(log, replays_stream("c-1"))} == {"replay"}
        segments = list((tmp_path / "log" / replays_stream("c-1")).iterdir())
        again = replay(log, lake, model)
        assert (again.scored, again.already_scored, again.events) == (0, len(where), len(where))
        assert model.given == len(where)
        assert list((tmp_path / "log" / replays_stream("c-1")).iterdir()) == segments, "an empty segment was left"


def test_only_events_of_the_span_are_scored_also_where_it_cuts_frames(tmp_path: Path) -> None:
    log, model = SegmentLog(tmp_path / "log"), Model()
    appender = log.appender(EVENTS, writer="gateway-0")
    for start in (0, 10, 20):
        batch = events(np.arange(start, start + 10) / 100)
        batch.times[:] = np.arange(start, start + 10)
        batch.times[3] += 1000  # times need not be in order
        appender.append(batch)
    appender.close()
    done = replay(log, tmp_path / "lake", model, since=5, until=25)
    expected = [i / 100 for i in range(5, 25) if i % 10 != 3]
    assert sorted(scored(log, replays_stream("c-1")).values()) == expected
    assert done.events == len(expected)
    later = replay(log, tmp_path / "lake", model, since=0, until=2000)
    assert (later.scored, later.already_scored) == (30 - len(expected), len(expected))


def test_what_live_challengers_scored_or_shed_is_left_alone(tmp_path: Path) -> None:
    log, model = SegmentLog(tmp_path / "log"), Model()
    with appending(log) as append:
        segment, _ = append(np.linspace(0, 1, 30))
        live = log.appender(results_stream("challenger"), writer="challenger")
        for version, spans in (
            ("c-1", [Span(segment, 0, 10, 10, shed=True), Span(segment, 12, 2, 2)]),
            ("c-0", [Span(segment, 14, 3, 3)]),
        ):
            n = sum(span.count for span in spans if not span.shed)
            live.append(results(spans, [Status.PAIRED] * n, msgspec.structs.replace(RESULTS, version=version)))
        live.close()
        done = replay(log, tmp_path / "lake", model)
    assert {row for _, row in scored(log, replays_stream("c-1"))} == {10, 11, *range(14, 30)}
    assert (done.scored, done.already_scored) == (18, 12)


@pytest.mark.parametrize("archived", [False, True])
def test_a_killed_replay_goes_on_where_its_last_frame_ends(tmp_path: Path, archived: bool) -> None:
    log, lake = SegmentLog(tmp_path / "log"), tmp_path / "lake"
    with appending(log) as append:
        for _ in range(40):
            append(np.linspace(0, 1, 10))
        if archived:
            archive(log, lake)
        killed = 0
        for limit in (70, 150, 10**9):
            model = Model(fail_after=limit)
            with contextlib.suppress(KeyboardInterrupt):
                replay(log, lake, model, batch_rows=20)
            killed += limit < 10**9 and model.given <= limit
        assert killed == 2
        assert len(scored(log, replays_stream("c-1"))) == 400, "each once"


_SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_replay import Model, SegmentLog, replay

class Slow(Model):
    def __call__(self, numbers, strings):
        time.sleep(0.02)
        print(self.given, flush=True)
        return super().__call__(numbers, strings)

replay(SegmentLog(Path(sys.argv[2])), Path(sys.argv[3]), Slow(), batch_rows=20)
"""


def test_a_process_killed_with_half_a_frame_written_costs_nothing(tmp_path: Path) -> None:
    log, lake = SegmentLog(tmp_path / "log"), tmp_path / "lake"
    with appending(log) as append:
        for _ in range(200):
            append(np.linspace(0, 1, 10))
    here = Path(__file__)
    path = os.pathsep.join([str(here.parents[1]), str(here.parent)])
    command = [sys.executable, "-c", _SLOW, str(here.parent), str(tmp_path / "log"), str(lake)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as process:
        assert process.stdout is not None
        for _ in range(30):
            assert process.stdout.readline()
        process.kill()
    before = scored(log, replays_stream("c-1"))
    assert 0 < len(before) < 2000
    (left,) = (tmp_path / "log" / replays_stream("c-1")).iterdir()
    with left.open("ab") as file:
        file.write(b"half of a frame")
    done = replay(log, lake, Model())
    assert (done.already_scored, done.scored) == (len(before), 2000 - len(before))
    assert len(scored(log, replays_stream("c-1"))) == 2000


def test_who_is_asked_to_end_says_so_and_goes_on_later(tmp_path: Path) -> None:
    log, model = SegmentLog(tmp_path / "log"), Model()
    with appending(log) as append:
        for _ in range(50):
            append(np.linspace(0, 1, 10))
    first = Replay(
        log,
        tmp_path / "lake",
        card=CARD,
        deployment="d",
        since_us=0,
        until_us=ALWAYS,
        score=model,
        batch_rows=20,
        stopping=lambda: model.given >= 100,
    ).run()
    assert first.interrupted
    assert 0 < first.scored < 500
    assert replay(log, tmp_path / "lake", Model()).scored == 500 - first.scored


def test_lake_and_log_together_are_each_event_once(tmp_path: Path) -> None:
    log, lake, model = SegmentLog(tmp_path / "log"), tmp_path / "lake", Model()
    with appending(log) as append:
        for _ in range(5):
            append(np.linspace(0, 1, 20), sampled=[True] * 15 + [False] * 5)
    archive(log, lake)
    retire(tmp_path / "log", EVENTS)
    with appending(log) as append:
        append(np.linspace(0, 1, 20))
        archive(log, lake)  # archived, and in the log still
        append(np.linspace(0, 1, 20))  # in the log only
        done = replay(log, lake, model)
        found = scored(log, replays_stream("c-1"))
        assert len(found) == done.events == done.paired == 5 * 15 + 40
        assert Counter(found.values()) == Counter(
            [*np.linspace(0, 1, 20)[:15].tolist() * 5, *np.linspace(0, 1, 20).tolist() * 2]
        )
        assert replay(log, lake, model).scored == 0


def test_results_that_only_the_lake_has_count_as_scored(tmp_path: Path) -> None:
    log, lake, model = SegmentLog(tmp_path / "log"), tmp_path / "lake", Model()
    with appending(log) as append:
        append(np.linspace(0, 1, 20))
    replay(log, lake, model)
    archive(log, lake, streams=[replays_stream("c-1")])
    retire(tmp_path / "log", replays_stream("c-1"))
    assert frames(log, replays_stream("c-1")) == []
    again = replay(log, lake, model)
    assert (again.scored, again.already_scored) == (0, 20)


@pytest.mark.parametrize("tombstones", [True, False])
def test_events_that_retention_took_meanwhile_are_read_from_the_lake(tmp_path: Path, tombstones: bool) -> None:
    log, lake = SegmentLog(tmp_path / "log", segment_bytes=65536), tmp_path / "lake"
    with appending(log) as append:
        for _ in range(4):
            append(np.linspace(0, 1, 1000))

    class Slow(Model):
        def __call__(self, numbers: np.ndarray, strings: np.ndarray) -> Scored:
            if not self.given:  # while the first batch is scored, everything is archived and removed
                archive(log, lake)
                retention = Retention(tmp_path / "log")
                for info in retention.segments(EVENTS)[1:]:
                    retention.retire(info)
                for info in retention.segments(EVENTS)[1 : -1 if tombstones else None]:
                    retention.forget(info)
            return super().__call__(numbers, strings)

    done = replay(log, lake, Slow())
    assert len(scored(log, replays_stream("c-1"))) == 4000
    assert (done.events, done.paired, done.already_scored, done.gone) == (4000, 4000, 0, 0)


def _two_files(root: Path) -> tuple[SegmentLog, Path]:
    log, lake = SegmentLog(root / "log"), root / "lake"
    for _ in range(2):
        with appending(log) as append:
            append(np.linspace(0, 1, 50))
        archive(log, lake)
    return log, lake


def test_a_lake_that_is_compacted_meanwhile_is_read_on_from_its_new_files(tmp_path: Path) -> None:
    log, lake = _two_files(tmp_path)

    class Compacting(Model):
        def __call__(self, numbers: np.ndarray, strings: np.ndarray) -> Scored:
            if not self.given:
                old = read_manifest(lake).files["events"]
                change = Change(lake, read_manifest(lake))
                change.replace("events", old, pa.concat_tables([pq.read_table(lake / file.path) for file in old]))
                change.commit()
                for file in old:  # as if ten minutes had passed
                    (lake / file.path).unlink()
            return super().__call__(numbers, strings)

    done = replay(log, lake, Compacting(), batch_rows=10)
    assert (done.events, done.paired, done.already_scored) == (100, 100, 0)
    assert len(scored(log, replays_stream("c-1"))) == 100


def test_a_lake_that_lacks_a_file_is_an_error(tmp_path: Path) -> None:
    log, lake = _two_files(tmp_path)
    (lake / read_manifest(lake).files["events"][1].path).unlink()
    with pytest.raises(LakeError, match="is missing, and the lake's manifest names it"):
        replay(log, lake, Model())
    assert len(scored(log, replays_stream("c-1"))) == 50


def test_events_that_were_never_archived_and_are_gone_are_told(tmp_path: Path) -> None:
    log, lake = SegmentLog(tmp_path / "log", segment_bytes=65536), tmp_path / "lake"
    with appending(log) as append:
        for _ in range(4):
            append(np.linspace(0, 1, 1000))
    retention = Retention(tmp_path / "log")
    first, *_ = retention.segments(EVENTS)

    class Removing(Model):
        def __call__(self, numbers: np.ndarray, strings: np.ndarray) -> Scored:
            if not self.given:
                for info in retention.segments(EVENTS)[1:]:
                    retention.retire(info)
            return super().__call__(numbers, strings)

    done = replay(log, lake, Removing())
    assert (done.paired, done.gone) == (first.rows, 4000 - first.rows)


def test_monitor_and_challengers_take_no_notice_of_a_replay(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log")
    with appending(log) as append:
        append(np.linspace(0, 1, 20))
        replay(log, tmp_path / "lake", Model())
        assert replays_stream("c-1") in log.streams()
        ledger = Ledger(log, MonitorState())
        ledger.read()
        assert ledger.state.accounts == {}
        assert ledger.state.versions == {SCHEMA.version: 20}
        assert recover_position(log, "c-1") is None
        ledger.close()


def test_versions_have_streams_of_their_own() -> None:
    versions = ["1.0", "1_0", "1/0", "1 0", ".1", "-1", "_2e1", "ü", "", "v" * 300, "v" * 301, "..", "a/../b"]
    streams = [replays_stream(version) for version in versions]
    assert len(set(streams)) == len(versions)
    log = SegmentLog(Path("/nonexistent"))
    for stream in streams:
        log.tail(stream).close()  # refuses a name that is no folder
        assert len(stream.removeprefix("replays/")) < 250


@pytest.fixture
def planted_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SteadyScorer]]:
    monkeypatch.setenv("PYTHONPATH", str(planted.FOLDER))
    made = []

    def make(**more: Any) -> SteadyScorer:
        directory = planted.prepare(tmp_path / "models", **more)
        limits = Limits(batch_seconds=0.5, load_seconds=30.0, memory_bytes=2**30)
        made.append(SteadyScorer(directory, limits=limits, stopping=lambda: False, loader=planted.LOADER))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def test_failures_have_the_statuses_of_a_live_challenger(tmp_path: Path, planted_scorer: Any) -> None:
    log, scorer = SegmentLog(tmp_path / "log"), planted_scorer()
    with appending(log) as append:
        append([0.5, planted.RAISE])
        append([0.5, planted.HANG])
        append([0.5, planted.CRASH])
        append([0.5, 0.25])
        assert scorer.load()
        done = Replay(
            log,
            tmp_path / "lake",
            card=scorer.card,
            deployment="d",
            since_us=0,
            until_us=ALWAYS,
            score=scorer.score,
            batch_rows=2,
        ).run()
    assert (done.paired, done.errored, done.timed_out) == (3, 3, 2)


def test_a_version_that_does_not_load_ends_the_replay(planted_scorer: Any) -> None:
    with pytest.raises(ModelRefusedError, match="ordered to"):
        planted_scorer(order="refuse").load()


def _sample_schema() -> EventSchema:
    return EventSchema(
        deployment="churn",
        task="binary",
        model="churn",
        version="1.0",
        registry_version="1",
        numbers=tuple(NUMBERS),
        strings=tuple(STRINGS),
        outputs=("0", "1"),
    )


def _sample_events(log: EventLog, count: int = 600) -> None:
    given = rows()
    schema = _sample_schema()
    appender = log.appender(EVENTS, writer="gateway-0")
    for start in range(0, count, 50):
        part = slice(start, start + 50)
        batch = events([0.0] * 50, schema=schema)
        batch.numbers[:], batch.strings[:] = given.numbers[part], given.strings[part]
        appender.append(batch)
    appender.close()


def test_a_real_model_gives_what_it_gave_live(tmp_path: Path) -> None:
    registry = registry_in(tmp_path)
    register_sample(registry, "2.0", kind="boosting")
    directory = prepare(registry, registry.version("churn", "2.0"), data_dir=tmp_path)
    live, past = SegmentLog(tmp_path / "live"), SegmentLog(tmp_path / "past")
    limits = Limits(batch_seconds=10.0, load_seconds=60.0, memory_bytes=2**31)
    _sample_events(live)
    _sample_events(past)
    consumer = Consumer(
        live,
        Policy("churn", "challenger", batch_rows=64, max_lag=10**6),
        seat=Seat(lambda path: ScorerProcess(path, limits=limits), replaced=lambda _: None),
        champion=ChampionSide(
            Seat(lambda path: ScorerProcess(path, limits=limits), replaced=lambda _: None), lambda: None
        ),
        reporter=Reporter(tmp_path / "beat.json", open_metrics(), challenger="challenger"),
        wanted=lambda: directory,
        stopping=lambda: False,
    )
    deadline = time.monotonic() + 60
    while len(scored(live, results_stream("challenger"))) < 600 and time.monotonic() < deadline:
        consumer.step()
    consumer.close()
    scorer = SteadyScorer(directory, limits=limits, stopping=lambda: False)
    try:
        assert scorer.load()
        Replay(
            past,
            tmp_path / "lake",
            card=scorer.card,
            deployment="churn",
            since_us=0,
            until_us=ALWAYS,
            score=scorer.score,
            batch_rows=256,
        ).run()
    finally:
        scorer.close()
    then = {row: score for (_, row), score in scored(live, results_stream("challenger")).items()}
    now = {row: score for (_, row), score in scored(past, replays_stream("2.0")).items()}
    assert then.keys() == now.keys() == set(range(600))
    assert len(set(then.values())) > 100
    assert max(abs(then[row] - now[row]) for row in then) <= 1e-6


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry with version 2.0 of churn, and 600 events."""
    monkeypatch.chdir(tmp_path)
    registry = registry_in(tmp_path)
    register_sample(registry, "1.0")
    registry.set_alias("churn", "challenger", register_sample(registry, "2.0").registry_version)
    (tmp_path / "shadow.yaml").write_text("name: churn\n")
    _sample_events(SegmentLog(tmp_path / "log"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    structlog.reset_defaults()  # the command's log goes to a file that is closed by now
    structlog.contextvars.clear_contextvars()
    logging.basicConfig(force=True)


def command(data_dir: Path, *arguments: str) -> Any:
    options = ["--deployment", str(data_dir / "shadow.yaml"), "--data-dir", str(data_dir)]
    done = CliRunner().invoke(app, ["replay", *arguments, *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_command_scores_what_is_recorded_and_says_when_nothing_is_left(data_dir: Path) -> None:
    first = command(data_dir, "--model", "models:/churn/2.0", "--since", "24h", "--format", "json")
    summary = json.loads(first.stdout)
    assert (summary["version"], summary["paired"], summary["events"]) == ("2.0", 600, 600)
    found = scored(SegmentLog(data_dir / "log"), replays_stream("2.0"))
    assert found.keys() == event_rows(SegmentLog(data_dir / "log"))
    again = command(data_dir, "--model", "models:/churn@challenger", "--since", "2020-01-01")
    assert again.stdout.startswith("nothing to score: all 600 sampled events of that span have a result of version 2.0")
    before = command(data_dir, "--model", "models:/churn/2.0", "--since", "2020-01-01", "--until", "2020-01-02")
    assert before.stdout.startswith("nothing to score: no sampled events")


def test_the_champions_own_version_is_the_noise_floor_of_a_comparison(data_dir: Path) -> None:
    for version in ("1.0", "2.0"):
        command(data_dir, "--model", f"models:/churn/{version}", "--since", "24h")
    made = Archiver(SegmentLog(data_dir / "log"), data_dir / "lake", labels=Labels(), retain_days=400)
    while made.round():
        pass
    found = compare(data_dir / "lake", look=Look(disagreements=5))
    assert found.champion.version == "1.0"
    assert [(each.version, each.pairs, each.noise_floor) for each in found.challengers] == [
        ("2.0", 600, False),
        ("1.0", 600, True),
    ]
    assert found.pairs == 600  # what the champion makes of its own rows is no pair of two models
    assert found.challengers[0].disagreements is not None
    assert found.challengers[1].disagreements is None


def test_the_command_refuses_what_it_cannot_do(data_dir: Path) -> None:
    with only_one(data_dir / "run" / "replays-2.0.lock", "it"), pytest.raises(ConflictError, match="replay of churn"):
        command(data_dir, "--model", "models:/churn/2.0", "--since", "24h")
    with pytest.raises(SettingsError, match="models:/churn/VERSION"):
        command(data_dir, "--model", "churn:2.0", "--since", "24h")
    with pytest.raises(SettingsError, match="'churn', not 'other'"):
        command(data_dir, "--model", "models:/other/1", "--since", "24h")
    with pytest.raises(ModelNotFoundError, match="shadow models list"):
        command(data_dir, "--model", "models:/churn@nobody", "--since", "24h")
    with pytest.raises(SettingsError, match="an age such as 24h"):
        command(data_dir, "--model", "models:/churn/2.0", "--since", "yesterday")
    with pytest.raises(SettingsError, match="the span is empty"):
        command(data_dir, "--model", "models:/churn/2.0", "--since", "1h", "--until", "2h")
