"""From the log to the lake: every row once, in one order, whatever the rounds and whenever the monitor dies."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelogs import BINARY, DAY_US, NOW_US, WIDER, Writing, archive, archiver, contents, rows
from shadow_mlops.domain.deployment import Duration, Labels
from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EVENTS, OUTCOMES, Span, Status, results_stream
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.champions import Champions
from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.manifest import read_manifest, schema_hash
from shadow_mlops.lake.queries import connect

P, T, E, U = Status.PAIRED, Status.TIMED_OUT, Status.ERRORED, Status.UNSAMPLED


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    return Writing(SegmentLog(tmp_path / "log", segment_bytes=4000))


def test_a_result_has_the_champions_side_and_shed_events_have_one_row_each(writing: Writing, tmp_path: Path) -> None:
    first = writing.answer(4, sampled=[True, True, True, False])
    second = writing.answer(3, sampled=[True, False, True], days=1)
    shed = Span(second.segment, second.first, 3, 2, shed=True)
    writing.shadow([first, shed], statuses=[P, T, E, U])
    writing.close()
    archive(writing.log, tmp_path / "lake")
    found = rows(
        tmp_path / "lake",
        """SELECT r.row, r.status, r.score, r.label, r.scores, r.latency_us, r.time = e.time,
        r.champion_score = e.score, r.champion_label = e.label, r.champion_version, e.sampled
        FROM results r JOIN events e USING (segment, row)
        ORDER BY r.row""",
    )
    assert [(row[0], row[1]) for row in found] == [
        (0, "paired"), (1, "timed_out"), (2, "errored"), (4, "shed"), (6, "shed"),
    ]  # fmt: skip
    assert all(row[6:] == (True, True, True, "champion-1", True) for row in found)
    paired, *others = found
    assert paired[2] == paired[4][1]
    assert paired[3] == ("1" if paired[2] >= 0.5 else "0")
    assert all(row[2:5] == (None, None, None) for row in others)
    assert [row[5] for row in found] == [90, 90, 90, None, None]


def test_missing_values_travel_as_null(writing: Writing, tmp_path: Path) -> None:
    writing.answer(4)
    writing.close()
    archive(writing.log, tmp_path / "lake")
    assert rows(tmp_path / "lake", "SELECT n_a, n_b, s_s FROM events") == [
        (None, 1.0, "text"), (2.0, 3.0, "text"), (None, 5.0, "text"), (6.0, 7.0, "text"),
    ]  # fmt: skip


def test_features_come_and_go_and_every_event_names_its_schema(writing: Writing, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    writing.answer(2)
    writing.answer(2, schema=WIDER)
    writing.answer(2, schema=BINARY, days=1)
    writing.close()
    archive(writing.log, lake)
    found = rows(
        lake, "SELECT schema, count(n_b), count(n_c), count(s_s), count(s_t) FROM events GROUP BY 1 ORDER BY 2"
    )
    assert found == [(schema_hash(WIDER), 0, 2, 2, 2), (schema_hash(BINARY), 4, 0, 4, 0)]
    assert read_manifest(lake).schemas == {schema_hash(each): each for each in (BINARY, WIDER)}


def test_an_event_and_a_version_have_one_result_the_first_in_the_log(writing: Writing, tmp_path: Path) -> None:
    first, second = writing.answer(2), writing.answer(3)
    writing.shadow([first], version="c-1", replayed=True)
    writing.shadow([first, second], version="c-1")
    writing.shadow([second], version="c-1", replayed=True)
    writing.shadow([first], version="c-2")
    writing.close()
    lake = tmp_path / "lake"
    made = archive(writing.log, lake)
    assert rows(lake, "SELECT version, replayed, count(*) FROM results GROUP BY ALL ORDER BY ALL") == [
        ("c-1", False, 3), ("c-1", True, 2), ("c-2", False, 2),
    ]  # fmt: skip
    assert made.manifest.counts["repeated_results"] == 5


@pytest.mark.parametrize("policy", ["first", "reject"])
def test_the_same_log_gives_the_same_tables_whatever_the_rounds(tmp_path: Path, policy: str) -> None:
    writing = Writing(SegmentLog(tmp_path / "log", segment_bytes=4000))
    writing.mixed(25)
    writing.close()
    labels = Labels(policy=policy)
    archive(writing.log, tmp_path / "whole", labels=labels)
    whole = contents(tmp_path / "whole")
    assert len(whole["events"]) == len(writing.events)
    assert all(len(whole[table]) > 20 for table in ("results", "outcomes", "labels"))
    assert len(whole["pairs"]) > 20 or policy == "reject"
    for rounds in (40, 200):
        lake = tmp_path / f"rounds-{rounds}"
        archive(writing.log, lake, rows=rounds, tidy_seconds=0.0, labels=labels)
        found = contents(lake)
        for table, expected in whole.items():
            assert found[table] == expected, f"{table} with rounds of {rounds} rows"


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 15), min_size=1, max_size=3))
def test_every_row_is_archived_once_while_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]
) -> None:
    lake = tmp_path_factory.mktemp("lake") / "lake"
    writing = Writing(MemoryLog(), seed)
    made = archiver(writing.log, lake, rows=60)
    for size in sizes:
        writing.mixed(size)
        for appender in writing.appenders.values():
            appender.beat()  # type: ignore[attr-defined]
        made.round()
    writing.close()
    while made.round():
        pass
    events = Counter(rows(lake, "SELECT segment, row FROM events"))
    assert events == Counter((segment, row) for segment, row, _, _ in writing.events)
    keys = Counter(rows(lake, "SELECT segment, row, version FROM results"))
    assert set(keys.values()) <= {1}
    assert {key[:2] for key in keys} <= events.keys()
    pairs = rows(lake, "SELECT segment, row, version FROM pairs")
    assert len(set(pairs)) == len(pairs)
    orphans = "SELECT count(*) FROM pairs ANTI JOIN labels USING (segment, row)"
    assert rows(lake, orphans) == [(0,)]
    counts = made.manifest.counts
    verdicts = ("joined", "repeated", "contradicting", "late", "invalid", "unmatched")
    assert sum(counts.get(name, 0) for name in verdicts) == counts["outcomes"]


def test_time_alone_makes_a_label_final(tmp_path: Path) -> None:
    writing = Writing(MemoryLog())
    writing.shadow([writing.answer(2)])
    writing.happen([("r0", None, "0"), ("r0", None, "1")])
    writing.close()
    now = NOW_US / 1e6 + 100
    lake = tmp_path / "lake"
    labels = Labels(policy="last", max_delay=Duration(3600))
    made = archiver(writing.log, lake, labels=labels, now=lambda: now, clock=lambda: now)
    made.round()
    assert "pairs" not in made.manifest.counts
    now += 3500
    made.round()
    assert rows(lake, "SELECT row, outcome FROM pairs") == []
    now += 60
    made.round()
    assert rows(lake, "SELECT row, outcome FROM pairs") == [(0, "1")]


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_writer_that_stands_still_holds_back_what_may_be_later(tmp_path: Path, kind: str) -> None:
    writing = Writing(MemoryLog() if kind == "memory" else SegmentLog(tmp_path / "log"))
    slow = writing.appender(EVENTS, "gateway-1")
    span = writing.answer(3, writer="gateway-0")
    writing.shadow([span])
    writing.appender(results_stream("c"), "c").close()
    writing.appender(EVENTS, "gateway-0").close()
    made = archiver(writing.log, tmp_path / "lake")
    assert made.round() == 0
    slow.beat()
    assert made.round() == 6
    assert made.manifest.counts == {"events": 3, "results": 3}


def test_an_outcome_waits_for_events_that_may_be_earlier_and_no_longer(tmp_path: Path) -> None:
    writing = Writing(SegmentLog(tmp_path / "log"))
    slow = writing.appender(EVENTS, "gateway-1")
    writing.answer(1, writer="gateway-0")
    writing.happen([("r0", None, "1")])
    writing.appender(OUTCOMES, "gateway-0").close()
    made = archiver(writing.log, tmp_path / "lake")
    slow.beat()
    made.round()
    assert made.manifest.counts == {"events": 1}, "gateway-0 may still have an event before the outcome"
    writing.appender(EVENTS, "gateway-0").beat()
    made.round()
    assert made.manifest.counts["joined"] == 1


def test_texts_that_parquet_cannot_hold_stop_nothing(writing: Writing, tmp_path: Path) -> None:
    writing.answer(2)
    writing.happen([("r0", None, "1"), ("half \ud800 pair", None, "1")])
    writing.close()
    archive(writing.log, tmp_path / "lake")
    assert rows(tmp_path / "lake", "SELECT request_id FROM outcomes") == [("r0",), ("half ? pair",)]


def test_a_challenger_that_stands_still_holds_up_nobody_else(tmp_path: Path) -> None:
    writing = Writing(MemoryLog())
    writing.appender(results_stream("hung"), "hung")
    span = writing.answer(3)
    writing.shadow([span])
    writing.happen([("r0", None, "1")])
    for key, appender in writing.appenders.items():
        if key[1] != "hung":
            appender.close()  # type: ignore[attr-defined]
    archive(writing.log, tmp_path / "lake")
    assert len(contents(tmp_path / "lake")["pairs"]) == 1


class Killed(BaseException):
    """kill -9, as far as one process can have it."""


@pytest.mark.parametrize("moment", ["before the commit", "after the commit", "after the first file"])
def test_a_crash_anywhere_in_a_round_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    writing = Writing(SegmentLog(tmp_path / "log", segment_bytes=4000))
    writing.mixed(25)
    writing.close()
    archive(writing.log, tmp_path / "whole")
    lake = tmp_path / "lake"
    victim = "_write" if moment == "after the first file" else "commit"
    real = getattr(Change, victim)

    def dies(*arguments: object) -> None:
        if moment != "before the commit":
            real(*arguments)
        raise Killed

    crashes = 0
    while True:
        made = archiver(writing.log, lake, rows=120, tidy_seconds=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(Change, "abandon", lambda _: None)  # the dead tidy up nothing
            patch.setattr(Change, victim, dies)
            with contextlib.suppress(Killed):
                made.round()
        crashes += 1
        if not archiver(writing.log, lake, rows=120, tidy_seconds=0.0).round():
            break
    assert crashes > 2
    assert contents(lake) == contents(tmp_path / "whole")
    made = archiver(writing.log, lake)
    made.round()
    there = {str(path.relative_to(lake)) for path in lake.rglob("*.parquet")}
    named = {file.path for files in made.manifest.files.values() for file in files}
    assert there == named | {each.path for each in made.manifest.dropped}


def test_a_full_disk_is_told_and_archiving_goes_on_later(
    writing: Writing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing.mixed(20)
    writing.close()
    archive(writing.log, tmp_path / "whole")
    lake = tmp_path / "lake"
    made = archiver(writing.log, lake, rows=100)
    made.round()
    before = set(lake.rglob("*.parquet"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    victims = ("os.fsync", "shadow_mlops.lake.changes.replace_durably", "shadow_mlops.lake.changes.pq.ParquetWriter")
    for victim in victims:
        with monkeypatch.context() as patch:
            patch.setattr(victim, full)
            with pytest.raises(LakeError, match="No space left"):
                made.round()
        assert set(lake.rglob("*.parquet")) == before
        assert read_manifest(lake).number == made.manifest.number
    while made.round():
        pass
    assert contents(lake) == contents(tmp_path / "whole")


def test_a_commit_that_cannot_be_made_durable_keeps_its_files(
    writing: Writing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing.answer(3)
    writing.close()
    made = archiver(writing.log, tmp_path / "lake")
    real = Change._publish

    def renamed_only(change: Change, manifest) -> None:
        real(change, manifest)
        if manifest.files:
            raise LakeError("the folder cannot be synced")

    with monkeypatch.context() as patch:
        patch.setattr(Change, "_publish", renamed_only)
        with pytest.raises(LakeError):
            made.round()
    assert made.round() == 0
    assert len(contents(tmp_path / "lake")["events"]) == 3


@pytest.mark.parametrize("damage", ["{", '{"format": 99}', None])
def test_a_damaged_manifest_stops_the_archive_with_one_clear_line(
    writing: Writing, tmp_path: Path, damage: str | None
) -> None:
    writing.answer(3)
    lake = tmp_path / "lake"
    writing.appender(EVENTS, "gateway-0").beat()
    archive(writing.log, lake)
    manifest = lake / "manifest.json"
    good = manifest.read_bytes()
    files = set(lake.rglob("*.parquet"))
    if damage is None:
        manifest.unlink()
    else:
        manifest.write_text(damage)
    made = archiver(writing.log, lake)
    for _ in range(2):
        with pytest.raises(LakeError, match=r"manifest\.json .*(restore it|newer version)"):
            made.round()
    assert set(lake.rglob("*.parquet")) == files
    manifest.write_bytes(good)
    writing.answer(2)
    writing.close()
    assert made.round() == 2
    assert len(contents(lake)["events"]) == 5


def test_rows_that_retention_took_first_are_counted(tmp_path: Path) -> None:
    log = MemoryLog()
    writing = Writing(log)
    made = archiver(log, tmp_path / "lake")
    made.round()
    span = writing.answer(4)
    writing.shadow([span])
    writing.close()
    log.retire(span.segment)
    while made.round():
        pass
    counts = made.manifest.counts
    assert (counts["lost_events"], counts["orphaned_results"]) == (4, 4)
    assert "results" not in counts


def test_what_was_removed_before_there_was_a_lake_is_nobodys_loss(tmp_path: Path) -> None:
    log = MemoryLog()
    writing = Writing(log)
    old = writing.answer(4, writer="gateway-0")
    writing.close()
    log.retire(old.segment)
    new = writing.answer(3, writer="gateway-1")
    made = archiver(log, tmp_path / "lake")
    assert made.round() == 3
    assert made.positions() == {EVENTS: {old.segment: 4, new.segment: 3}}, "its tombstone may be forgotten"
    assert made.manifest.counts == {"events": 3}


def test_positions_of_segments_that_the_log_forgot_are_forgotten(tmp_path: Path) -> None:
    log = MemoryLog()
    writing = Writing(log)
    span = writing.answer(4)
    writing.close()
    made = archive(log, tmp_path / "lake", tidy_seconds=0.0)
    assert made.positions() == {EVENTS: {span.segment: 4}}
    log.retire(span.segment)
    log.forget(span.segment)
    made.round()
    assert made.positions() == {}


def test_duckdb_alone_reads_the_lake(writing: Writing, tmp_path: Path) -> None:
    import duckdb

    writing.mixed(20)
    writing.close()
    lake = tmp_path / "lake"
    archive(writing.log, lake)
    query = f"""
        SET VARIABLE files = (SELECT list('{lake}/' || f.path) FROM (
            SELECT unnest(files.events) AS f FROM read_json('{lake}/manifest.json', maximum_object_size = 1000000000)
        ));
        SELECT count(*) FROM read_parquet(getvariable('files'), union_by_name = true);
    """
    assert duckdb.connect().execute(query).fetchall() == [(len(writing.events),)]


def test_the_views_are_typed_where_there_is_nothing_and_paths_may_hold_anything(tmp_path: Path) -> None:
    lake = tmp_path / "it's [1] *" / "lake"
    empty = connect(lake)
    kinds = dict(row[:2] for row in empty.execute("DESCRIBE pairs").fetchall())
    assert (kinds["time"], kinds["scores"]) == ("TIMESTAMP WITH TIME ZONE", "DOUBLE[]")
    writing = Writing(MemoryLog())
    writing.answer(3, days=1)
    writing.close()
    archive(writing.log, lake)
    assert rows(lake, "SELECT count(*), epoch_us(min(time)) FROM events") == [(3, NOW_US - DAY_US)]


def test_sides_that_alternate_in_a_canary_step_stay_in_the_order_of_the_log(tmp_path: Path) -> None:
    log = MemoryLog()
    writing = Writing(log)
    for turn in range(60):
        writing.shadow([writing.answer(2)], version="c-1" if turn % 2 else "champion-0")
    writing.close()
    archive(log, tmp_path / "whole")
    archive(log, tmp_path / "parted", rows=7)
    order = "SELECT result_row, version FROM results"
    found = rows(tmp_path / "whole", order)
    assert [row for row, _ in found] == list(range(120))
    assert {version for _, version in found} == {"c-1", "champion-0"}
    assert rows(tmp_path / "parted", order) == found


def test_a_round_asks_once_for_each_version_not_for_each_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    writing = Writing(log)
    for turn in range(40):
        writing.shadow([writing.answer(1)], version="c-1" if turn % 2 else "champion-0")
    writing.close()
    asked: list[str] = []
    join = Champions.join

    def counted(self, connection, piece, manifest):
        asked.append(piece.schema.version)
        return join(self, connection, piece, manifest)

    monkeypatch.setattr(Champions, "join", counted)
    archive(log, tmp_path / "lake")
    assert sorted(asked) == ["c-1", "champion-0"]
