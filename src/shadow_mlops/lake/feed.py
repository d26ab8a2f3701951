"""What the log has for the lake, in the one order of the log: the streams merged by the time of each append."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, cast

from shadow_mlops.domain.events import EVENTS, OUTCOMES, REPLAYS_PREFIX, RESULTS_PREFIX, Stream
from shadow_mlops.eventlog.seam import EventLog, Frame, Gone, OrderedTail

_Key: TypeAlias = tuple[int, int, int, int]
_AT_ONCE: _Key = (-1, 0, 0, 0)


class Taken(NamedTuple):
    """One item of one stream."""

    stream: Stream
    item: Frame | Gone


@dataclass(slots=True)
class _Source:
    """One stream: its reader, and the frames that were read and not taken."""

    tail: OrderedTail
    held: deque[Frame | Gone] = field(default_factory=deque)
    rows: int = 0
    complete: bool = False
    """The last poll returned nothing: whatever is still to come is later than the tail's horizon."""

    def fill(self, rows: int) -> None:
        self.complete = False
        while self.rows < rows:
            items = self.tail.poll_ordered(rows - self.rows)
            if not items:
                self.complete = True
                break
            self.held += items
            self.rows += sum(item.count for item in items)

    @property
    def key(self) -> _Key:
        head = self.held[0]
        if isinstance(head, Gone):
            return _AT_ONCE
        return head.boot, head.monotonic_ns, head.segment, head.first

    def pop(self) -> Frame | Gone:
        item = self.held.popleft()
        self.rows -= item.count
        return item


class Feed:
    """Events as they were appended; outcomes and results behind all events that were appended before them.

    An outcome therefore never comes before an event that it may belong to, and no result before its event, however
    late a writer or a reader is. A challenger that stands still holds up its own results only.

    Parameters
    ----------
    positions
        Stream -> segment -> rows that are done, as the manifest has them.
    """

    def __init__(self, event_log: EventLog, positions: Mapping[str, Mapping[int, int]]) -> None:
        self._log = event_log
        self._start = {stream: dict(segments) for stream, segments in positions.items()}
        self._sources: dict[Stream, _Source] = {}
        self.passed: dict[Stream, Mapping[int, int]] = {}
        """Stream that is read from its beginning -> what was removed from it before anybody archived."""
        self._open(EVENTS)
        self.outcomes_complete = False
        """Every outcome that was in the log when :meth:`take` was called last has been taken."""

    def take(self, max_rows: int) -> list[Taken]:
        """The next frames, about ``max_rows`` rows of them; none if nothing is new."""
        for stream in self._log.streams():
            if stream == OUTCOMES or stream.startswith((RESULTS_PREFIX, REPLAYS_PREFIX)):
                self._open(stream)
        events = self._sources[EVENTS]
        # Events last: what the other streams hold by now is then later than nothing that the events lack.
        for source in self._sources.values():
            if source is not events:
                source.fill(max_rows)
        events.fill(max_rows)
        taken = self._merge(max_rows)
        outcomes = self._sources.get(OUTCOMES)
        self.outcomes_complete = outcomes is None or (outcomes.complete and not outcomes.held)
        if outcomes is not None and self.outcomes_complete:
            self.outcomes_complete = outcomes.tail.backlog() == 0
        return taken

    def known(self, stream: Stream) -> set[int]:
        """Segments of the stream of which the log has anything left."""
        source = self._sources.get(stream)
        return set(source.tail.position()) if source is not None else set()

    def close(self) -> None:
        """Release the open files."""
        for source in self._sources.values():
            source.tail.close()

    def _open(self, stream: Stream) -> None:
        if stream not in self._sources:
            start = self._start.get(stream)
            tail = cast("OrderedTail", self._log.tail(stream, start))
            self._sources[stream] = _Source(tail)
            if start is None:
                self.passed[stream] = tail.position()

    def _merge(self, max_rows: int) -> list[Taken]:
        taken: list[Taken] = []
        rows = 0
        events = self._sources[EVENTS]
        while rows < max_rows:
            waiting = [(source.key, stream) for stream, source in self._sources.items() if source.held]
            if not waiting:
                break
            key, stream = min(waiting)
            if not events.held and stream != EVENTS and not (events.complete and key[:2] <= events.tail.horizon()):
                break
            item = self._sources[stream].pop()
            taken.append(Taken(stream, item))
            rows += item.count
        return taken


def frames_of(taken: Sequence[Taken], stream: Stream) -> list[Frame]:
    """The frames of one stream."""
    return [item for name, item in taken if name == stream and isinstance(item, Frame)]
