"""``POST /events``: what is logged of a report, and what is said of a wrong one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from reporting import FEATURES, Console
from shadow_mlops.deployment.sampling import in_sample
from shadow_mlops.domain.errors import (
    AppendError,
    BodyTooLargeError,
    ConflictError,
    ContentTypeError,
    InvalidFieldsError,
    MalformedBodyError,
    UnavailableError,
)
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog.segments import SegmentLog

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 250, tzinfo=UTC)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path, deployment={"entity": "customer_id"})
    yield made
    made.intake.close()


def event(**more: Any) -> dict[str, Any]:
    return {"request_id": "r1", "time": MOMENT, "features": FEATURES, "score": 0.25, "version": "2.1.0", **more}


def test_an_event_is_logged_as_the_gateway_would_have(console: Console) -> None:
    sent = event(entity="CUST-7", latency_ms=12.5)
    assert console.post({"events": [sent, event(request_id="r2", features={**FEATURES, "customer_id": 9})]}) == {
        "accepted": 2
    }
    (batch,) = console.batches()
    assert batch.schema.numbers == ("tenure", "charges")
    assert batch.schema.strings == ("plan",)
    assert (batch.schema.version, batch.schema.registry_version, batch.schema.role) == ("2.1.0", "1", "champion")
    assert (batch.schema.outputs, batch.schema.positive) == (("0", "1"), "1")
    assert batch.request_ids == ["r1", "r2"]
    assert batch.entities == ["CUST-7", "9"]
    assert batch.times.tolist() == [round(MOMENT.timestamp() * 1e6)] * 2
    assert batch.latencies.tolist() == [12_500, 0]
    np.testing.assert_array_equal(batch.numbers, [[12, 70.5]] * 2)
    assert batch.strings.tolist() == [["gold"]] * 2
    np.testing.assert_array_equal(batch.scores, [[0.75, 0.25]] * 2)
    assert console.value("shadow_events_accepted_total", form="json") == 2


def test_one_event_a_list_and_lines_are_taken_too(console: Console) -> None:
    assert console.post(event()) == {"accepted": 1}
    assert console.post([event(), event()]) == {"accepted": 2}
    lines = b"\n".join(msgspec.json.encode(event(request_id=f"n{i}")) for i in range(3)) + b"\n\n"
    assert console.post(lines, "application/x-ndjson") == {"accepted": 3}
    assert console.post({"events": []}) == {"accepted": 0}
    assert sum(len(batch) for batch in console.batches()) == 6


def test_each_version_has_its_own_schema(console: Console) -> None:
    console.post({"events": [event(version="2.1.0"), event(version="legacy-7"), event(version="2.1.0")]})
    assert [(batch.schema.version, batch.schema.registry_version, len(batch)) for batch in console.batches()] == [
        ("2.1.0", "1", 2),
        ("legacy-7", "", 1),
    ]


def test_versions_that_no_alias_names_are_bounded_and_known_ones_are_not_held_up(console: Console) -> None:
    for first in (0, 600):
        console.post([event(version=f"build-{first + i}") for i in range(600 if first == 0 else 400)])
    logged = len(console.batches())
    with pytest.raises(InvalidFieldsError) as caught:
        console.post([event(version="build-7"), event(version="build-1000")])
    (found,) = caught.value.problems
    assert (found.field, found.index) == ("version", 1)
    assert "one more than 1000 that no alias names" in found.problem
    assert len(console.batches()) == logged
    assert console.post([event(version="build-7"), event(version="2.1.0")]) == {"accepted": 2}


@pytest.mark.parametrize(
    ("task", "classes", "given", "scores"),
    [
        ("binary", ("0", "1"), {"scores": [0.9, 0.1]}, [0.9, 0.1]),
        ("binary", ("0", "1"), {"scores": {"1": 0.1, "0": 0.9}}, [0.9, 0.1]),
        ("binary", ("1", "0"), {"score": 0.1}, [0.1, 0.9]),
        ("binary", ("0", "1"), {"label": True}, [0.0, 1.0]),
        ("binary", ("0", "1"), {"label": "0.0"}, [1.0, 0.0]),
        ("binary", ("0", "1"), {"label": 1, "score": 0.4}, [0.6, 0.4]),
        ("multiclass", ("a", "b", "c"), {"scores": {"a": 0.2, "b": 0.3, "c": 0.5}}, [0.2, 0.3, 0.5]),
        ("multiclass", ("a", "b", "c"), {"label": "b"}, [0.0, 1.0, 0.0]),
        ("regression", (), {"score": -17.5}, [-17.5]),
        ("regression", (), {"label": 3}, [3.0]),
    ],
)
def test_scores_score_and_label_become_scores_by_class(
    tmp_path: Path, task: Any, classes: tuple[str, ...], given: dict[str, Any], scores: list[float]
) -> None:
    console = Console(tmp_path, task=task, classes=classes)
    sent = event(**given)
    if "score" not in given:
        del sent["score"]
    console.post(sent)
    np.testing.assert_allclose(console.batches()[0].scores, [scores], atol=1e-12)
    console.intake.close()


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"features": {**FEATURES, "tenur": 1}}, "features.tenur", "unknown field; did you mean `tenure`?"),
        ({"features": {"tenure": 12, "plan": "gold"}}, "features.charges", "is required"),
        ({"features": {**FEATURES, "tenure": "12"}}, "features.tenure", "got `str`"),
        ({"features": {**FEATURES, "tenure": 1.5}}, "features.tenure", "whole number"),
        ({"features": 3}, "features", "Expected `object`"),
        ({"scor": 1.0}, "scor", "did you mean `score`?"),
        ({"score": 1.5}, "score", "from 0 to 1"),
        ({"score": None}, "score", "is required"),
        ({"score": None, "label": "maybe"}, "label", "is no class"),
        ({"scores": [0.1]}, "scores", "has 1 numbers"),
        ({"scores": {"0": 0.1}}, "scores", "must name each of 0, 1"),
        ({"time": "2026-01-31T12:00:00"}, "time", "timezone"),
        ({"time": datetime.now(UTC) + timedelta(days=2)}, "time", "at most a day ahead"),
        ({"time": datetime(1969, 1, 1, tzinfo=UTC)}, "time", "after 1970"),
        ({"request_id": ""}, "request_id", "length >= 1"),
        ({"version": msgspec.UNSET}, "", "missing required field `version`"),
        ({"version": "v" * 201}, "version", "length <= 200"),
        ({"version": "2.1.0\x1b[2J"}, "version", "printable"),
    ],
)
def test_a_wrong_event_is_named_with_its_index_and_nothing_is_logged(
    console: Console, change: dict[str, Any], field: str, problem: str
) -> None:
    sent = {name: value for name, value in {**event(), **change}.items() if value is not msgspec.UNSET}
    with pytest.raises(InvalidFieldsError) as caught:
        console.post({"events": [event(), sent]})
    (found,) = caught.value.problems
    assert (found.field, found.index) == (field, 1)
    assert problem in found.problem
    assert console.batches() == []


def test_all_problems_of_all_events_are_told_at_once(console: Console) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        console.post([event(score=2.0), event(), event(features={**FEATURES, "x": 1}, score=None)])
    assert [(each.index, each.field) for each in caught.value.problems] == [
        (0, "score"),
        (2, "features.x"),
        (2, "score"),
    ]


def test_bodies_that_are_no_events_are_refused(console: Console) -> None:
    with pytest.raises(ContentTypeError):
        console.post(b"{}", "text/plain")
    with pytest.raises(MalformedBodyError):
        console.post(b"{")
    with pytest.raises(MalformedBodyError):
        console.post(b"{}\n{", "application/x-ndjson")
    with pytest.raises(InvalidFieldsError):
        console.post({"events": {}})
    with pytest.raises(InvalidFieldsError):
        console.post({"events": [], "more": 1})
    with pytest.raises(InvalidFieldsError):
        console.post(b"3")
    with pytest.raises(BodyTooLargeError, match="at most 1000"):
        console.post([event()] * 1001)


def test_without_a_known_model_the_client_is_told_what_to_do(console: Console) -> None:
    (console.data_dir / "serving.json").unlink()
    with pytest.raises(UnavailableError, match="alias champion"):
        console.post(event())


def test_a_champion_that_does_not_fit_the_deployment_is_a_conflict(tmp_path: Path) -> None:
    console = Console(tmp_path, deployment={"positive": "yes"})
    with pytest.raises(ConflictError, match="positive: yes"):
        console.post(event())


def test_a_new_champion_is_followed(console: Console) -> None:
    console.post(event())
    folder = console.data_dir / "models" / "churn" / "2"
    folder.mkdir()
    card = msgspec.structs.replace(console.card, version="3.0.0", registry_version="2")
    (folder / "card.json").write_bytes(msgspec.json.encode(card))
    serving = {"generation": 2, "published_at": "later", "champion": "models/churn/2"}
    (console.data_dir / "serving.json").write_bytes(msgspec.json.encode(serving))
    console.post(event(version="3.0.0"))
    assert console.batches()[-1].schema.registry_version == "2"


def test_the_sample_is_the_gateways(tmp_path: Path) -> None:
    console = Console(tmp_path, deployment={"shadow": {"sample": 0.5}})
    console.post([event(request_id=f"r{i}", entity=f"E{i}") for i in range(200)])
    (batch,) = console.batches()
    expected = in_sample("churn", [f"E{i}" for i in range(200)], batch.request_ids, 0.5)
    assert batch.sampled is not None
    assert batch.sampled.tolist() == expected.tolist()
    assert 0 < expected.sum() < 200
    console.intake.close()


def test_a_log_that_takes_nothing_is_told_and_the_next_attempt_succeeds(console: Console) -> None:
    console.post(event())
    appender = console.intake._writer._appender
    assert appender is not None

    class Full:
        def append(self, _batch: object) -> None:
            raise AppendError("the disk is full")

        def close(self) -> None:
            """Nothing is open."""

    console.intake._writer._appender = Full()
    with pytest.raises(UnavailableError, match="send them again: the disk is full"):
        console.post(event())
    console.intake._writer._appender = appender
    assert console.post(event()) == {"accepted": 1}


def test_an_idle_console_holds_up_no_reader_in_order(tmp_path: Path) -> None:
    console = Console(tmp_path)
    log = SegmentLog(tmp_path / "log")
    console.intake._writer._log = log
    console.post(event())
    gateway = log.appender(EVENTS, writer="gateway-0")
    time.sleep(0.01)
    segment, _ = gateway.append(console.intake._checker.batches([_reported()])[0])
    gateway.close()
    tail = log.tail(EVENTS)
    found: list[int] = []
    deadline = time.monotonic() + 20
    while segment not in found and time.monotonic() < deadline:
        found += [item.segment for item in tail.poll_ordered(100)]
        time.sleep(0.01)
    assert segment in found, "a reader in order waits for the console's writer"
    console.intake.close()


def _reported() -> Any:
    from shadow_mlops.console.reported import ReportedEvent

    return msgspec.convert(event(), ReportedEvent)
