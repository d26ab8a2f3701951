"""Outcomes find their predictions, however the log was cut into rounds; a slow reference says what is right."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.labelnames import class_names, plain_label
from shadow_mlops.lake.matching import Matched, match
from shadow_mlops.lake.tables import EVENTS, LABELS, OUTCOMES, PAIRS, RESULTS

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MAX_DELAY = 48  # hours, as all times of these tests


def schema(task: Any, outputs: tuple[str, ...], positive: str = "") -> EventSchema:
    return EventSchema(
        deployment="d",
        task=task,
        model="m",
        version="1",
        registry_version="1",
        numbers=(),
        strings=(),
        outputs=outputs,
        positive=positive,
    )


SCHEMAS = {
    "binary": schema("binary", ("No", "Yes"), "Yes"),
    "multiclass": schema("multiclass", ("a", "b", "1")),
    "regression": schema("regression", ("value",)),
}


class Event(NamedTuple):
    at: int
    """Position in the log, over all streams."""
    time: int
    request_id: str = "r"
    entity: str | None = "e"
    schema: str = "binary"

    @property
    def key(self) -> tuple[int, int]:
        return self.at % 3, self.at // 3  # segment, row: three writers take turns


class Outcome(NamedTuple):
    at: int
    received: int
    label: str = "1"
    request_id: str | None = None
    entity: str | None = None
    time: int | None = None


class Result(NamedTuple):
    at: int
    event: Event
    version: str = "2"
    status: str = "paired"
    score: float = 0.25
    outputs: tuple[str, ...] | None = None


def by_request(at: int, received: int, label: str = "1", request_id: str = "r") -> Outcome:
    return Outcome(at, received, label, request_id)


def by_entity(at: int, time: int, label: str = "1", entity: str = "e", received: int = 100) -> Outcome:
    return Outcome(at, received, label, None, entity, time)


def moment(hours: int | None) -> datetime | None:
    return None if hours is None else EPOCH + hours * HOUR


def microseconds(hours: int) -> int:
    return int((EPOCH + hours * HOUR).timestamp()) * 1_000_000


def scores(of: EventSchema, first: float) -> list[float]:
    return [first] if of.task == "regression" else [first, 1 - first, 0.0][: len(of.outputs)]


def event_row(event: Event) -> dict[str, Any]:
    segment, row = event.key
    return {
        "segment": segment,
        "row": row,
        "boot": 1,
        "monotonic_ns": event.at,
        "time": moment(event.time),
        "request_id": event.request_id,
        "entity": event.entity,
        "task": SCHEMAS[event.schema].task,
        "schema": event.schema,
    }


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    return {
        "segment": 50 + outcome.at % 2,
        "row": outcome.at,
        "boot": 1,
        "monotonic_ns": outcome.at,
        "received": moment(outcome.received),
        "time": moment(outcome.time),
        "label": outcome.label,
        "request_id": outcome.request_id,
        "entity": outcome.entity,
    }


def result_row(result: Result) -> dict[str, Any]:
    event, of = result.event, SCHEMAS[result.event.schema]
    paired = result.status == "paired"
    return {
        "segment": event.key[0],
        "row": event.key[1],
        "time": moment(event.time),
        "entity": event.entity,
        "task": of.task,
        "schema": event.schema,
        "version": result.version,
        "status": result.status,
        "outputs": list(result.outputs or of.outputs),
        "score": result.score if paired and of.task != "multiclass" else None,
        "scores": scores(of, result.score) if paired else None,
        "champion_score": 0.75 if of.task != "multiclass" else None,
        "champion_scores": scores(of, 0.75),
        "boot": 1,
        "monotonic_ns": result.at,
        "result_segment": 90,
        "result_row": result.at,
    }


@cache
def connection() -> duckdb.DuckDBPyConnection:
    opened = duckdb.connect()
    opened.execute("SET TimeZone = 'UTC'")
    return opened


class Archive:
    """What the archive would hold, round after round."""

    def __init__(self, policy: str = "first") -> None:
        self.policy = policy
        self.rows: dict[str, list[dict[str, Any]]] = {"events": [], "results": [], "outcomes": []}
        self.labels, self.pairs = LABELS.empty_table(), PAIRS.empty_table()
        self.counts: Counter[str] = Counter()
        self._new: dict[str, list[dict[str, Any]]] = {}

    def round(self, *facts: Event | Outcome | Result, now: int = 10_000, since: int | None = None) -> Matched:
        self._new = {
            "events": [event_row(f) for f in facts if isinstance(f, Event)],
            "results": [result_row(f) for f in facts if isinstance(f, Result)],
            "outcomes": [outcome_row(f) for f in facts if isinstance(f, Outcome)],
        }
        for name, rows in self._new.items():
            self.rows[name] += rows
        matched = self.match(now, since)
        self.labels = pa.concat_tables([self.labels, matched.labels])
        self.pairs = pa.concat_tables([self.pairs, matched.pairs])
        self.counts.update(matched.counts)
        return matched

    def match(self, now: int = 10_000, since: int | None = None) -> Matched:
        for name, of in (("events", EVENTS), ("results", RESULTS), ("outcomes", OUTCOMES)):
            connection().register(name, pa.Table.from_pylist(self.rows[name], of))
            connection().register(f"new_{name}", pa.Table.from_pylist(self._new[name], of))
        connection().register("labels", self.labels)
        connection().register("pairs", self.pairs)
        return match(
            connection(),
            policy=self.policy,
            max_delay_seconds=MAX_DELAY * 3600,
            now_us=microseconds(now),
            positives=SCHEMAS,
            since_us=None if since is None else microseconds(since),
        )

    def verdicts(self) -> list[str]:
        return self.labels.column("verdict").to_pylist()

    def outcomes(self) -> list[str]:
        return self.pairs.column("outcome").to_pylist()


def label_facts(table: pa.Table) -> list[tuple[Any, ...]]:
    """(position of the outcome, event, label, verdict) of each row."""
    return [
        (row["outcome_row"], (row["segment"], row["row"]), row["label"], row["verdict"]) for row in table.to_pylist()
    ]


def pair_facts(table: pa.Table) -> list[tuple[Any, ...]]:
    return [
        (
            row["result_row"],
            (row["segment"], row["row"]),
            row["outcome"],
            row["target"],
            row["p_outcome"],
            row["champion_p_outcome"],
        )
        for row in table.to_pylist()
    ]


# --- the reference -------------------------------------------------------------------------------------------------


def belongs_to(outcome: Outcome, events: list[Event]) -> Event | None:
    near = [event for event in events if event.time <= outcome.received + 24]
    if outcome.request_id is not None:
        return min((e for e in near if e.request_id == outcome.request_id), default=None, key=lambda e: e.at)
    if outcome.time is None:
        return None
    own = [e for e in near if e.entity == outcome.entity and e.time <= outcome.time]
    before = [e for e in own if e.at < outcome.at]
    if before:
        return max(before, key=lambda e: (e.time, e.at))
    return min(own, default=None, key=lambda e: e.at)


def named(label: str, of: EventSchema) -> str | None:
    if of.task == "regression":
        try:
            value = float(label) + 0.0
        except ValueError:
            return None
        return str(value) if abs(value) < float("inf") else None
    names = class_names(of)
    return names.get(label) or names.get(plain_label(label))


def judge(policy: str, groups: dict[Event, list[tuple[Outcome, str]]]) -> tuple[dict[int, str], dict[Event, Any]]:
    """Verdicts by position of the outcome; per event when its label is final, and which it is (None: withdrawn)."""
    verdicts: dict[int, str] = {}
    final: dict[Event, Any] = {}
    for event, reported in groups.items():
        (first, first_label), *_ = reported
        matures = -1 if policy == "first" else max(event.time + MAX_DELAY, first.received)
        verdicts[first.at] = "joined"
        standing = [first_label]
        for outcome, label in reported[1:]:
            if policy != "first" and outcome.received > matures:
                verdicts[outcome.at] = "late"
                continue
            reference = standing[-1] if policy == "last" else first_label
            verdicts[outcome.at] = "repeated" if label == reference else "contradicting"
            standing.append(label)
        holds = {
            "first": first_label,
            "last": standing[-1],
            "reject": None if len(set(standing)) > 1 else first_label,
        }
        final[event] = (matures, holds[policy])
    return verdicts, final


def probabilities(result: Result, label: str) -> tuple[float | None, float | None, float | None]:
    """Target, probability of what came true by the challenger, and by the champion."""
    of, paired = SCHEMAS[result.event.schema], result.status == "paired"
    if of.task == "regression":
        return float(label), None, None
    if of.task == "binary":
        positive = label == of.positive
        score = result.score if positive else 1 - result.score
        return float(positive), score if paired else None, 0.75 if positive else 0.25
    at = of.outputs.index(label)
    return None, scores(of, result.score)[at] if paired else None, scores(of, 0.75)[at]


def reference(facts: list[Any], policy: str, now: int) -> tuple[list[Any], list[Any]]:
    events = [f for f in facts if isinstance(f, Event)]
    groups: dict[Event, list[tuple[Outcome, str]]] = {}
    verdicts: dict[int, str] = {}
    found: dict[int, tuple[Event, str]] = {}
    for outcome in (f for f in facts if isinstance(f, Outcome)):
        event = belongs_to(outcome, events)
        if event is None:
            continue
        label = named(outcome.label, SCHEMAS[event.schema])
        found[outcome.at] = event, outcome.label if label is None else label
        if label is None:
            verdicts[outcome.at] = "invalid"
        elif (outcome.received if outcome.time is None else outcome.time) > event.time + MAX_DELAY:
            verdicts[outcome.at] = "late"
        else:
            groups.setdefault(event, []).append((outcome, label))
    more, final = judge(policy, groups)
    verdicts |= more
    labels = [(at, event.key, label, verdicts[at]) for at, (event, label) in found.items()]
    pairs = []
    for result in (f for f in facts if isinstance(f, Result)):
        matures, label = final.get(result.event, (0, None))
        if label is not None and matures <= now:
            pairs.append((result.at, result.event.key, label, *probabilities(result, label)))
    return labels, pairs


# --- any log, any rounds -------------------------------------------------------------------------------------------

LABEL_TEXTS = st.sampled_from(["0", "1", "true", "False", "1.0", "Yes", "No", "a", "b", "x", "2.5", "-0", "nan"])
SMALL = st.integers(0, 120)


@st.composite
def logs(draw: st.DrawFn) -> list[Event | Outcome | Result]:
    """Facts in the order of the log; outcomes are received ever later."""
    facts: list[Any] = []
    received = 0
    for at in range(draw(st.integers(1, 24))):
        kind = draw(st.sampled_from(["event", "event", "outcome", "outcome", "outcome", "result"]))
        known = [f for f in facts if isinstance(f, Event)]
        if kind == "outcome":
            received += draw(st.integers(0, 20))
            label = draw(LABEL_TEXTS)
            if draw(st.booleans()):
                facts.append(Outcome(at, received, label, draw(st.sampled_from("rst")), None, draw(st.none() | SMALL)))
            else:
                facts.append(Outcome(at, received, label, None, draw(st.sampled_from("ef")), draw(SMALL)))
        elif kind == "result" and known:
            event = draw(st.sampled_from(known))
            version = str(2 + sum(isinstance(f, Result) and f.event == event for f in facts))
            status = draw(st.sampled_from(["paired", "errored"]))
            facts.append(Result(at, event, version, status, draw(st.sampled_from([0.0, 0.25, 1.0]))))
        else:
            names = draw(st.sampled_from("rst")), draw(st.sampled_from(["e", "f", None]))
            facts.append(Event(at, draw(SMALL), *names, draw(st.sampled_from(list(SCHEMAS)))))
    return facts


@st.composite
def cuts(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """How far the log's events, outcomes and results are archived after each round: events never behind the others."""
    fars = sorted(draw(st.lists(st.integers(0, 25), max_size=5)))
    rounds = [(far, draw(st.integers(0, far)), draw(st.integers(0, far))) for far in fars]
    grown = [(0, 0, 0)]
    for each in [*rounds, (99, 99, 99)]:
        grown.append(tuple(map(max, grown[-1], each)))  # type: ignore[arg-type]
    return grown


def new_facts(facts: list[Any], before: tuple[int, ...], until: tuple[int, ...]) -> list[Any]:
    kinds = (Event, Outcome, Result)
    return [f for f in facts if before[kinds.index(type(f))] <= f.at < until[kinds.index(type(f))]]


def archived_until(facts: list[Any], far: int, now: int) -> int:
    """The latest hour by which every outcome that was received is archived."""
    return min([f.received - 1 for f in facts if isinstance(f, Outcome) and f.at >= far], default=now)


@settings(max_examples=40, deadline=None)
@given(
    facts=logs(),
    rounds=cuts(),
    policy=st.sampled_from(["first", "last", "reject"]),
    now=st.integers(0, 300),
    incremental=st.booleans(),
)
def test_however_a_log_is_cut_labels_and_pairs_are_the_same(
    facts: list[Any], rounds: list[tuple[int, int, int]], policy: str, now: int, incremental: bool
) -> None:
    archive = Archive(policy)
    last: int | None = None
    now = max([now, *(f.received for f in facts if isinstance(f, Outcome))])
    for before, until in pairwise(rounds):
        known = archived_until(facts, until[1], now)
        archive.round(*new_facts(facts, before, until), now=known, since=last if incremental else None)
        last = known
        again = archive.match(known)
        assert not again.labels.num_rows
        assert not again.pairs.num_rows
    labels, pairs = reference(facts, policy, now)
    assert sorted(label_facts(archive.labels)) == sorted(labels)
    assert sorted(pair_facts(archive.pairs), key=repr) == sorted(pairs, key=repr)
    assert archive.counts.total() == sum(isinstance(f, Outcome) for f in facts)
    assert archive.counts["unmatched"] == archive.counts.total() - len(labels)


@settings(max_examples=12, deadline=None)
@given(facts=logs(), rounds=st.lists(st.integers(0, 25), max_size=4))
def test_rounds_that_follow_the_log_do_not_change_the_order_of_rows(facts: list[Any], rounds: list[int]) -> None:
    whole, parts = Archive(), Archive()
    whole.round(*facts)
    for before, until in pairwise([0, *sorted(rounds), 99]):
        parts.round(*new_facts(facts, (before,) * 3, (until,) * 3))
    assert label_facts(parts.labels) == label_facts(whole.labels)
    assert pair_facts(parts.pairs) == pair_facts(whole.pairs)


# --- single cases, in words ----------------------------------------------------------------------------------------


def test_the_first_request_of_an_id_has_the_label_its_retries_have_none() -> None:
    first, retry = Event(0, 5), Event(1, 6)
    archive = Archive()
    archive.round(first, retry, Result(2, first), Result(3, retry), by_request(4, 7))
    assert [key for _, key, *_ in pair_facts(archive.pairs)] == [first.key]


def test_by_entity_the_latest_prediction_at_or_before_the_time() -> None:
    predictions = [Event(at, time) for at, time in enumerate((10, 30, 20, 40))]
    archive = Archive()
    archive.round(*predictions, by_entity(4, 30), by_entity(5, 29), by_entity(6, 9))
    assert [(at, key) for at, key, *_ in label_facts(archive.labels)] == [
        (4, predictions[1].key),
        (5, predictions[2].key),
    ]
    assert archive.counts["unmatched"] == 1


def test_an_outcome_does_not_wait_for_a_better_prediction_but_takes_the_first_that_comes() -> None:
    early, late, later = Event(0, 10), Event(2, 12), Event(3, 11, entity="f")
    archive = Archive()
    archive.round(early, by_entity(1, 15), late, by_entity(4, 15, entity="g"), later)
    assert [key for _, key, *_ in label_facts(archive.labels)] == [early.key]
    archive.round(Event(5, 14, entity="g"), Event(6, 15, entity="g"))
    assert label_facts(archive.labels)[1][:2] == (4, Event(5, 14).key)
    assert archive.counts["unmatched"] == 0


@pytest.mark.parametrize(
    ("policy", "verdicts", "outcome"),
    [
        ("first", ["joined", "contradicting", "contradicting", "repeated"], ["Yes"]),
        ("last", ["joined", "contradicting", "repeated", "contradicting"], ["Yes"]),
        ("reject", ["joined", "contradicting", "contradicting", "repeated"], []),
    ],
)
def test_policies(policy: str, verdicts: list[str], outcome: list[str]) -> None:
    event = Event(0, 5)
    archive = Archive(policy)
    archive.round(event, Result(1, event), now=6)
    for at, label in enumerate(["Yes", "No", "0", "true"], 2):
        archive.round(by_request(at, 6 + at, label), now=6 + at)
    assert archive.verdicts() == verdicts
    if policy != "first":
        assert archive.outcomes() == []
    archive.round(now=5 + MAX_DELAY, since=12)
    assert archive.outcomes() == outcome


def test_equal_labels_written_differently_are_no_contradiction() -> None:
    archive = Archive("reject")
    archive.round(Event(0, 5), *(by_request(at, 6, label) for at, label in enumerate(["1", "true", "Yes", "1.0"], 1)))
    assert archive.verdicts() == ["joined", "repeated", "repeated", "repeated"]


def test_an_outcome_is_late_by_its_own_time_if_it_has_one() -> None:
    archive = Archive()
    archive.round(
        Event(0, 0, "r"),
        Event(1, 0, "s"),
        Outcome(2, 500, "1", "r", None, 5),
        Outcome(3, 5, "1", "s", None, MAX_DELAY + 1),
        Outcome(4, MAX_DELAY + 1, "1", "s"),
        Outcome(5, MAX_DELAY, "1", "s"),
    )
    assert archive.verdicts() == ["joined", "late", "late", "joined"]


@pytest.mark.parametrize("policy", ["last", "reject"])
def test_what_comes_after_a_label_was_final_does_not_change_it(policy: str) -> None:
    event = Event(0, 0)
    archive = Archive(policy)
    archive.round(event, by_request(1, 5, "1"), Result(2, event), now=MAX_DELAY)
    assert archive.outcomes() == ["Yes"]
    archive.round(Outcome(3, MAX_DELAY + 9, "0", "r", None, 6), Result(4, event, "3"), now=MAX_DELAY + 9)
    assert archive.verdicts() == ["joined", "late"]
    assert archive.outcomes() == ["Yes", "Yes"]


def test_of_labels_that_all_come_after_the_delay_has_passed_the_first_is_final_with_its_receipt() -> None:
    event = Event(0, 0)
    archive = Archive("last")
    archive.round(event, Result(1, event), Outcome(2, MAX_DELAY + 9, "0", "r", None, 6), now=MAX_DELAY + 8)
    assert archive.outcomes() == []
    archive.round(Outcome(3, MAX_DELAY + 10, "1", "r", None, 7), now=MAX_DELAY + 10, since=MAX_DELAY + 8)
    assert archive.verdicts() == ["joined", "late"]
    assert archive.outcomes() == ["No"]


def test_a_label_is_final_in_the_very_moment_that_it_matures_also_between_two_rounds() -> None:
    event = Event(0, 0)
    archive = Archive("last")
    archive.round(event, Result(1, event), by_request(2, 5), now=6)
    archive.round(now=MAX_DELAY - 1, since=6)
    assert archive.outcomes() == []
    archive.round(now=MAX_DELAY, since=MAX_DELAY - 1)
    assert archive.outcomes() == ["Yes"]


def test_pairs_are_in_the_order_in_which_the_log_made_them_possible() -> None:
    first, second = Event(0, 5, "r"), Event(1, 5, "s")
    facts = [first, second, Result(2, first), Result(3, second), by_request(4, 6, "1", "s"), by_request(5, 6, "1", "r")]
    whole, parts = Archive(), Archive()
    whole.round(*facts)
    for fact in facts:
        parts.round(fact)
    assert [at for at, *_ in pair_facts(parts.pairs)] == [3, 2]
    assert pair_facts(whole.pairs) == pair_facts(parts.pairs)


def test_a_label_that_names_no_class_is_invalid_and_a_right_one_still_counts() -> None:
    event = Event(0, 5, schema="regression")
    archive = Archive()
    archive.round(event, Result(1, event), by_request(2, 6, "high"), by_request(3, 6, "1e3"), by_request(4, 6, "1000"))
    assert archive.verdicts() == ["invalid", "joined", "repeated"]
    assert archive.pairs.column("target").to_pylist() == [1000.0]


def test_a_challenger_gets_the_probability_of_the_class_that_came_true_by_its_own_order_of_classes() -> None:
    event = Event(0, 5, schema="multiclass")
    archive = Archive()
    archive.round(
        event,
        Result(1, event, "same"),
        Result(2, event, "other order", outputs=("1", "b", "a")),
        Result(3, event, "other writing", outputs=("True", "b", "a")),
        Result(4, event, "never heard of it", outputs=("c", "b", "a")),
        Result(5, event, "failed", status="errored"),
        by_request(6, 6, "1"),
    )
    assert archive.pairs.column("p_outcome").to_pylist() == [0.0, 0.25, 0.25, 0.0, None]
    assert archive.pairs.column("champion_p_outcome").to_pylist() == [0.0] * 5


def test_without_0_and_1_among_the_classes_they_mean_other_and_positive() -> None:
    assert class_names(SCHEMAS["binary"]) == {"No": "No", "Yes": "Yes", "0": "No", "1": "Yes"}
    assert class_names(schema("binary", ("1", "2"), "2")) == {"1": "1", "2": "2"}
    assert class_names(schema("binary", ("True", "False"), "False"))["1"] == "True"


def test_an_event_of_an_unknown_schema_stops_the_round() -> None:
    archive = Archive()
    archive.rows["events"] = [event_row(Event(0, 5)) | {"schema": "beef"}]
    with pytest.raises(LakeError, match="beef"):
        archive.round(by_request(1, 6))
    assert connection().execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)
