"""When the log is archived, and what happens when it cannot be."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.eventlog.retention import SegmentInfo
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.monitor.publishing import Publisher

log = structlog.get_logger()

_EVERY_SECONDS = 5.0
_BACKLOG_ROWS = 10_000
"""A round that found more is followed by the next at once."""
_IDLE_PART = 4.0
"""Pause after a round that took long (labels meet all events of a large lake), as a multiple of it."""


class Archiving:
    """The archiver's pace. What goes wrong in it is told and tried again, and stops nothing else.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(
        self, archiver: Archiver, publisher: Publisher, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._archiver = archiver
        self._publisher = publisher
        self._clock = clock
        self._next = 0.0
        self._problem = ""

    def step(self) -> None:
        """Make one round if one is due."""
        if self._clock() < self._next:
            return
        rows, began = 0, self._clock()
        try:
            rows = self._archiver.round()
        except (ShadowError, OSError) as error:
            if str(error) != self._problem:
                log.error("the log is not archived", problem=str(error))
            self._problem = str(error)
        else:
            if self._problem:
                log.info("the log is archived again")
            self._problem = ""
        pause = max(_EVERY_SECONDS, _IDLE_PART * (self._clock() - began)) if rows < _BACKLOG_ROWS else 0.0
        self._next = self._clock() + pause
        self._publisher.publish_lake(self._archiver.manifest, failing=bool(self._problem))

    def publish_lag(self, infos: Sequence[SegmentInfo]) -> None:
        """Tell what the log has and the lake has not, by the log: it goes on growing while nothing is archived."""
        rows: dict[str, int] = defaultdict(int)
        for info in infos:
            rows[info.stream] += 0 if info.state == "retired" else self.unarchived(info)
        self._publisher.publish_lag(rows)

    def unarchived(self, info: SegmentInfo) -> int:
        """How many rows of a segment the lake does not have."""
        return max(info.rows - self._archiver.positions().get(info.stream, {}).get(info.segment, 0), 0)

    def close(self) -> None:
        """Release the open files."""
        self._archiver.close()
