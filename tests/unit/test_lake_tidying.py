"""Compaction, retention and sweeping: fewer files, the same rows in the same order, and nothing taken from a reader."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakelogs import BINARY, DAY_US, NOW_US, WIDER, Writing, archiver, contents, rows
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.lake.changes import GRACE_SECONDS, ROW_GROUP, Change
from shadow_mlops.lake.compaction import LARGE, Merge, merged, merges
from shadow_mlops.lake.manifest import DataFile, Manifest, read_manifest
from shadow_mlops.lake.queries import spill_folder
from shadow_mlops.lake.sweeping import sweep
from shadow_mlops.lake.tables import SCHEMAS


class Lake:
    """A log that is archived round by round, on a clock of its own."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.lake = folder / "lake"
        self.writing = Writing(MemoryLog())
        self.now = NOW_US / 1e6
        self.clock = 0.0
        self.archiver = archiver(
            self.writing.log, self.lake, tidy_seconds=0.0, now=lambda: self.now, clock=lambda: self.clock, **options
        )

    def round(self, n: int = 3, **options: object) -> None:
        self.writing.answer(n, **options)  # type: ignore[arg-type]
        self.archiver.round()

    def pass_days(self, days: float) -> None:
        """Let time pass by both clocks."""
        self.now += days * 86400
        self.clock += days * 86400

    def files(self) -> tuple[DataFile, ...]:
        return self.archiver.manifest.files["events"]

    def on_disk(self) -> set[str]:
        return {str(path.relative_to(self.lake)) for path in self.lake.rglob("*.parquet")}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_small_files_are_merged_and_the_order_stays(lake: Lake) -> None:
    for i in range(30):
        lake.round(4, schema=BINARY if i < 15 else WIDER)
    assert len(lake.files()) < 12
    found = rows(lake.lake, "SELECT segment, row FROM events")
    assert found == [(segment, row) for segment, row, _, _ in lake.writing.events]
    assert rows(lake.lake, "SELECT count(n_a), count(n_b), count(n_c), count(s_t) FROM events") == [
        (60, 60, 60, 60),
    ]  # fmt: skip


def test_what_was_merged_can_be_read_for_ten_minutes_more(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadow_mlops.lake.changes.time.time", lambda: lake.now)
    lake.clock = 7.0
    for _ in range(9):
        lake.round()
    older = {each.path for each in lake.archiver.manifest.dropped}
    assert len(older) == 8
    assert older <= lake.on_disk()
    lake.now += 3600  # the wall clock steps
    lake.round()
    lake.clock += GRACE_SECONDS - 1
    lake.round()
    assert older <= lake.on_disk()
    lake.clock += 2
    lake.round()
    assert not older & lake.on_disk()
    assert not older & {each.path for each in lake.archiver.manifest.dropped}


def test_days_that_are_over_end_up_in_few_files(lake: Lake) -> None:
    for _ in range(7):
        lake.round(days=1)
    lake.writing.close()
    lake.now += 2 * 86400
    for _ in range(10):
        lake.archiver.round()
    assert len(lake.files()) == 1


def test_rows_past_their_days_are_dropped(tmp_path: Path) -> None:
    lake = Lake(tmp_path, retain_days=100)
    lake.round(days=95)
    lake.round(days=1)
    lake.pass_days(3)
    lake.round()
    assert rows(lake.lake, "SELECT count(*) FROM events") == [(9,)]
    lake.pass_days(4)
    lake.round()
    assert rows(lake.lake, "SELECT count(*), epoch_us(min(time)) FROM events") == [(9, NOW_US - DAY_US + 3)]
    assert lake.archiver.manifest.counts["events"] == 12
    assert lake.archiver.positions()["events"], "what was dropped must not be archived again"


def test_a_clock_that_jumps_ahead_drops_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path, retain_days=100)
    lake.round(days=95)
    lake.now += 5000 * 86400
    lake.archiver.round()
    assert rows(lake.lake, "SELECT count(*) FROM events") == [(3,)]


def test_labels_that_may_still_come_keep_their_events(tmp_path: Path) -> None:
    lake = Lake(tmp_path, retain_days=1)
    lake.round(days=80)
    lake.round()
    assert rows(lake.lake, "SELECT count(*) FROM events") == [(6,)], "max_delay is 90 days"


def test_a_file_that_cannot_be_read_stops_no_archiving(lake: Lake) -> None:
    for _ in range(7):
        lake.round()
    (lake.lake / lake.files()[3].path).write_bytes(b"PAR1 is not enough")
    for _ in range(5):
        lake.round()
    assert lake.archiver.manifest.counts["events"] == 36
    assert len(lake.files()) == 12


def test_merging_takes_one_row_group_at_a_time_into_memory(tmp_path: Path) -> None:
    change = Change(tmp_path, Manifest())
    for i in range(3):
        change.add("outcomes", _outcomes(ROW_GROUP, first=i * ROW_GROUP))
    manifest = change.commit()
    files = manifest.files["outcomes"]
    sizes = [len(batch) for batch in merged(tmp_path, Merge("outcomes", files))]
    assert sizes == [ROW_GROUP] * 3
    change = Change(tmp_path, manifest)
    change.replace("outcomes", files, merged(tmp_path, Merge("outcomes", files)))
    (file,) = change.commit().files["outcomes"]
    assert file.rows == 3 * ROW_GROUP
    assert pq.ParquetFile(tmp_path / file.path).num_row_groups == 3
    assert rows(tmp_path, "SELECT count(*) FROM (SELECT row, lag(row) OVER () AS before FROM outcomes) WHERE row <= before") == [(0,)]  # noqa: E501  # fmt: skip


def test_a_row_is_rewritten_a_logarithmic_number_of_times() -> None:
    files: list[DataFile] = []
    rewritten = 0
    for i in range(4000):
        files.append(DataFile(str(i), 1000, 1, "2027-01-15", 0, 0))
        for merge in merges(Manifest(files={"events": tuple(files)}), today="2027-01-15"):
            place = files.index(merge.files[0])
            assert tuple(files[place : place + len(merge.files)]) == merge.files, "not neighbours"
            files[place : place + len(merge.files)] = [DataFile(f"m{i}", merge.rows, 1, "2027-01-15", 0, 0)]
            rewritten += merge.rows
    assert sum(file.rows for file in files) == 4_000_000
    assert len(files) < 30
    assert rewritten < 12 * 4_000_000
    assert max(file.rows for file in files) <= 2 * LARGE


def test_orphans_go_and_what_a_running_change_has_written_stays(lake: Lake) -> None:
    lake.round()
    manifest = lake.archiver.manifest
    abandoned = Change(lake.lake, manifest)
    abandoned.add("outcomes", _outcomes(3))
    past = time.time() - 100
    for path in (lake.lake / "outcomes").rglob("*.parquet"):
        os.utime(path, (past, past))
    (lake.lake / ".manifest.json.123").write_text("half a manif")
    os.utime(lake.lake / ".manifest.json.123", (past, past))
    running = Change(lake.lake, manifest)
    running.add("outcomes", _outcomes(3))
    assert sweep(lake.lake, manifest, before=running.began) == 2
    assert running.commit().rows("outcomes") == 3
    assert len(contents(lake.lake)["outcomes"]) == 3
    assert len(contents(lake.lake)["events"]) == 3


def test_what_killed_queries_have_spilled_goes_and_the_open_connections_folder_stays(lake: Lake) -> None:
    lake.writing.shadow([lake.writing.answer(3)])
    lake.archiver.round()
    own = spill_folder(lake.archiver._connection())
    killed, recent = (own.parent / name for name in ("1-killed", "1-recent"))
    past = time.time() - 2 * 86400
    for folder in (own, killed, recent):
        folder.mkdir()
        (folder / "duckdb_temp_block-0.block").write_bytes(b"spilled")
    for folder in (own, killed):
        os.utime(folder, (past, past))
    lake.clock += 7200
    lake.round()
    assert sorted(own.parent.iterdir()) == sorted([own, recent])


def test_a_change_writes_one_file_per_day_and_refuses_what_is_no_row_of_the_table(tmp_path: Path) -> None:
    change = Change(tmp_path, Manifest())
    data = pa.concat_tables([_outcomes(2), _outcomes(3, days=2), _outcomes(1)])
    change.add("outcomes", data)
    assert read_manifest(tmp_path).files == {}, "visible before the commit"
    manifest = change.commit()
    assert [(file.date, file.rows) for file in manifest.files["outcomes"]] == [("2027-01-13", 3), ("2027-01-15", 3)]
    with pytest.raises(ValueError, match=r"lack the columns \['label'\]"):
        Change(tmp_path, manifest).add("outcomes", data.drop_columns(["label"]))
    with pytest.raises(ValueError, match="not a file of events"):
        Change(tmp_path, manifest).drop("events", manifest.files["outcomes"])
    change = Change(tmp_path, manifest)
    change.drop("outcomes", manifest.files["outcomes"][:1])
    assert change.commit().rows("outcomes") == 3


def _outcomes(n: int, *, first: int = 0, days: int = 0) -> pa.Table:
    columns = {
        "segment": [7] * n,
        "row": list(range(first, first + n)),
        "boot": [1] * n,
        "monotonic_ns": [1] * n,
        "received": [NOW_US - days * DAY_US] * n,
        "time": [None] * n,
        "label": ["1"] * n,
        "request_id": ["r"] * n,
        "entity": [None] * n,
    }
    return pa.table(columns).cast(SCHEMAS["outcomes"])
