"""A replay completes what nobody looked for at the time, as of each event, as a live challenger does."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import structlog
from typer.testing import CliRunner

from featurerepo import filled_repository
from featureserver import DAY_US
from modelsamples import NUMBERS, STRINGS, register_sample, registry_in
from modelsamples import frame as frame_of_customers
from shadow_mlops.challenger.championside import ChampionSide
from shadow_mlops.challenger.consumer import Consumer, Policy
from shadow_mlops.challenger.replay import Replay, Replayed
from shadow_mlops.challenger.reporting import Reporter
from shadow_mlops.challenger.scorer import Limits, ScorerProcess
from shadow_mlops.challenger.scoring import Fill, score_events
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.challenger.steady import SteadyScorer
from shadow_mlops.challenger.stored import StoredFeatures
from shadow_mlops.cli.app import app
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.events import EVENTS as STREAM
from shadow_mlops.domain.events import EventSchema, Origin, Status, Stream, replays_stream, results_stream
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog import EventBatch, EventLog, Frame
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.features.memory import MemoryFeatures
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.models.preparation import prepare
from shadow_mlops.telemetry.metrics import open_metrics
from shadowing import RESULTS
from storedfeatures import ABSENT, EVENTS, NOW, OLDER, SENT, WANTED, Seen, frame, store

CARD = ModelCard(
    name="m", version="c-1", registry_version="2", task="binary", runtime="none", file="none", sha256="",
    signature=WANTED, classes=("0", "1"),
)  # fmt: skip
REPLAYED = replays_stream(CARD.version)
DEFAULT, FALLBACK, MISSING = int(Origin.DEFAULT), int(Origin.FALLBACK), int(Origin.MISSING)
NAN = pytest.approx(float("nan"), nan_ok=True)
FIRST = [
    ("c", 0.0, [5.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    ("c", 1.5, [6.0, np.nan], ["sent"], [SENT, ABSENT, SENT]),
    ("c", 0.0, [0.0, np.nan], [None], [SENT, ABSENT, ABSENT]),  # not sampled
    ("c", 3.0, [7.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    (None, 0.0, [8.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    ("c", 0.0, [9.0, 0.5], [None], [SENT, DEFAULT, MISSING]),
    ("c", 0.0, [10.0, 0.5], ["basic"], [SENT, FALLBACK, ABSENT]),
]
SECOND = [("c", 0.0, [11.0, np.nan], ["sent"], None), ("c", 0.0, [12.0, 4.0], [None], None)]
EARLIER = [("c", 1.5, [13.0], [], None), (None, 0.0, [14.0], [], None)]
COMPLETED = [
    [5.0, 1.0, "one"],
    [6.0, 2.0, "sent"],  # as it was a day and a half ago
    [7.0, NAN, None],  # nothing was known then
    [8.0, NAN, None],  # nobody to look for
    [9.0, 0.5, None],
    [10.0, 0.5, "one"],  # one value was looked for, the other was not
    [11.0, NAN, "sent"],  # sent, as null
    [12.0, 4.0, None],
    [13.0, 2.0, "two"],  # its schema has neither
    [14.0, NAN, None],
]


def batches() -> list[EventBatch]:
    made = [frame(EVENTS, FIRST).batch, frame(EVENTS, SECOND).batch, frame(OLDER, EARLIER).batch]
    return [replace(made[0], sampled=np.array([row[2][0] > 0 for row in FIRST])), *made[1:]]


def append(log: EventLog, given: Sequence[EventBatch]) -> None:
    appender = log.appender(STREAM, writer="gateway-0")
    for batch in given:
        appender.append(batch)
    appender.close()


def archive(log: EventLog, lake: Path) -> None:
    archiver = Archiver(log, lake, labels=Labels(), retain_days=100_000)
    while archiver.round():
        pass


@pytest.fixture(params=["log", "lake", "both"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SegmentLog, Path]:
    """The events in a log, in a lake beside a log that never had them, or the last of them in the log only."""
    log, lake = SegmentLog(tmp_path / "log"), tmp_path / "lake"
    given = batches()
    append(log, given[:-1])
    if request.param == "both":
        archive(log, lake)
    append(log, given[-1:])
    if request.param == "lake":
        archive(log, lake)
        return SegmentLog(tmp_path / "empty"), lake
    return log, lake


def replay(
    recorded: tuple[SegmentLog, Path], model: Seen, fill: Fill | None, *, until: int = NOW + 1, **more
) -> Replayed:
    log, lake = recorded
    return Replay(
        log, lake, card=CARD, deployment="d", since_us=0, until_us=until, score=model, batch_rows=4, fill=fill, **more
    ).run()


def scores(log: EventLog, stream: Stream) -> dict[tuple[int, int], float]:
    """Event -> score, or minus its status; fails on an event with two results."""
    found: dict[tuple[int, int], float] = {}
    tail = log.tail(stream)
    while items := tail.poll(10**6):
        for batch in (item.batch for item in items if isinstance(item, Frame)):
            results = iter(zip(batch.statuses.tolist(), batch.scores[:, -1].tolist(), strict=True))
            for key in ((span.segment, span.first + i) for span in batch.spans for i in range(span.count)):
                status, score = next(results)
                if status != Status.UNSAMPLED:
                    assert key not in found, f"{key} has two results"
                    found[key] = score if status == Status.PAIRED else -float(status)
    return found


def test_a_replay_gives_the_model_what_the_store_had_at_the_time(recorded: tuple[SegmentLog, Path]):
    model = Seen()
    done = replay(recorded, model, StoredFeatures(store).fill)
    assert sorted(model.rows, key=lambda row: row[0]) == COMPLETED
    assert (done.events, done.paired) == (10, 10)
    live = Seen()
    score_events(
        [Frame(7, 0, len(batch), len(batch), 1, 1, batch) for batch in batches()], live,
        signature=WANTED, schema=RESULTS, batch_rows=4, fill=StoredFeatures(store).fill,
    )  # fmt: skip
    assert live.rows == COMPLETED


def test_what_a_replay_left_over_is_completed_for_its_own_time(recorded: tuple[SegmentLog, Path]):
    before, after = Seen(), Seen()
    replay(recorded, before, StoredFeatures(store).fill, until=NOW - DAY_US)
    replay(recorded, after, StoredFeatures(store).fill)
    assert sorted(row[0] for row in before.rows) == [6.0, 7.0, 13.0]
    assert sorted(before.rows + after.rows, key=lambda row: row[0]) == COMPLETED


def test_without_a_store_what_nobody_looked_for_is_missing(recorded: tuple[SegmentLog, Path]):
    model = Seen()
    replay(recorded, model, None)
    assert [row for row in model.rows if row[0] in {5.0, 13.0}] in (
        [[5.0, NAN, None], [13.0, NAN, None]],
        [[13.0, NAN, None], [5.0, NAN, None]],
    )


def test_a_replay_waits_for_a_store_that_comes_back(recorded: tuple[SegmentLog, Path]):
    kept, clock = store(), count()
    kept.failing = True

    def tick() -> float:
        kept.failing = len(kept.reads) < 2
        return float(next(clock))

    model = Seen()
    done = replay(recorded, model, StoredFeatures(lambda: kept, clock=tick).fill)
    assert (done.paired, done.errored) == (10, 0)
    assert sorted(model.rows, key=lambda row: row[0]) == COMPLETED


def test_a_lost_store_breaks_a_replay_off_and_the_next_goes_on_there(recorded: tuple[SegmentLog, Path]):
    kept, clock = store(), count()
    kept.failing = True
    with pytest.raises(UnavailableError, match="feature store does not answer"):
        replay(recorded, Seen(), StoredFeatures(lambda: kept, clock=lambda: float(next(clock))).fill)
    again = replay(recorded, Seen(), StoredFeatures(store).fill)
    assert (again.already_scored + again.paired, again.errored) == (10, 0)


def test_who_waits_for_a_store_can_be_asked_to_end_and_goes_on_later(recorded: tuple[SegmentLog, Path]):
    waits: Iterator[int] = count()
    done = replay(recorded, Seen(), lambda *_: None, stopping=lambda: next(waits) > 10)
    assert done.interrupted
    assert done.scored == 0
    again = replay(recorded, Seen(), StoredFeatures(store).fill)
    assert (again.already_scored, again.paired, again.interrupted) == (0, 10, False)


@pytest.fixture
def churn(tmp_path: Path) -> Path:
    """A registry with a version of churn, in the folder of the test."""
    register_sample(registry_in(tmp_path), "2.0", kind="boosting")
    return tmp_path


LIMITS = Limits(batch_seconds=10.0, load_seconds=60.0, memory_bytes=2**31)


def customers(number: int, *, known: Mapping[str, Sequence] | None = None) -> list[EventBatch]:
    """Events of the sample's customers: with ``tenure`` and ``gender``, or recorded before anybody took them."""
    numbers = [name for name in NUMBERS if known or name != "tenure"]
    strings = [name for name in STRINGS if known or name != "gender"]
    schema = EventSchema(
        deployment="churn", task="binary", model="churn", version="1.0", registry_version="1",
        numbers=tuple(numbers), strings=tuple(strings), outputs=("0", "1"),
    )  # fmt: skip
    table, now = frame_of_customers().head(number), int(time.time() * 1e6)
    table = table.assign(**{name: list(values)[:number] for name, values in (known or {}).items()})
    return [
        EventBatch(
            schema=schema,
            times=np.arange(start, start + 10) + now,
            latencies=np.ones(10, dtype=np.uint32),
            request_ids=[f"r{start + i}" for i in range(10)],
            entities=[f"CUST-{start + i + 1:03d}" for i in range(10)],
            numbers=table[numbers].to_numpy(np.float64)[start : start + 10],
            strings=table[strings].to_numpy(np.object_)[start : start + 10],
            scores=np.full((10, 2), 0.5),
        )
        for start in range(0, number, 10)
    ]


def said(log: EventLog, stream: Stream) -> list[float]:
    """Scores in the order of the requests' numbers, whatever segments they are in."""
    requests = {}
    tail = log.tail(STREAM)
    while items := tail.poll(10**6):
        requests |= {
            (item.segment, item.first + i): int(name[1:])
            for item in items
            for i, name in enumerate(item.batch.request_ids)
        }
    found = scores(log, stream)
    return [found[key] for key in sorted(found, key=requests.__getitem__)]


def live_scores(log: EventLog, directory: Path, number: int, fill: Fill | None) -> list[float]:
    start = lambda path: ScorerProcess(path, limits=LIMITS)  # noqa: E731
    consumer = Consumer(
        log,
        Policy("churn", "challenger", batch_rows=64, max_lag=10**6),
        seat=Seat(start, replaced=lambda _: None),
        champion=ChampionSide(Seat(start, replaced=lambda _: None), lambda: None),
        reporter=Reporter(directory / "beat.json", open_metrics(), challenger="challenger"),
        wanted=lambda: directory,
        stopping=lambda: False,
        fill=fill,
    )
    try:
        deadline = time.monotonic() + 60
        while len(scores(log, results_stream("challenger"))) < number and time.monotonic() < deadline:
            consumer.step()
    finally:
        consumer.close()
    return said(log, results_stream("challenger"))


def test_a_real_model_says_of_the_past_what_a_live_challenger_said(churn: Path):
    registry = registry_in(churn)
    directory = prepare(registry, registry.version("churn", "2.0"), data_dir=churn)
    kept, now = MemoryFeatures({"tenure": DAY_US, "gender": DAY_US}), int(time.time() * 1e6)
    for row, each in enumerate(frame_of_customers().head(200).itertuples()):
        name, tenure = f"CUST-{row + 1:03d}", int(each.tenure)
        kept.write(name, time=now - 1000, values={"tenure": tenure, "gender": each.gender})
        kept.write(name, time=now + DAY_US // 2, values={"tenure": 71 - tenure, "gender": "later"})
    fill = StoredFeatures(lambda: kept).fill
    live, past = SegmentLog(churn / "live"), SegmentLog(churn / "past")
    append(live, customers(200))
    append(past, customers(100))
    archive(past, churn / "lake")
    append(past, customers(200)[10:])
    then = live_scores(live, directory, 200, fill)
    scorer = SteadyScorer(directory, limits=LIMITS, stopping=lambda: False)
    try:
        assert scorer.load()
        done = Replay(
            past, churn / "lake", card=scorer.card, deployment="churn", since_us=0, until_us=2**60,
            score=scorer.score, batch_rows=64, fill=fill,
        ).run()  # fmt: skip
    finally:
        scorer.close()
    assert done.paired == len(then) == 200
    assert len(set(then)) > 50
    assert said(past, replays_stream("2.0")) == pytest.approx(then, abs=1e-6)
    blind = SegmentLog(churn / "blind")
    append(blind, customers(200))
    assert live_scores(blind, directory, 200, None) != pytest.approx(then, abs=1e-6)


@pytest.fixture
def unlogged() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    structlog.reset_defaults()  # the command's log goes to a file that is closed by now
    structlog.contextvars.clear_contextvars()
    logging.basicConfig(force=True)


@pytest.mark.usefixtures("unlogged")
def test_the_command_reads_the_deployments_feature_store(churn: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(churn)
    repository = filled_repository(churn / "feature_repo", customers=100)
    Path("plain.yaml").write_text("name: churn\n")
    section = f"feature_store: {{kind: feast, path: {repository}, timeout_ms: 5000}}\n"
    Path("stored.yaml").write_text("name: churn\nentity: customer_id\n" + section)
    known = {
        "tenure": pq.read_table(repository / "data" / "churn_stats.parquet")["tenure"].to_pylist(),
        "gender": pq.read_table(repository / "data" / "customer_demographics.parquet")["gender"].to_pylist(),
    }
    whole, lacking, unfilled = (SegmentLog(churn / name / "log") for name in ("whole", "lacking", "unfilled"))
    append(whole, customers(60, known=known))
    append(lacking, customers(60))
    append(unfilled, customers(60))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{churn / 'mlflow.db'}")
    for folder, deployment in (("whole", "plain"), ("lacking", "stored"), ("unfilled", "plain")):
        arguments = ["--model", "models:/churn/2.0", "--since", "24h", "--format", "json", "--data-dir", folder]
        done = CliRunner().invoke(app, ["replay", *arguments, "--deployment", f"{deployment}.yaml"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["paired"] == 60
    expected = said(whole, replays_stream("2.0"))
    assert said(lacking, replays_stream("2.0")) == pytest.approx(expected, abs=1e-6)
    assert said(unfilled, replays_stream("2.0")) != pytest.approx(expected, abs=1e-6)
