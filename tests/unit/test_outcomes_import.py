"""``shadow outcomes import`` as a user runs it: what reaches the log, and what is said of a wrong file."""

from __future__ import annotations

import fcntl
import gzip
import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from logrows import events, read_all, schema
from shadow_mlops.cli.app import app
from shadow_mlops.cli.outcomefiles import OutcomeFile
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.errors import ImportFileError, ShadowError, UnavailableError
from shadow_mlops.domain.events import EVENTS, OUTCOMES
from shadow_mlops.eventlog.records import NO_TIME
from shadow_mlops.eventlog.segments import SegmentLog

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def run(data_dir: Path, *arguments: object) -> Any:
    (data_dir / "shadow.yaml").write_text("name: churn\n")
    options = ["--deployment", data_dir / "shadow.yaml", "--data-dir", data_dir]
    done = CliRunner().invoke(app, ["outcomes", "import", *map(str, [*arguments, *options])])
    if isinstance(done.exception, ShadowError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def logged(data_dir: Path) -> list[tuple[str | None, str | None, int, str]]:
    """(request id, entity, time, label) of every outcome in the log."""
    rows = []
    for item in read_all(SegmentLog(data_dir / "log").tail(OUTCOMES)):
        batch = item.batch
        none = [None] * len(batch)
        ids, entities = batch.request_ids or none, batch.entities or none
        rows += zip(ids, entities, batch.times.tolist(), batch.labels, strict=True)
    return rows


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_csv_by_request_id_keeps_texts_as_they_are_written(tmp_path: Path) -> None:
    file = written(tmp_path / "labels.csv", "request_id,note,label\n007,x,1\n1e5,y,No\nr-3,,1.0\n")
    assert "imported  3 outcomes" in run(tmp_path, file, "--no-wait").stdout
    assert logged(tmp_path) == [
        ("007", None, NO_TIME, "1"),
        ("1e5", None, NO_TIME, "No"),
        ("r-3", None, NO_TIME, "1.0"),
    ]


def test_csv_by_entity_takes_rfc_3339_and_plain_utc_times(tmp_path: Path) -> None:
    times = {
        "2026-01-31T12:00:00Z": MOMENT,
        "2026-01-31t12:00:00.25z": MOMENT + timedelta(milliseconds=250),
        "2026-01-31T12:00:00+05:30": MOMENT.replace(tzinfo=timezone(timedelta(hours=5, minutes=30))),
        "2026-01-31 12:00": MOMENT,
        "2026-01-31 12:00:00.123456789": MOMENT + timedelta(microseconds=123456),
        "2026-01-31": MOMENT - timedelta(hours=12),
    }
    lines = "".join(f"7,{text},yes\n" for text in times)
    file = written(tmp_path / "labels.csv", "who,when,churned\n" + lines)
    run(tmp_path, file, "--no-wait", "--entity", "who", "--time", "when", "--label", "churned")
    assert logged(tmp_path) == [(None, "7", microseconds(moment), "yes") for moment in times.values()]


def test_compressed_and_tab_separated_files(tmp_path: Path) -> None:
    file = tmp_path / "labels.tsv.gz"
    file.write_bytes(gzip.compress(b"request_id\tlabel\na\t1\nb\t0\n"))
    run(tmp_path, file, "--no-wait")
    assert [row[0] for row in logged(tmp_path)] == ["a", "b"]


def test_parquet_values_become_the_texts_that_the_route_would_have_logged(tmp_path: Path) -> None:
    table = {"request_id": pa.array([1, 2, 3, 4]), "label": pa.array([1.0, 0.0, 2.5, 1e300])}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    table = {
        "entity": pa.array(["x", "y"]).dictionary_encode(),
        "time": pa.array([MOMENT, MOMENT], pa.timestamp("ns", "Europe/Berlin")),
        "label": pa.array([True, False]),
    }
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    table = {
        "entity": pa.array([5]),
        "time": pa.array([MOMENT.date()], pa.date32()),
        "label": pa.array(["yes"], pa.large_string()),
    }
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    for name in "abc":
        run(tmp_path, tmp_path / f"{name}.parquet", "--no-wait")
    at = microseconds(MOMENT)
    assert logged(tmp_path) == [
        ("1", None, NO_TIME, "1"),
        ("2", None, NO_TIME, "0"),
        ("3", None, NO_TIME, "2.5"),
        ("4", None, NO_TIME, "1e+300"),
        (None, "x", at, "1"),
        (None, "y", at, "0"),
        (None, "5", microseconds(MOMENT - timedelta(hours=12)), "yes"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request_id,label\na,1\nb,\nc,\n", r"row 2, column 'label': it is blank; nothing was imported"),
        ("request_id,label\na,1\n ,1\n", r"row 2, column 'request_id': it is blank"),
        (f"request_id,label\n{'a' * 257},1\n", r"row 1, column 'request_id': .* more than 256"),
        ("entity,time,label\na,2026-01-31,1\nb,31.1.2026,1\n", r"row 2, column 'time': it is no time; write 2026-"),
        ("entity,time,label\na,2026-01-31,1\nb,2026-02-30,1\n", r"row 2, column 'time': it is no time"),
        ("entity,time,label\na,2026-01-31,1\nb,,1\n", r"row 2, column 'time': it is blank"),
        ("request_id,label\na,1\nb\n", r"cannot be read as CSV: .*Expected 2 columns, got 1"),
        ("id,label\na,1\n", r"lacks the column 'entity', 'time' \(it has id, label\).*--request-id"),
        ("request_id,label,label\na,1,2\n", "stand more than once: label"),
        ("", "cannot be read as CSV: Empty CSV file"),
    ],
)
def test_a_wrong_file_is_refused_with_row_and_column_and_nothing_is_logged(
    tmp_path: Path, text: str, message: str
) -> None:
    file = written(tmp_path / "labels.csv", text)
    with pytest.raises(ImportFileError, match=message):
        run(tmp_path, file, "--no-wait")
    assert logged(tmp_path) == []


def test_a_wrong_row_far_down_has_its_number(tmp_path: Path) -> None:
    ids = [f"r{i}" for i in range(120_000)]
    ids[110_000] = ""
    pq.write_table(pa.table({"request_id": ids, "label": [1] * len(ids)}), tmp_path / "labels.parquet")
    with pytest.raises(ImportFileError, match="row 110001, column 'request_id'"):
        list(OutcomeFile(tmp_path / "labels.parquet").rows())


def test_parquet_columns_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    table = {"request_id": ["a"], "label": [[1]]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    table = {"entity": ["a"], "time": [1_700_000_000], "label": [1]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    with pytest.raises(ImportFileError, match="column 'label' holds list"):
        run(tmp_path, tmp_path / "a.parquet", "--no-wait")
    with pytest.raises(ImportFileError, match="column 'time' holds int64; expected times"):
        run(tmp_path, tmp_path / "b.parquet", "--no-wait")


def not_utf8(*values: bytes) -> pa.Array:
    """Texts as a careless writer of Parquet leaves them."""
    _, offsets, data = pa.array(values, pa.binary()).buffers()
    return pa.StringArray.from_buffers(len(values), offsets, data)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("time", pa.array([1, 10**15, 2], pa.timestamp("s")), "row 2, column 'time': .* between the years 1 and 9999"),
        ("time", pa.array([1, 2, 2**62], pa.timestamp("ms", "UTC")), "row 3, column 'time': .* the years 1 and 9999"),
        ("time", pa.array([1, 2, 2**63 - 1], pa.timestamp("us")), "row 3, column 'time': .* the years 1 and 9999"),
        ("time", pa.array([1, 2**31 - 1, 2**31 - 1], pa.date32()), "row 2, column 'time': .* the years 1 and 9999"),
        ("time", pa.array([1, 10**15, 1], pa.timestamp("s")).dictionary_encode(), "row 2, column 'time'"),
        ("time", pa.array([1, 2, 3], pa.time32("s")), "column 'time' holds time32"),
        ("time", pa.array([{"at": 1}] * 3), "column 'time' holds struct"),
        ("time", not_utf8(b"2026-01-31", b"2026-01-31", b"\xff"), "row 3, column 'time': .* text in UTF-8"),
        ("label", not_utf8(b"1", b"\xff", b"\xfe"), "row 2, column 'label': .* write the column as text in UTF-8"),
        ("label", pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())), "column 'label' holds map"),
        ("label", pa.array([b"1"] * 3), "column 'label' holds binary; expected text"),
    ],
)
def test_values_that_arrow_does_not_take_are_refused_with_row_and_column(
    tmp_path: Path, column: str, values: pa.Array, message: str
) -> None:
    table = {"entity": ["a", "b", "c"], "time": pa.array([MOMENT] * 3, pa.timestamp("us", "UTC")), "label": [1, 0, 1]}
    pq.write_table(pa.table({**table, column: values}), tmp_path / "labels.parquet")
    with pytest.raises(ImportFileError, match=message):
        run(tmp_path, tmp_path / "labels.parquet", "--no-wait")
    assert logged(tmp_path) == []


def test_decimals_keep_every_digit(tmp_path: Path) -> None:
    numbers = ["12345678901234567890.00", "100.00", "0.50"]
    decimals = pa.array(map(Decimal, numbers), pa.decimal128(38, 2))
    pq.write_table(pa.table({"request_id": decimals, "label": decimals}), tmp_path / "labels.parquet")
    run(tmp_path, tmp_path / "labels.parquet", "--no-wait")
    texts = ["12345678901234567890", "100", "0.5"]
    assert [(row[0], row[3]) for row in logged(tmp_path)] == list(zip(texts, texts, strict=True))


def test_without_a_monitor_the_outcomes_are_in_the_log_and_that_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, written(tmp_path / "labels.csv", "request_id,label\na,1\n"))
    assert "joined when the monitor comes to them" in done.stdout
    assert "no monitor runs" in done.stderr
    assert len(logged(tmp_path)) == 1


@contextmanager
def monitor_lock(data_dir: Path) -> Any:
    (data_dir / "run").mkdir(exist_ok=True)
    with (data_dir / "run" / "monitor.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def archiving(data_dir: Path) -> Any:
    """A thread that archives as the monitor does, while its lock is held."""
    from shadow_mlops.lake.archive import Archiver

    stop = threading.Event()
    archiver = Archiver(SegmentLog(data_dir / "log"), data_dir / "lake", labels=Labels(), retain_days=400)

    def rounds() -> None:
        while not stop.is_set():
            archiver.round()
            time.sleep(0.02)

    thread = threading.Thread(target=rounds)
    with monitor_lock(data_dir):
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_import_waits_until_its_outcomes_are_joined_and_again_changes_nothing(tmp_path: Path) -> None:
    appender = SegmentLog(tmp_path / "log").appender(EVENTS, writer="gateway-0")
    now = np.full(3, int(time.time() * 1e6))
    appender.append(events(["a", "b", "c"], of=schema(positive="1"), times=now))
    appender.close()
    file = written(tmp_path / "labels.csv", "request_id,label\na,1\nb,0\na,0\nz,1\nc,maybe\n")
    with archiving(tmp_path):
        first = json.loads(run(tmp_path, file, "--format", "json").stdout)
        second = json.loads(run(tmp_path, file, "--format", "json").stdout)
    names = ("outcomes", "archived", "joined", "repeated", "contradicting", "late", "invalid", "unmatched")
    assert [first[name] for name in names] == [5, True, 2, 0, 1, 0, 1, 1]
    assert [second[name] for name in names] == [5, True, 0, 2, 1, 0, 1, 1]


def test_an_import_does_not_wait_for_a_monitor_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shadow_mlops.cli import outcomes

    looks = iter([True, False])
    monkeypatch.setattr(outcomes, "monitor_runs", lambda _: next(looks))
    monkeypatch.setattr(outcomes, "_POLL_SECONDS", 0.001)
    with pytest.raises(UnavailableError, match="2 outcomes are in the log"):
        run(tmp_path, written(tmp_path / "labels.csv", "request_id,label\na,1\nb,0\n"))
    assert len(logged(tmp_path)) == 2
