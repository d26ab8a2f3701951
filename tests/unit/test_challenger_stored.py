"""Features that only a challenger takes are read as of the event, and an outage of the store is no fault of a model."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from featureserver import DAY_US, Stoppable
from shadow_mlops.breaker import Breaker
from shadow_mlops.challenger.scoring import Scored, score_events
from shadow_mlops.challenger.stored import StoredFeatures
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.events import Origin, Status
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Frame
from shadowing import RESULTS, SCHEMA

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


def score(frames: list[Frame], fill) -> tuple[list[list], list[int] | None]:
    model = Seen()
    found = score_events(frames, model, signature=WANTED, schema=RESULTS, batch_rows=2, fill=fill)
    return model.rows, None if found is None else found.statuses.tolist()


ROWS = [
    ("c", 0.0, [5.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    ("c", 1.5, [6.0, np.nan], ["sent"], [SENT, ABSENT, SENT]),
    ("c", 3.0, [7.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    (None, 0.0, [8.0, np.nan], [None], [SENT, ABSENT, ABSENT]),
    ("c", 0.0, [9.0, np.nan], [None], [SENT, int(Origin.MISSING), SENT]),
]


def test_what_nobody_has_looked_for_is_read_as_of_the_events_time():
    rows, statuses = score([frame(EVENTS, ROWS)], StoredFeatures(store).fill)
    missing = pytest.approx(float("nan"), nan_ok=True)
    assert rows == [
        [5.0, 1.0, "one"],
        [6.0, 2.0, "sent"],  # as it was a day and a half ago
        [7.0, missing, None],  # nothing was known then
        [8.0, missing, None],  # nobody to look for
        [9.0, missing, None],  # sent as null: a missing value
    ]
    assert statuses == [Status.PAIRED] * 5


def test_events_from_before_the_challenger_are_completed_too():
    kept = store()
    rows, _ = score([frame(OLDER, [("c", 0.0, [5.0], [], None)])], StoredFeatures(lambda: kept).fill)
    assert rows == [[5.0, 1.0, "one"]]


def test_a_store_is_not_even_opened_where_events_have_all():
    whole = [("c", 0.0, [5.0, 4.0], ["x"], None)]
    rows, _ = score([frame(EVENTS, whole)], StoredFeatures(lambda: pytest.fail("opened")).fill)
    assert rows == [[5.0, 4.0, "x"]]


def test_an_outage_is_waited_for_then_counted_and_then_over():
    kept, clock = store(), [0.0]
    kept.failing = True
    breaker = Breaker(failures=3, pause=5.0, longest=60.0, clock=lambda: clock[0])
    fill = StoredFeatures(lambda: kept, breaker=breaker, clock=lambda: clock[0]).fill
    frames = [frame(EVENTS, [*ROWS[:1], ("c", 0.0, [1.0, 2.0], ["x"], [SENT, SENT, SENT])])]
    assert score(frames, fill) == ([], None)
    assert score(frames, fill) == ([], None)
    assert len(kept.reads) == 1  # not again at once
    clock[0] = 1.1
    assert score(frames, fill) == ([], None)
    clock[0] = 2.2
    assert score(frames, fill) == ([[1.0, 2.0, "x"]], [Status.ERRORED, Status.PAIRED])
    assert score(frames, fill) == ([[1.0, 2.0, "x"]], [Status.ERRORED, Status.PAIRED])
    assert len(kept.reads) == 3  # left alone now
    kept.failing = False
    clock[0] = 8.0
    assert score(frames, fill) == ([[5.0, 1.0, "one"], [1.0, 2.0, "x"]], [Status.PAIRED, Status.PAIRED])
