"""Features that only a challenger takes are read as of the event, and an outage of the store is no fault of a model."""

from __future__ import annotations

import numpy as np
import pytest

from shadow_mlops.breaker import Breaker
from shadow_mlops.challenger.scoring import score_events
from shadow_mlops.challenger.stored import StoredFeatures
from shadow_mlops.domain.events import Origin, Status
from shadow_mlops.eventlog.seam import Frame
from shadowing import RESULTS
from storedfeatures import ABSENT, EVENTS, OLDER, SENT, WANTED, Seen, frame, store


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
