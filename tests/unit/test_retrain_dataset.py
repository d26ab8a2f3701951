"""Recorded traffic as a training set: what clients sent, what the store had at the time, and labels that are final."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lakelogs import BINARY, NOW_US, Writing, archive
from shadow_mlops.domain.errors import DataRefusedError
from shadow_mlops.domain.events import EVENTS, Origin
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.features.memory import MemoryFeatures
from shadow_mlops.retraining.dataset import ENTITY, TARGET, Checks, newest_share, training_set

SCHEMA = msgspec.structs.replace(BINARY, numbers=("tenure", "charge"), strings=("plan",))
SIGNATURE = Signature((Feature("tenure", "integer"), Feature("charge"), Feature("plan", "string")))
HOUR_US = 3_600_000_000
NOW = datetime.fromtimestamp(NOW_US / 1e6 + 3600, UTC)
FEW = Checks(rows=1, rows_per_class=1)
REQUEST, STORE, DEFAULT, MISSING, FALLBACK, ABSENT = (int(each) for each in Origin)


def recorded(lake: Path, rows: list[tuple[str, float, float, str | None, list[int], str | None]]) -> Path:
    """Entity, tenure, charge, plan, origins, label: one event a minute."""
    log = MemoryLog()
    writing = Writing(log)
    n = len(rows)
    batch = EventBatch(
        schema=SCHEMA,
        times=NOW_US + np.arange(n) * 60_000_000,
        latencies=np.ones(n, dtype=np.uint32),
        request_ids=[f"r{i}" for i in range(n)],
        entities=[row[0] for row in rows],
        numbers=np.array([[row[1], row[2]] for row in rows]),
        strings=np.array([[row[3]] for row in rows], dtype=object),
        scores=np.full((n, 2), 0.5),
        origins=np.array([row[4] for row in rows], dtype=np.uint8),
    )
    writing.appender(EVENTS, "gateway-0").append(batch)
    labels = [(f"r{i}", None, row[5]) for i, row in enumerate(rows) if row[5] is not None]
    if labels:
        writing.happen(labels)
    writing.close()
    archive(log, lake, now=lambda: NOW_US / 1e6 + 3600)
    return lake


def store(**values: float) -> MemoryFeatures:
    kept = MemoryFeatures({"tenure": 90 * 24 * HOUR_US, "charge": 90 * 24 * HOUR_US, "plan": 90 * 24 * HOUR_US})
    for key, tenure in values.items():
        kept.write(key, time=NOW_US - HOUR_US, values={"tenure": tenure, "plan": "stored"})
        kept.write(key, time=NOW_US + 50 * HOUR_US, values={"tenure": 999, "plan": "future"})
    return kept


def test_what_was_sent_stays_and_the_rest_is_joined_as_of_its_time(tmp_path: Path):
    lake = recorded(tmp_path, [
        ("a", 1, 0.5, "sent", [REQUEST, REQUEST, REQUEST], "1"),
        ("a", 2, 0.5, "online", [STORE, REQUEST, STORE], "0"),
        ("a", 3, 0.5, "default", [DEFAULT, REQUEST, FALLBACK], "1"),
        ("b", 4, 0.5, "default", [DEFAULT, ABSENT, FALLBACK], "0"),
        ("a", np.nan, 0.5, None, [MISSING, REQUEST, MISSING], "1"),
        ("a", 6, 0.5, "unlabelled", [REQUEST, REQUEST, REQUEST], None),
    ])  # fmt: skip
    checks = Checks(rows=1, rows_per_class=1, fallback_share=0.5)
    made = training_set(lake, SIGNATURE, task="binary", store=lambda: store(a=24), now=NOW, checks=checks)
    assert made.table["tenure"].to_pylist() == [1, 24, 24, 4, None]
    assert made.table["plan"].to_pylist() == ["sent", "stored", "stored", "default", None]
    assert made.table[TARGET].to_pylist() == [1, 0, 1, 0, 1]
    assert made.table[ENTITY].to_pylist() == ["a", "a", "a", "b", "a"]
    assert made.joined == {"tenure": 2, "charge": 0, "plan": 2}
    assert [str(made.table.schema.field(name).type) for name in SIGNATURE.names] == ["int64", "double", "string"]


def test_a_store_is_not_opened_where_clients_sent_everything(tmp_path: Path):
    sent = [("a", 1.0, 0.5, "x", [REQUEST] * 3, str(n % 2)) for n in range(4)]
    made = training_set(
        recorded(tmp_path, sent), SIGNATURE, task="binary", store=lambda: pytest.fail("opened"), now=NOW, checks=FEW
    )
    assert made.table.num_rows == 4


def test_the_newest_rows_of_the_span_are_taken(tmp_path: Path):
    lake = recorded(tmp_path, [("a", float(n), 0.5, "x", [REQUEST] * 3, str(n % 2)) for n in range(10)])

    def tenures(**span) -> list[int]:
        found = training_set(lake, SIGNATURE, task="binary", store=None, now=NOW, checks=FEW, **span)
        return found.table["tenure"].to_pylist()

    at = [datetime.fromtimestamp(NOW_US / 1e6 + 60 * n, UTC) for n in range(10)]
    assert tenures() == list(range(10))
    assert tenures(most_rows=4) == [6, 7, 8, 9]
    assert tenures(since=at[3], until=at[6]) == [3, 4, 5]


def test_the_newest_share_is_of_the_labelled_events(tmp_path: Path):
    # eight minutes, the last four without a label: half of the labelled ones are two
    rows = [("a", 1.0, 1.0, "x", [REQUEST] * 3, "1" if minute < 4 else None) for minute in range(8)]
    lake = recorded(tmp_path, rows)
    assert newest_share(lake, 0.5, now=NOW) == datetime.fromtimestamp(NOW_US / 1e6 + 60, UTC)
    later = datetime.fromtimestamp(NOW_US / 1e6 + 120, UTC)
    assert newest_share(lake, 0.01, now=NOW) == datetime.fromtimestamp(NOW_US / 1e6 + 180, UTC)
    assert newest_share(lake, 0.9, since=later, now=NOW) == later
    with pytest.raises(DataRefusedError, match="no labelled event"):
        newest_share(lake, 0.5, since=later, until=later, now=NOW)


@pytest.mark.parametrize(
    ("rows", "checks", "words"),
    [
        ([], FEW, "no event is archived"),
        ([("a", 1.0, 0.5, "x", [REQUEST] * 3, "1")] * 5, FEW, "every label is 1"),
        ([("a", 1.0, 0.5, "x", [REQUEST] * 3, str(int(n > 1))) for n in range(20)], Checks(rows=10, rows_per_class=5),
         "class 0 has 2"),
        ([("a", np.nan, 0.5, "x", [MISSING, REQUEST, REQUEST], str(n % 2)) for n in range(4)], FEW,
         "'tenure' is missing"),
        ([("a", 1.0, 0.5, "x", [REQUEST] * 3, None)] * 5, FEW, "0 labelled events"),
        ([("z", 1.0, 0.5, "x", [FALLBACK, REQUEST, REQUEST], str(n % 2)) for n in range(4)], FEW, "could not be asked"),
    ],
)  # fmt: skip
def test_data_that_must_not_be_trained_on_is_refused_with_the_reason(tmp_path: Path, rows, checks: Checks, words: str):
    lake = recorded(tmp_path, rows) if rows else tmp_path
    with pytest.raises(DataRefusedError, match=words):
        training_set(lake, SIGNATURE, task="binary", store=lambda: store(a=1), now=NOW, checks=checks)
