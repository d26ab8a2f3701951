"""Live drift: the log folded into counts, window by window compared with what the champion was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

import structlog

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.events import EVENTS, RESULTS_PREFIX
from shadow_mlops.domain.models import Task
from shadow_mlops.drift.buckets import levels_for
from shadow_mlops.drift.clock import HOUR_US, Birth, BirthOf, LogClock
from shadow_mlops.drift.counters import EventCounter, ResultCounter
from shadow_mlops.drift.detection import Change, Detection, Watching
from shadow_mlops.drift.lanes import Lane, Span
from shadow_mlops.drift.livestate import LaneState, LiveState
from shadow_mlops.drift.references import References
from shadow_mlops.drift.rules import rules_of
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import EventLog, Frame, Gone, OrderedTail

log = structlog.get_logger()

Moment: TypeAlias = tuple[int, int]
"""Boot and monotonic nanoseconds of it."""
_ROWS = 65_536


def watching_of(deployment: Deployment, *, psi: float) -> Watching:
    """What a deployment file says of live drift.

    Parameters
    ----------
    psi
        Threshold that holds where the file is silent.
    """
    drift = deployment.drift
    return Watching(
        deployment=deployment.name,
        rules=rules_of(deployment, psi=psi),
        span=Span(drift.window.hours, drift.window.min_rows, drift.window.rows),
        bucket_us=round(drift.bucket * 1e6),
        threshold=drift.run_length / drift.bucket,
        bins=drift.bins,
        seasonal=drift.reference == "seasonal",
        once=drift.one_row_per_entity,
    )


class LiveFold:
    """Folds the log. Equal logs and references give equal counts, alarms and episodes, however they are read.

    Parameters
    ----------
    state
        As it was saved, or a new one.
    birth
        When a segment of the events was created, on both clocks.
    now
        This moment, by which appends to come can be told from those that would have come by now.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from shadow_mlops.drift.lanes import Span
    >>> from shadow_mlops.drift.rules import Rules
    >>> from shadow_mlops.eventlog.memory import MemoryLog
    >>> watching = Watching(
    ...     deployment="churn", rules=Rules(), span=Span(24, 500, None), bucket_us=60_000_000, threshold=43_200,
    ... )  # fmt: skip
    >>> live = LiveFold(
    ...     MemoryLog(), watching, References(Path(tempfile.mkdtemp())), LiveState(deployment="churn"), task="binary",
    ...     birth=lambda segment: None, now=lambda: (1, 0),
    ... )  # fmt: skip
    >>> live.read(), live.champion.state.last
    (0, None)
    """

    def __init__(
        self,
        event_log: EventLog,
        watching: Watching,
        references: References,
        state: LiveState,
        *,
        task: Task,
        birth: BirthOf,
        now: Callable[[], Moment],
    ) -> None:
        self.watching = watching
        self.state = state
        self._log = event_log
        self._references = references
        self._task: Task = task
        self._birth = birth
        self._now = now
        self._clock = LogClock(watching.bucket_us, state.champion.offsets)
        self._levels = levels_for(watching.bucket_us, window_hours=watching.span.hours, seasonal=watching.seasonal)
        self.detection = Detection(watching, state.champion)
        self.champion = Lane(
            self._tail(EVENTS, state.champion),
            self._clock,
            state.champion,
            references=references,
            levels=self._levels,
            counter=EventCounter(state.champion, unchecked=watching.rules.unchecked, once=watching.once),
            watcher=self.detection,
        )
        self.challengers: dict[str, Lane] = {}
        self._held: dict[str, list[Frame | Gone]] = {}
        """Results of a boot whose first event has not been read."""

    @property
    def changes(self) -> list[Change]:
        """Episodes that have begun or ended and are not recorded; whoever records them empties the list."""
        return self.detection.changes

    def read(self, max_rows: int = _ROWS) -> int:
        """Fold what the log has by now, about so many rows of each stream.

        Returns
        -------
        int
            Rows that were read; 0 when nothing is new.
        """
        rows = self._read_events(max_rows)
        self._open_challengers()
        return rows + sum(self._read_results(name, max_rows) for name in list(self.challengers))

    def saved(self) -> LiveState:
        """The state as it is to be saved: of closed buckets."""
        self.detection.remember()
        return self.state

    def close(self) -> None:
        """Release the open files."""
        for lane in (self.champion, *self.challengers.values()):
            lane.tail.close()

    def in_span(self, lane: Lane) -> bool:
        """Whether a challenger has scored anything in the span of the champion's window."""
        last, newest = lane.state.last, self.champion.state.last
        if last is None or newest is None:
            return False
        return last >= newest - int(self.watching.span.hours * HOUR_US) // self.watching.bucket_us

    def _tail(self, stream: str, state: LaneState) -> OrderedTail:
        return cast("OrderedTail", self._log.tail(stream, state.positions or None))

    def _read_events(self, max_rows: int) -> int:
        lane, now = self.champion, self._now()
        items = lane.tail.poll_ordered(max_rows)
        for item in items:
            if isinstance(item, Frame) and not self._clock.knows(item.boot):
                self._clock.begin(item.boot, item.monotonic_ns, self._born(item), after=lane.newest)
            closed = lane.state.last
            lane.take(item)
            if lane.state.last != closed:
                self._settled()
        if not items:
            closed = lane.state.last
            lane.advance(*min(now, lane.tail.horizon()))
            if lane.state.last != closed:
                self._settled()
        return sum(item.count for item in items)

    def _settled(self) -> None:
        self.state.champion.offsets = dict(self._clock.offsets)

    def _born(self, frame: Frame) -> Birth:
        born = self._birth(frame.segment)
        if born is not None:
            return born
        # Its header is damaged, or the log keeps none: the event's own receipt will do.
        assert isinstance(frame.batch, EventBatch)  # noqa: S101 - the stream has no others
        received = int(frame.batch.times[0]) + int(frame.batch.latencies[0])
        return Birth(frame.monotonic_ns, received)

    def _open_challengers(self) -> None:
        streams = {name for name in self._log.streams() if name.startswith(RESULTS_PREFIX)}
        for stream in streams:
            name = stream.removeprefix(RESULTS_PREFIX)
            if name in self.challengers:
                continue
            state = self.state.challengers.setdefault(name, LaneState())
            self.challengers[name] = Lane(
                self._tail(stream, state),
                self._clock,
                state,
                references=self._references,
                levels=self._levels,
                counter=ResultCounter(self._task),
            )
        for name in self.challengers.keys() - {stream.removeprefix(RESULTS_PREFIX) for stream in streams}:
            self.challengers.pop(name).tail.close()
            self.state.challengers.pop(name, None)
            self._held.pop(name, None)

    def _read_results(self, name: str, max_rows: int) -> int:
        lane, now = self.challengers[name], self._now()
        items = self._held.pop(name, None) or lane.tail.poll_ordered(max_rows)
        for place, item in enumerate(items):
            if isinstance(item, Frame) and not self._known(item.boot):
                self._held[name] = [*items[place:]]
                return 0
            lane.take(item)
        if not items:
            lane.advance(*min(now, lane.tail.horizon()))
        return sum(item.count for item in items)

    def _known(self, boot: int) -> bool:
        """Whether it is clear in which bucket the boot's frames are."""
        return self._clock.knows(boot) or boot < max(self._clock.offsets, default=0)
