"""Which events have a result of one version already: live, replayed before, or archived."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import LogError
from shadow_mlops.domain.events import RESULTS_PREFIX, Span, Stream, replays_stream
from shadow_mlops.eventlog.records import ResultBatch
from shadow_mlops.eventlog.seam import EventLog, Frame, Tail

_ROWS = 65_536
_PATIENCE = 10.0  # seconds for the end of the stream to become readable; its writer has gone, so it is final
_Intervals: TypeAlias = NDArray[np.int64]


class Coverage:
    """Rows of event segments, as disjoint intervals.

    Examples
    --------
    >>> coverage = Coverage()
    >>> coverage.add([Span(7, 0, 2, 2), Span(7, 5, 1, 1)])
    >>> coverage.covered(7, np.arange(7)).tolist()
    [True, True, False, False, False, True, False]
    """

    def __init__(self) -> None:
        self._known: dict[int, _Intervals] = {}
        """Segment -> int64 (k, 2): first row and row after the last, sorted, none touching another."""
        self._new: dict[int, list[_Intervals]] = {}

    def add(self, spans: Sequence[Span]) -> None:
        """Cover spans."""
        for span in spans:
            if span.count:
                self._new.setdefault(span.segment, []).append(np.array([[span.first, span.first + span.count]]))

    def add_rows(self, segments: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Cover single rows: n segments and a row in each."""
        if not len(rows):
            return
        order = np.lexsort((rows, segments))
        segments, rows = segments[order], rows[order]
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(segments)) + 1):
            inside = rows[part]
            self._new.setdefault(int(segments[part[0]]), []).append(np.column_stack((inside, inside + 1)))

    def covered(self, segment: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows of a segment are covered, bool (n,)."""
        if segment in self._new:
            added = self._new.pop(segment)
            self._known[segment] = _merged(np.concatenate([*added, self._known.get(segment, added[0])]))
        intervals = self._known.get(segment)
        if intervals is None:
            return np.zeros(len(rows), dtype=np.bool_)
        place = np.searchsorted(intervals[:, 0], rows, side="right") - 1
        inside: NDArray[np.bool_] = (place >= 0) & (rows < intervals[place, 1])
        return inside


def _merged(intervals: _Intervals) -> _Intervals:
    """Join intervals that overlap or touch.

    >>> _merged(np.array([[5, 6], [0, 2], [2, 3], [1, 2]])).tolist()
    [[0, 3], [5, 6]]
    """
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    ends = np.maximum.accumulate(intervals[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], intervals[1:, 0] > ends[:-1])))
    last = np.append(begins[1:] - 1, len(intervals) - 1)
    return np.column_stack((intervals[begins, 0], ends[last]))


def cover_replayed(event_log: EventLog, version: str, coverage: Coverage) -> None:
    """Cover what earlier replays of the version have in the log.

    Must be called by the only process that replays this version, before it writes any results.

    Raises
    ------
    LogError
        If the end of what a killed replay has left cannot be read.
    """
    stream = replays_stream(version)
    tail = event_log.tail(stream)
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            _cover(tail, version, coverage)
            left = tail.backlog()
            if not left:
                return
            if time.monotonic() > deadline:
                raise LogError(f"{left} rows of the stream {stream} cannot be read")
            time.sleep(0.005)
    finally:
        tail.close()


class LiveResults:
    """What live challengers make of one version, read as it comes.

    Parameters
    ----------
    coverage
        Told of each of their spans, shed ones included: whatever became of an event, a second result would not count.
    """

    def __init__(self, event_log: EventLog, version: str, coverage: Coverage) -> None:
        self._log = event_log
        self._version = version
        self._coverage = coverage
        self._tails: dict[Stream, Tail] = {}

    def read(self) -> None:
        """Read what is new."""
        for stream in self._log.streams():
            if stream.startswith(RESULTS_PREFIX) and stream not in self._tails:
                self._tails[stream] = self._log.tail(stream)
        for tail in self._tails.values():
            _cover(tail, self._version, self._coverage)

    def close(self) -> None:
        """Release the open files."""
        for tail in self._tails.values():
            tail.close()


def _cover(tail: Tail, version: str, coverage: Coverage) -> None:
    while items := tail.poll(_ROWS):
        for item in items:
            batch = item.batch if isinstance(item, Frame) else None
            if isinstance(batch, ResultBatch) and batch.schema.version == version:
                coverage.add(batch.spans)
