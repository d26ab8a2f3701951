"""Events that lack features, a store that had them at different times, and a model that remembers what it was given."""

from __future__ import annotations

import msgspec
import numpy as np

from featureserver import DAY_US, Stoppable
from shadow_mlops.challenger.scoring import Scored
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.events import Origin
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Frame
from shadowing import SCHEMA

NOW = 100 * DAY_US
EVENTS = msgspec.structs.replace(SCHEMA, numbers=("a", "extra"), strings=("plan",))
OLDER = msgspec.structs.replace(SCHEMA, numbers=("a",), strings=())
WANTED = Signature((Feature("a"), Feature("extra"), Feature("plan", "string")))
SENT, ABSENT = int(Origin.REQUEST), int(Origin.ABSENT)


class Historical(Stoppable):
    """Fails in history too, and counts the reads."""

    def history(self, names, keys, times):
        self.reads.append(len(keys))
        if self.failing:
            raise UnavailableError("the store is down")
        return super().history(names, keys, times)


def store() -> Historical:
    made = Historical({"extra": 50 * DAY_US, "plan": 50 * DAY_US}, clock=lambda: NOW)
    made.write("c", time=NOW - 2 * DAY_US, values={"extra": 2.0, "plan": "two"})
    made.write("c", time=NOW - DAY_US, values={"extra": 1.0, "plan": "one"})
    return made


def frame(schema, rows: list[tuple[str | None, float, list[float], list[str | None], list[int] | None]]) -> Frame:
    n = len(rows)
    origins = None if rows[0][4] is None else np.array([row[4] for row in rows], dtype=np.uint8)
    batch = EventBatch(
        schema=schema,
        times=np.array([NOW - int(row[1] * DAY_US) for row in rows]),
        latencies=np.ones(n, dtype=np.uint32),
        request_ids=[f"r{i}" for i in range(n)],
        entities=[row[0] for row in rows],
        numbers=np.array([row[2] for row in rows]),
        strings=np.array([row[3] for row in rows], dtype=object).reshape(n, len(schema.strings)),
        scores=np.full((n, 2), 0.5),
        origins=origins,
    )
    return Frame(7, 0, n, n, 1, 1, batch)


class Seen:
    """A model that remembers its rows."""

    def __init__(self) -> None:
        self.rows: list[list] = []

    def __call__(self, numbers, strings) -> Scored:
        self.rows += [[*a, *b] for a, b in zip(numbers.tolist(), strings.tolist(), strict=True)]
        n = len(numbers)
        return Scored(np.zeros(n, np.uint8), np.full((n, 2), 0.5), np.ones(n, np.uint32))
