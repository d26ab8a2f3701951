"""Where a challenger goes on after a restart: its own results name the events that they cover."""

from __future__ import annotations

import time

from shadow_mlops.domain.errors import LogError
from shadow_mlops.domain.events import results_stream
from shadow_mlops.eventlog.records import ResultBatch
from shadow_mlops.eventlog.seam import EventLog, Frame

_ROWS = 65_536
_PATIENCE = 10.0  # seconds for the end of the stream to become readable; its writer has gone, so it is final


def recover_position(event_log: EventLog, challenger: str) -> dict[int, int] | None:
    """Fold the spans of every retained result frame of the challenger.

    Must be called by the only process that writes these results, before it writes any.

    Returns
    -------
    dict or None
        Event segment -> rows done; None if there are no results: the challenger starts for the first time.

    Raises
    ------
    LogError
        If the end of the results cannot be read.
    """
    tail = event_log.tail(results_stream(challenger))
    position: dict[int, int] = {}
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            items = tail.poll(_ROWS)
            for item in items:
                if isinstance(item, Frame) and isinstance(item.batch, ResultBatch):
                    for span in item.batch.spans:
                        position[span.segment] = max(position.get(span.segment, 0), span.first + span.count)
            if items:
                deadline = time.monotonic() + _PATIENCE
            elif tail.backlog() == 0:
                return position or None
            elif time.monotonic() > deadline:
                raise LogError(f"{tail.backlog()} rows of the results of {challenger!r} cannot be read")
            else:
                time.sleep(0.005)
    finally:
        tail.close()
