"""Logs for the tests of the lake: several writers, challengers, a replay, outcomes; and what the lake made of them."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np

from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.events import (
    EVENTS,
    OUTCOMES,
    EventSchema,
    OutcomeSchema,
    Span,
    Status,
    replays_stream,
    results_stream,
)
from shadow_mlops.eventlog import EventBatch, EventLog, OutcomeBatch, ResultBatch
from shadow_mlops.eventlog.records import NO_TIME
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.lake.queries import connect
from shadow_mlops.lake.tables import SCHEMAS
from shadowing import RESULTS, SCHEMA

BINARY = msgspec.structs.replace(SCHEMA, positive="1")
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000


class Writing:
    """Appends what a test wants, and remembers it."""

    def __init__(self, log: EventLog, seed: int = 1) -> None:
        self.log = log
        self.dice = random.Random(seed)
        self.appenders: dict[tuple[str, str], object] = {}
        self.events: list[tuple[int, int, str, str]] = []
        """Segment, row, request id and entity."""
        self.unread: dict[str, list[Span]] = {}

    def appender(self, stream: str, writer: str):
        key = (stream, writer)
        if key not in self.appenders:
            self.appenders[key] = self.log.appender(stream, writer=writer)
        return self.appenders[key]

    def answer(
        self,
        n: int,
        *,
        writer: str = "gateway-0",
        schema: EventSchema = BINARY,
        sampled: list[bool] | None = None,
        days: float = 0.0,
    ) -> Span:
        """A frame of events, ``days`` before now."""
        first = len(self.events)
        ids = [f"r{first + i}" for i in range(n)]
        entities = [f"e{self.dice.randrange(20)}" for _ in range(n)]
        times = np.full(n, NOW_US - int(days * DAY_US)) + np.arange(first, first + n)
        p = np.array([self.dice.random() for _ in range(n)])
        numbers = np.arange(n * len(schema.numbers), dtype=float).reshape(n, -1) + first
        numbers[:: max(n // 2, 1), :1] = np.nan
        batch = EventBatch(
            schema=schema,
            times=times,
            latencies=np.full(n, 900, dtype=np.uint32),
            request_ids=ids,
            entities=list(entities),
            numbers=numbers,
            strings=np.full((n, len(schema.strings)), "text", dtype=np.object_),
            scores=np.stack([1 - p, p], axis=1),
            sampled=None if sampled is None else np.array(sampled),
        )
        segment, row = self.appender(EVENTS, writer).append(batch)
        self.events += [(segment, row + i, ids[i], entities[i]) for i in range(n)]
        return Span(segment, row, n, n if sampled is None else sum(sampled))

    def shadow(
        self,
        spans: list[Span],
        *,
        name: str = "c",
        version: str = "c-1",
        replayed: bool = False,
        statuses: list[Status] | None = None,
    ) -> None:
        """A result frame."""
        m = sum(span.count for span in spans if not span.shed)
        codes = np.array(statuses or [Status.PAIRED] * m, dtype=np.uint8)
        scores = np.array([[0.0, self.dice.random()] for _ in range(m)]).reshape(m, 2)
        scores[:, 0] = 1 - scores[:, 1]
        scores[codes != Status.PAIRED] = np.nan
        schema = msgspec.structs.replace(RESULTS, challenger="replay" if replayed else name, version=version)
        stream = replays_stream(version) if replayed else results_stream(name)
        self.appender(stream, name).append(
            ResultBatch(
                schema=schema, spans=spans, statuses=codes, scores=scores, latencies=np.full(m, 90, dtype=np.uint32)
            )
        )

    def happen(self, reported: list[tuple[str | None, str | None, str]], *, writer: str = "gateway-0") -> None:
        """Outcomes: request id or entity, label."""
        n = len(reported)
        self.appender(OUTCOMES, writer).append(
            OutcomeBatch(
                schema=OutcomeSchema(deployment="d"),
                received=np.full(n, NOW_US + 60_000_000),
                times=np.array([NO_TIME if request else NOW_US + DAY_US for request, _, _ in reported]),
                labels=[label for _, _, label in reported],
                request_ids=[request for request, _, _ in reported],
                entities=[entity for _, entity, _ in reported],
            )
        )

    def mixed(self, turns: int) -> None:
        """Everything that a log may hold, in a random but repeatable order."""
        dice = self.dice
        behind: dict[str, list[Span]] = {"c": [], "d": [], "replay": []}
        for turn in range(turns):
            n = dice.choice([1, 2, 3, 8, 30])
            schema = BINARY if turn < turns // 2 else WIDER
            span = self.answer(
                n,
                writer=f"gateway-{dice.randrange(2)}",
                schema=schema,
                sampled=None if dice.random() < 0.7 else [dice.random() < 0.8 for _ in range(n)],
                days=dice.choice([0, 0, 0, 1, 2]),
            )
            for spans in behind.values():
                spans.append(span)
            for name, spans in behind.items():
                if dice.random() < 0.3:
                    self._catch_up(name, spans)
            if dice.random() < 0.5:
                self._outcomes(dice.randrange(1, 6))
        for name, spans in behind.items():
            self._catch_up(name, spans)
        self._outcomes(20)

    def _catch_up(self, name: str, spans: list[Span]) -> None:
        if not spans:
            return
        shed = name == "d" and self.dice.random() < 0.3
        done = [msgspec.structs.replace(span, shed=shed) for span in spans]
        # A frame does not say which of its rows are sampled: with a wholly sampled span all rows have a result.
        statuses = [
            self.dice.choice([Status.PAIRED, Status.PAIRED, Status.TIMED_OUT, Status.ERRORED])
            for span in done
            for _ in range(0 if span.shed else span.count)
        ]
        version = {"c": "c-1", "d": "d-1", "replay": "c-1"}[name]  # the replay meets what is scored already
        self.shadow(done, name=name, version=version, replayed=name == "replay", statuses=statuses)
        spans.clear()

    def _outcomes(self, n: int) -> None:
        chosen = [self.dice.choice(self.events) for _ in range(n)]
        reported: list[tuple[str | None, str | None, str]] = []
        for _, _, request, entity in chosen:
            label = self.dice.choice(["0", "1", "true", "nonsense"])
            kind = self.dice.random()
            reported.append(
                (request, None, label)
                if kind < 0.6
                else (None, entity, label)
                if kind < 0.9
                else ("never", None, label)
            )
        self.happen(reported, writer=f"gateway-{self.dice.randrange(2)}")

    def close(self) -> None:
        for appender in self.appenders.values():
            appender.close()  # type: ignore[attr-defined]


WIDER = msgspec.structs.replace(BINARY, version="champion-2", numbers=("a", "c"), strings=("s", "t"))


def archiver(log: EventLog, lake: Path, **options) -> Archiver:
    """An archiver on a clock of its own."""
    defaults = {"labels": Labels(), "retain_days": 400, "now": lambda: NOW_US / 1e6}
    return Archiver(log, lake, **{**defaults, **options})


def archive(log: EventLog, lake: Path, **options) -> Archiver:
    """Archive everything that the log has."""
    made = archiver(log, lake, **options)
    while made.round():
        pass
    return made


def contents(lake: Path) -> dict[str, list[tuple]]:
    """Every table's rows, columns by name, in the order of the table."""
    connection = connect(lake)
    found = {}
    for table in SCHEMAS:
        names = sorted(column[0] for column in connection.execute(f"DESCRIBE {table}").fetchall())
        columns = ", ".join(f'"{name}"' for name in names)
        rows_of = connection.sql(f"SELECT {columns} FROM {table}").to_arrow_table().to_pylist()
        found[table] = [tuple(row.values()) for row in rows_of]
    connection.close()
    return found


def rows(lake: Path, query: str) -> list[tuple]:
    """What a query gives."""
    connection = connect(lake)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
