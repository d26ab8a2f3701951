"""Logs for the tests of live drift: frames at given moments, read in pieces of any size, and references for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shadow_mlops.domain.events import EVENTS, EventSchema, ResultSchema, Span, Status, results_stream
from shadow_mlops.drift.clock import Birth
from shadow_mlops.drift.detection import Watching
from shadow_mlops.drift.lanes import Span as WindowSpan
from shadow_mlops.drift.live import LiveFold
from shadow_mlops.drift.livestate import LiveState
from shadow_mlops.drift.references import References
from shadow_mlops.drift.rules import Rules
from shadow_mlops.eventlog import EventBatch, Frame, ResultBatch
from shadow_mlops.models.reference import SCORE, ReferenceProfile, write_reference_profile
from shadow_mlops.statistics.bins import category_bins, quantile_bins
from shadow_mlops.statistics.profiles import profile_of

SECOND = 1_000_000_000
BIRTH_US = 1_767_571_200_000_000  # 2026-01-05T00:00:00Z, a Monday
NUMBERS, STRINGS = ("age", "income"), ("plan",)
_ids = itertools.count()


def schema(version: int = 1, role: str = "champion") -> EventSchema:
    """Of version ``v1`` with registry version 1, and so on."""
    return EventSchema(
        deployment="d", task="binary", model="m", version=f"v{version}", registry_version=str(version),
        numbers=NUMBERS, strings=STRINGS, outputs=("0", "1"), role=role,
    )  # fmt: skip


def columns(rng: np.random.Generator, rows: int, *, age: float = 0.0, score: float = 0.0) -> dict:
    """Rows as columns; ``age`` and ``score`` shift these two."""
    return {
        "age": rng.normal(age, 1.0, rows),
        "income": rng.exponential(1.0, rows),
        "plan": rng.choice(np.array(["basic", "pro", "gold"], dtype=object), rows, p=[0.6, 0.3, 0.1]),
        SCORE: 1 / (1 + np.exp(-rng.normal(score, 1.0, rows))),
    }


def put_reference(
    data: Path, version: int = 1, *, rows: int = 2000, seed: int = 0, **shifts: float
) -> ReferenceProfile:
    """The ``reference.json`` of a version."""
    values = columns(np.random.default_rng(seed), rows, **shifts)
    bins = {name: category_bins(each) if name in STRINGS else quantile_bins(each) for name, each in values.items()}
    reference = ReferenceProfile("m", f"v{version}", "test rows", bins, profile_of(bins, values))
    directory = data / "models" / "m" / str(version)
    directory.mkdir(parents=True, exist_ok=True)
    write_reference_profile(directory, reference)
    return reference


@dataclass
class RecordedLog:
    """Frames by stream, in order; of each stream the first ``there`` are in the log by now."""

    frames: dict[str, list[Frame]] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    births: dict[int, Birth] = field(default_factory=dict)

    def add(self, stream: str, seconds: float, batch: EventBatch | ResultBatch, *, boot: int = 1, segment: int = 1):
        first = self.rows.get(segment, 0)
        self.rows[segment] = first + max(len(batch), 1)
        self.births.setdefault(segment, Birth(0, BIRTH_US))
        frame = Frame(segment, first, max(len(batch), 1), len(batch), boot, int(seconds * SECOND), batch)
        self.frames.setdefault(stream, []).append(frame)

    def events(self, seconds: float, values: dict, *, version: int = 1, role: str = "champion", entities=None, **where):
        rows = len(values["age"])
        strings = np.empty((rows, 1), dtype=object)
        strings[:, 0] = values["plan"]
        batch = EventBatch(
            schema=schema(version, role),
            times=np.full(rows, BIRTH_US + int(seconds * 1e6), dtype=np.int64),
            latencies=np.zeros(rows, dtype=np.uint32),
            request_ids=[f"r{next(_ids)}" for _ in range(rows)],
            entities=entities or [None] * rows,
            numbers=np.stack([values[name] for name in NUMBERS], axis=1),
            strings=strings,
            scores=np.stack([1 - values[SCORE], values[SCORE]], axis=1),
        )
        self.add(EVENTS, seconds, batch, **where)

    def results(
        self, seconds: float, scores: Sequence[float], *, version: int = 2, name: str = "c", segment: int = 900
    ):
        values = np.asarray(scores, dtype=float)
        batch = ResultBatch(
            schema=ResultSchema(
                deployment="d", challenger=name, model="m", version=f"v{version}", registry_version=str(version),
                outputs=("0", "1"),
            ),
            spans=[Span(1, 0, len(values), len(values))],
            statuses=np.full(len(values), Status.PAIRED, dtype=np.uint8),
            scores=np.stack([1 - values, values], axis=1),
            latencies=np.zeros(len(values), dtype=np.uint32),
        )  # fmt: skip
        self.add(results_stream(name), seconds, batch, segment=segment)

    def show(self, part: float = 1.0):
        """Let readers see the first part of each stream."""
        self.there = {stream: int(len(frames) * part) for stream, frames in self.frames.items()} if part < 1 else {}

    def now(self) -> tuple[int, int]:
        """Before all that is not there yet, and after everything once it is."""
        hidden = [
            (frame.boot, frame.monotonic_ns)
            for stream, frames in self.frames.items()
            for frame in frames[self.there.get(stream, len(frames)) :]
        ]
        return min(hidden, default=(99, 0))

    def streams(self) -> list[str]:
        return [stream for stream, frames in self.frames.items() if self.there.get(stream, len(frames))]

    def tail(self, stream: str, position=None) -> RecordedTail:
        return RecordedTail(self, stream, dict(position or {}))

    def birth(self, segment: int) -> Birth | None:
        return self.births.get(segment)


@dataclass
class RecordedTail:
    log: RecordedLog
    stream: str
    done: dict[int, int]

    def poll_ordered(self, max_rows: int) -> list[Frame]:
        frames = self.log.frames.get(self.stream, [])
        left = [
            frame
            for frame in frames[: self.log.there.get(self.stream, len(frames))]
            if frame.first >= self.done.get(frame.segment, 0)
        ]
        taken: list[Frame] = []
        for frame in sorted(left, key=lambda frame: (frame.boot, frame.monotonic_ns)):
            if taken and sum(each.count for each in taken) + frame.count > max_rows:
                break
            taken.append(frame)
            self.done[frame.segment] = frame.first + frame.count
        return taken

    def horizon(self) -> tuple[int, int]:
        return (2**63, 0)

    def position(self) -> dict[int, int]:
        return dict(self.done)

    def close(self) -> None:
        """Nothing is open."""


def watching(**changes) -> Watching:
    """Buckets of a second, windows of five minutes."""
    given = {
        "deployment": "d",
        "rules": Rules(),
        "span": WindowSpan(300 / 3600, 300, None),
        "bucket_us": 1_000_000,
        "threshold": 1000.0,
    }
    return Watching(**{**given, **changes})


def fold_of(log: RecordedLog, data: Path, state: LiveState | None = None, *, now=None, **changes) -> LiveFold:
    """A fold of the log."""
    what = watching(**changes)
    state = state or LiveState(deployment="d", bucket_us=what.bucket_us)
    return LiveFold(log, what, References(data), state, task="binary", birth=log.birth, now=now or log.now)


def read_all(fold: LiveFold, max_rows: int = 65_536) -> LiveFold:
    """Read until nothing is new, and close what can be closed."""
    while fold.read(max_rows):
        continue
    fold.read(max_rows)
    return fold


def traffic(log: RecordedLog, seconds: Iterable[float], *, rows: int = 20, seed: int = 1, **more) -> None:
    """A frame of rows at each moment."""
    shifts = {name: more.pop(name) for name in ("age", "score") if name in more}
    rng = np.random.default_rng(seed)
    for moment in seconds:
        log.events(moment, columns(rng, rows, **shifts), **more)
