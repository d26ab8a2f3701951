"""Every feature store: the newest values now, and those of a time in the past, never of its future."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow_mlops.domain.errors import FeatureStoreError, UnavailableError
from shadow_mlops.features.feast import FeastFeatures
from shadow_mlops.features.memory import MemoryFeatures
from shadow_mlops.features.seam import FeatureStore, Held, Value

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
TTL = {"tenure": 90 * DAY_US, "charge": 90 * DAY_US, "plan": 90 * DAY_US, "gender": 365 * DAY_US}
NAMES = tuple(TTL)
Write: TypeAlias = tuple[str, int, dict[str, Value]]
Build: TypeAlias = Callable[[list[Write]], FeatureStore]
REPOSITORY = """project: tests
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""


def in_memory(writes: list[Write], now: int) -> MemoryFeatures:
    store = MemoryFeatures(TTL, clock=lambda: now)
    for key, moment, values in writes:
        store.write(key, time=moment, values=values)
    return store


def in_feast(folder: Path, writes: list[Write], now: int, *, key: str = "STRING") -> FeastFeatures:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast import FeatureStore as Feast
    from feast.types import Float64, Int64, String

    folder.mkdir()
    (folder / "feature_store.yaml").write_text(REPOSITORY)
    types = {"tenure": (Int64, pa.int64()), "charge": (Float64, pa.float64()), "plan": (String, pa.string())}
    types["gender"] = types["plan"]
    entity = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType[key])
    views = []
    for name, days, fields in (("stats", 90, NAMES[:3]), ("person", 365, NAMES[3:])):
        rows = [write for write in writes if set(write[2]) & set(fields)]
        stamps = pa.array([moment for _, moment, _ in rows], pa.int64()).cast(pa.timestamp("us", "UTC"))
        created = pa.array([now + place for place in range(len(rows))], pa.int64()).cast(pa.timestamp("us", "UTC"))
        columns = {"customer_id": [key for key, _, _ in rows], "event_timestamp": stamps, "created": created}
        columns |= {field: pa.array([values.get(field) for _, _, values in rows], types[field][1]) for field in fields}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        source = FileSource(
            name=f"{name}_source", path=str(folder / f"{name}.parquet"),
            timestamp_field="event_timestamp", created_timestamp_column="created",
        )  # fmt: skip
        schema = [Field(name=field, dtype=types[field][0]) for field in fields]
        views.append(FeatureView(name=name, entities=[entity], ttl=timedelta(days=days), source=source, schema=schema))
    feast = Feast(repo_path=str(folder))
    feast.apply([entity, *views])
    from datetime import UTC, datetime

    feast.materialize(datetime(2000, 1, 1, tzinfo=UTC), datetime.fromtimestamp(now / 1e6, UTC))
    return FeastFeatures(folder, "customer_id", clock=lambda: now)


NOW = int(time.time()) * SECOND_US


@pytest.fixture(params=["memory", "feast"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    if request.param == "memory":
        return lambda writes: in_memory(writes, NOW)
    return lambda writes: in_feast(tmp_path / "repo", writes, NOW)


def row(tenure: int, plan: str = "basic", charge: float | None = 1.5, gender: str = "male") -> dict[str, Value]:
    return {"tenure": tenure, "charge": charge, "plan": plan, "gender": gender}


def test_online_reads_are_the_newest_in_the_order_asked(build: Build):
    store = build([
        ("a", NOW - 2 * DAY_US, row(1)), ("a", NOW - DAY_US, row(2, "premium")),
        ("b", NOW - DAY_US, row(3, charge=None)), ("old", NOW - 100 * DAY_US, row(4)),
    ])  # fmt: skip
    found = store.online([*NAMES, "unheard"], ["b", "nobody", "a", "b", "old"])
    assert found.names == (*NAMES, "unheard")
    assert found.values == [
        [3, None, "basic", "male", None],
        [None] * 5,
        [2, 1.5, "premium", "male", None],
        [3, None, "basic", "male", None],
        [None, None, None, "male", None],
    ]
    fresh, absent, expired = Held.FRESH, Held.ABSENT, Held.EXPIRED
    assert [list(each) for each in found.held] == [
        [fresh] * 4 + [absent],
        [absent] * 5,
        [fresh] * 4 + [absent],
        [fresh] * 4 + [absent],
        [expired, expired, expired, fresh, absent],
    ]
    assert found.times[2] == [NOW - DAY_US] * 4 + [0]
    assert found.times[4] == [NOW - 100 * DAY_US] * 4 + [0]
    assert store.online(NAMES, []).values == []
    assert store.online(["unheard"], ["a"]).values == [[None]]


def test_history_is_as_of_each_time_in_the_order_and_count_asked(build: Build):
    days = [NOW - n * DAY_US for n in range(400)]
    # Written out of order, and twice with one event time: the later writing counts.
    store = build([
        ("a", days[10], row(10)), ("a", days[30], row(30)), ("a", days[20], row(20)), ("a", days[20], row(21)),
        ("b", days[200], row(200)),
    ])  # fmt: skip
    asked = [
        ("a", days[5]),
        ("a", days[25]),
        ("b", days[5]),
        ("a", days[20]),
        ("a", days[20] - 1),
        ("a", days[35]),
        ("c", days[5]),
        ("a", days[25]),
    ]
    found = store.history(["tenure", "gender"], [key for key, _ in asked], [moment for _, moment in asked])
    assert found.values == [
        [10, "male"], [30, "male"], [None, "male"], [21, "male"],
        [30, "male"], [None, None], [None, None], [30, "male"],
    ]  # fmt: skip
    assert store.history(NAMES, [], []).values == []


def drawn(rng: random.Random, count: int) -> list[Write]:
    """Writes in no order, some with equal event times; each value tells which write it is of."""
    moments = [NOW - rng.randrange(1, 200) * DAY_US - rng.choice((0, 0, 1, SECOND_US)) for _ in range(count)]
    return [
        (f"k{rng.randrange(20)}", moment, row(place, f"p{place}", float(place), f"g{place}"))
        for place, moment in enumerate(moments)
    ]


def by_hand(writes: list[Write], key: str, moment: int, name: str) -> Value:
    """The newest at or before the moment, of equal times the one written last, unless it has expired."""
    past = [(at, place) for place, (who, at, _) in enumerate(writes) if who == key and at <= moment]
    if not past or moment - max(past)[0] > TTL[name]:
        return None
    return writes[max(past)[1]][2][name]


def check_against_the_definition(store: FeatureStore, writes: list[Write], rng: random.Random, count: int) -> None:
    asked = []
    for _ in range(count):
        key, at, _ = rng.choice(writes)
        asked.append((key, at + rng.choice((-1, 0, 1, -DAY_US, DAY_US, 90 * DAY_US, 90 * DAY_US + 1))))
    found = store.history(NAMES, [key for key, _ in asked], [moment for _, moment in asked])
    wanted = [[by_hand(writes, key, moment, name) for name in NAMES] for key, moment in asked]
    assert found.values == wanted
    assert len(found) == count
    # What a reader of the future would have seen differs: otherwise this test would prove nothing.
    future = [[by_hand(writes, key, 2**62, "tenure")] for key, _ in asked]
    assert [each[:1] for each in wanted] != future


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_no_value_of_the_future_is_ever_read_from_memory(seed: int):
    rng = random.Random(seed)
    writes = drawn(rng, 60)
    check_against_the_definition(in_memory(writes, NOW), writes, rng, 100)


@pytest.mark.parametrize("seed", range(3))
def test_no_value_of_the_future_is_ever_read_through_feast(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    writes = drawn(rng, 600)
    store = in_feast(tmp_path / "repo", writes, NOW)
    check_against_the_definition(store, writes, rng, 2000)


def test_what_is_wrong_with_a_repository_is_said(tmp_path: Path):
    with pytest.raises(FeatureStoreError, match=r"feature_store\.yaml"):
        FeastFeatures(tmp_path, "customer_id")
    (tmp_path / "feature_store.yaml").write_text(REPOSITORY)
    with pytest.raises(FeatureStoreError, match="feast apply"):
        FeastFeatures(tmp_path, "customer_id")
    (tmp_path / "feature_store.yaml").write_text(REPOSITORY.replace("sqlite", "nonsense"))
    with pytest.raises(FeatureStoreError, match="refused by Feast"):
        FeastFeatures(tmp_path, "customer_id")


def test_entities_that_are_no_text_are_refused_when_the_store_is_opened(tmp_path: Path):
    with pytest.raises(FeatureStoreError, match=r"ValueType\.STRING"):
        in_feast(tmp_path / "repo", [], NOW, key="INT64")


def test_a_store_whose_files_are_gone_does_not_answer(tmp_path: Path):
    store = in_feast(tmp_path / "repo", [("a", NOW - DAY_US, row(1))], NOW)
    (tmp_path / "repo" / "stats.parquet").unlink()
    with pytest.raises(UnavailableError, match="offline store"):
        store.history(NAMES, ["a"], [NOW])
