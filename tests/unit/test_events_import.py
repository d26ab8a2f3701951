"""``shadow events import`` as a user runs it: what reaches the log, and what is said of a wrong file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reporting import FEATURES, Console
from shadow_mlops.cli.app import app
from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.errors import ImportFileError, ShadowError, UnavailableError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog import EventBatch, Frame
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    Console(tmp_path).intake.close()
    return tmp_path


def run(data_dir: Path, *arguments: object) -> dict[str, Any]:
    (data_dir / "shadow.yaml").write_text("name: churn\nentity: customer_id\n")
    options = ["--deployment", data_dir / "shadow.yaml", "--data-dir", data_dir, "--format", "json"]
    done = CliRunner().invoke(app, ["events", "import", *map(str, [*arguments, *options])])
    if isinstance(done.exception, ShadowError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def logged(data_dir: Path) -> list[EventBatch]:
    tail = SegmentLog(data_dir / "log").tail(EVENTS)
    found = []
    while items := tail.poll(10**6):
        found += [item.batch for item in items if isinstance(item, Frame)]
    return found


def event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "time": (MOMENT + timedelta(seconds=number)).isoformat(),
        "features": FEATURES,
        "score": 0.25,
        "version": "2.1.0",
        **more,
    }


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_are_imported_once(data_dir: Path) -> None:
    file = lines(data_dir / "events.ndjson", [event(i) for i in range(3000)])
    assert run(data_dir, file)["imported"] == 3000
    again = run(data_dir, file)
    assert (again["imported"], again["recorded"]) == (0, 3000)
    longer = lines(data_dir / "events.ndjson", [event(i) for i in (*range(3010), 5, 3009)])
    more = run(data_dir, longer)
    assert (more["imported"], more["recorded"]) == (10, 3002)
    ids = [each for batch in logged(data_dir) for each in batch.request_ids]
    assert ids == [f"r{i}" for i in range(3010)]


def test_what_only_the_lake_has_is_left_out_too(data_dir: Path) -> None:
    file = lines(data_dir / "events.jsonl", [event(i) for i in range(20)])
    run(data_dir, file)
    archiver = Archiver(SegmentLog(data_dir / "log"), data_dir / "lake", labels=Labels(), retain_days=4000)
    while archiver.round():
        pass
    archiver.close()
    retention = Retention(data_dir / "log")
    for info in retention.segments(EVENTS):
        retention.retire(info)
    assert (run(data_dir, file)["imported"], logged(data_dir)) == (0, [])


def test_parquet_has_a_column_for_each_feature(data_dir: Path) -> None:
    count = 2500
    table = pa.table(
        {
            "request_id": list(range(count)),
            "time": pa.array([1_769_860_800_000_000_123] * count, pa.timestamp("ns")),
            "customer_id": [f"CUST-{i}" for i in range(count)],
            "score": pa.array([0.25] * count, pa.float32()),
            "tenure": pa.array([12] * count, pa.int16()),
            "plan": pa.array(["gold", None] * (count // 2)).dictionary_encode(),
            "charges": [float("nan"), 70.5] * (count // 2),
        }
    )
    pq.write_table(table, data_dir / "events.parquet")
    assert run(data_dir, data_dir / "events.parquet", "--version", "7.0")["imported"] == count
    batches = logged(data_dir)
    assert {batch.schema.version for batch in batches} == {"7.0"}
    assert [each for batch in batches for each in batch.request_ids] == [str(i) for i in range(count)]
    assert {int(time) for batch in batches for time in batch.times} == {1_769_860_800_000_000}
    assert batches[0].entities[:2] == ["CUST-0", "CUST-1"]
    np.testing.assert_array_equal(batches[0].numbers[:2], [[12, np.nan], [12, 70.5]])
    assert batches[0].strings[:2].tolist() == [["gold"], [None]]
    np.testing.assert_allclose(batches[0].scores[0], [0.75, 0.25])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("time", pa.array([1, 10**15, 10**15], pa.timestamp("s"))),
        ("time", pa.array([1, 2**62, 1], pa.timestamp("us", "UTC"))),
        ("time", pa.array([1, 2**31 - 1, 1], pa.date32())),
        ("plan", pa.StringArray.from_buffers(3, *pa.array([b"a", b"\xff", b"b"], pa.binary()).buffers()[1:])),
    ],
)
def test_values_of_parquet_that_cannot_be_read_are_named(data_dir: Path, column: str, values: pa.Array) -> None:
    table = {
        "request_id": ["a", "b", "c"],
        "score": [0.5] * 3,
        "tenure": [1] * 3,
        "plan": ["x"] * 3,
        "charges": [1.0] * 3,
    }
    pq.write_table(pa.table({**table, column: values}), data_dir / "events.parquet")
    with pytest.raises(ImportFileError, match=f"row 2, column '{column}': it is no .* nothing was imported"):
        run(data_dir, data_dir / "events.parquet", "--version", "1")
    assert logged(data_dir) == []


def test_lines_may_be_cloudevents(data_dir: Path) -> None:
    def half(kind: str, key: str, data: object) -> dict[str, object]:
        kind = f"org.kubeflow.serving.inference.{kind}"
        return {"specversion": "1.0", "id": key, "source": "s", "type": kind, "time": MOMENT.isoformat(), "data": data}

    rows = [half("response", f"c{i}", {"predictions": [i % 2]}) for i in range(50)]
    rows += [half("request", f"c{i}", {"instances": [FEATURES]}) for i in range(40)]
    said = run(data_dir, lines(data_dir / "logger.ndjson", [*rows, event(1)]))
    assert (said["imported"], said["unpaired"]) == (41, 10)
    scores = np.concatenate([batch.scores for batch in logged(data_dir)])
    assert sorted(scores[:, 1].tolist()) == [0.0] * 20 + [0.25] + [1.0] * 20


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (event(1, score=3.0), r"row 2301, 'score': must be a probability from 0 to 1; nothing was imported"),
        (
            event(1, features={**FEATURES, "tenur": 1}),
            r"row 2301, 'features.tenur': unknown field; did you mean `tenure`",
        ),
        ({k: v for k, v in event(1).items() if k != "version"}, r"row 2301: .*`version` \(or give --version\)"),
        ("no object", r"row 2301: Expected `object`"),
    ],
)
def test_of_a_wrong_file_nothing_is_imported(data_dir: Path, row: Any, said: str) -> None:
    file = lines(data_dir / "events.ndjson", [*[event(i) for i in range(2300)], row, event(2302)])
    with pytest.raises(ImportFileError, match=said):
        run(data_dir, file)
    assert logged(data_dir) == []


def test_files_that_are_none_and_models_that_nobody_knows(data_dir: Path) -> None:
    (data_dir / "x.parquet").write_text("no")
    with pytest.raises(ImportFileError, match="cannot be read as Parquet"):
        run(data_dir, data_dir / "x.parquet")
    with pytest.raises(ImportFileError, match="cannot be read"):
        run(data_dir, data_dir / "absent.ndjson")
    (data_dir / "x.ndjson").write_text("{")
    with pytest.raises(ImportFileError, match="row 1 is not valid JSON"):
        run(data_dir, data_dir / "x.ndjson")
    (data_dir / "serving.json").unlink()
    with pytest.raises(UnavailableError, match="alias champion"):
        run(data_dir, lines(data_dir / "events.ndjson", [event(1)]))
