"""One stream of the log, bucket by bucket: what is counted, against which reference, and when a bucket is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.buckets import Ladder, Level, Window
from shadow_mlops.drift.clock import HOUR_US, LogClock
from shadow_mlops.drift.livestate import Identity, LaneState
from shadow_mlops.drift.panels import Panel
from shadow_mlops.drift.references import Reference, References, remembered
from shadow_mlops.eventlog.seam import Frame, Gone, OrderedTail
from shadow_mlops.models.reference import ReferenceProfile

Ints = NDArray[np.int64]
CHUNK_ROWS = 8192
"""Rows that are collected before they are counted: a call for each column costs as much as thousands of its values."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which buckets a window has, as the deployment file says."""

    hours: float
    min_rows: int
    rows: int | None


class Counter(Protocol):
    """What the rows of a stream are, and how they are counted."""

    def identity(self, frame: Frame) -> Identity | None:
        """The version that a frame speaks for; None: for none that a reference follows."""

    def panel(self, profile: ReferenceProfile, identity: Identity) -> Panel:
        """What is counted against a reference."""

    def collect(self, frame: Frame) -> int:
        """Keep the rows of a frame to be counted; how many these are."""

    def count(self, panel: Panel, vector: Ints) -> None:
        """Count what was kept."""

    def discard(self) -> None:
        """Drop what was kept: there is nothing to count it against."""

    def begin(self) -> None:
        """A new bucket begins."""


class Watcher(Protocol):
    """Who looks at closed buckets."""

    def laid_out(self, lane: Lane) -> None:
        """A reference has come into force, or a saved state has been taken up."""

    def settled(self, lane: Lane, bucket: int, vector: Ints) -> None:
        """A bucket with rows has been closed."""

    def left(self, lane: Lane, bucket: int) -> None:
        """The reference ceases to be in force at the end of that bucket."""


class Lane:
    """Reads one stream in its order.

    A bucket is closed when nothing more can come into it. Whatever is remembered (``state``) is of closed buckets only,
    with the position behind the last of them: after a restart the open one is counted again from the log.

    Parameters
    ----------
    tail
        Of the stream, from ``state.positions`` on.
    state
        As it was saved, or a new one; changed in place, whenever a bucket is closed.
    watcher
        None: nobody looks.
    """

    def __init__(
        self,
        tail: OrderedTail,
        clock: LogClock,
        state: LaneState,
        *,
        references: References,
        levels: Sequence[Level],
        counter: Counter,
        watcher: Watcher | None = None,
    ) -> None:
        self.state = state
        self.tail = tail
        self.clock = clock
        self._references = references
        self._levels = levels
        self._counter = counter
        self._watcher = watcher
        self._positions = dict(state.positions)
        self._open: int | None = None
        self._rows = 0
        """Of the open bucket."""
        self._uncounted = 0
        self._vector: Ints | None = None
        self._newest: Identity | None = None
        """Version of the newest frame of the open bucket."""
        self._still = False
        """Whether the version in force has a frame in the open bucket."""
        self.panel: Panel | None = None
        self.reference: ReferenceProfile | None = None
        self.ladder: Ladder | None = None
        if state.reference is not None:
            self._lay_out(remembered(state.reference))

    @property
    def newest(self) -> int | None:
        """Newest bucket that any row fell into."""
        return self.state.last if self._open is None else self._open

    def take(self, item: Frame | Gone) -> None:
        """Take the next item of the stream; the clock knows its boot, or will never know it."""
        if isinstance(item, Frame):
            bucket = self._bucket(item)
            if self._open is not None and bucket > self._open:
                self._close()
            self._open = bucket
            self._note(self._counter.identity(item))
            rows = self._counter.collect(item)
            self._rows += rows
            self._uncounted += rows
            if self._uncounted >= CHUNK_ROWS:
                self._count()
        else:
            self.state.lost += item.count
        self._positions[item.segment] = item.first + item.count

    def advance(self, boot: int, monotonic_ns: int) -> None:
        """Nothing will come any more that was appended before that moment."""
        if self._open is None:
            return
        if self.clock.knows(boot):
            over = self.clock.bucket(boot, monotonic_ns) > self._open
        else:
            over = boot > max(self.clock.offsets, default=0)
        if over:
            self._close()

    def window(self, span: Span, *, until: int | None = None) -> Window | None:
        """The newest buckets, summed; None if nothing is counted.

        Parameters
        ----------
        until
            Bucket that the span of time ends with; None: the newest.
        """
        if self.ladder is None or self.state.last is None:
            return None
        end_us = self.clock.start_us((self.state.last if until is None else until) + 1)
        since_us = end_us - int(span.hours * HOUR_US)
        return self.ladder.window(since_us=since_us, min_rows=span.min_rows, rows=span.rows)

    def _bucket(self, frame: Frame) -> int:
        last = -1 if self.state.last is None else self.state.last
        least = last + 1 if self._open is None else self._open
        if not self.clock.knows(frame.boot):  # results of a boot without events: nobody says when that was
            return least
        return max(self.clock.bucket(frame.boot, frame.monotonic_ns), least)

    def _note(self, identity: Identity | None) -> None:
        if identity is None:
            return
        self._newest = identity
        if self.state.identity is None and self._open is not None:  # the first of all: no earlier bucket has decided
            self._follow(identity, self._open - 1)
        self._still = self._still or identity == self.state.identity

    def _count(self) -> None:
        if self.panel is None:
            self._counter.discard()
        elif self._uncounted:
            if self._vector is None:
                self._vector = np.zeros(self.panel.size, dtype=np.int64)
            self._counter.count(self.panel, self._vector)
        self._uncounted = 0

    def _close(self) -> None:
        bucket = self._open
        assert bucket is not None  # noqa: S101 - callers have seen it
        self._count()
        alive = self.tail.position()
        self._positions = {segment: rows for segment, rows in self._positions.items() if segment in alive}
        self.state.last, self.state.positions = bucket, dict(self._positions)
        if self.panel is not None and self.ladder is not None and self._rows:
            vector = np.zeros(self.panel.size, dtype=np.int64) if self._vector is None else self._vector
            self.ladder.add(bucket, self._rows, vector)
            if self._watcher is not None:
                self._watcher.settled(self, bucket, vector)
        self._decide(bucket)
        self._open, self._vector, self._rows = None, None, 0
        self._newest, self._still = None, False
        self._counter.begin()

    def _decide(self, bucket: int) -> None:
        """Which version and which reference are in force in the next bucket."""
        now, newest = self.state.identity, self._newest
        if now is None:
            return
        if newest is None or newest == now or (newest.registry_version == self.state.before and self._still):
            # The last: workers that have not changed over yet answer beside those that have. Who comes back by a
            # rollback is alone sooner or later.
            self._follow(now, bucket)
            return
        self.state.before = now.registry_version
        self._follow(newest, bucket)

    def _follow(self, identity: Identity, bucket: int) -> None:
        found = self._references.find(identity)
        in_force = self.state.reference
        if isinstance(found, Reference) and in_force is not None and in_force.id == found.id:
            self.state.identity = identity
            return
        if in_force is not None:
            self._leave(bucket)
        self.state.identity = identity
        self.state.since, self.state.units = bucket + 1, []
        if isinstance(found, Reference):
            self.state.reference, self.state.problem = found.in_force, ""
            self._lay_out(found.profile)
        else:
            self.state.reference, self.state.problem = None, found
            self.panel = self.reference = self.ladder = None

    def _leave(self, bucket: int) -> None:
        if self._watcher is not None:
            self._watcher.left(self, bucket)

    def _lay_out(self, profile: ReferenceProfile) -> None:
        assert self.state.identity is not None  # noqa: S101 - it has led to the reference
        self.reference = profile
        self.panel = self._counter.panel(profile, self.state.identity)
        if self.state.units and self.state.layout != self.panel.layout:  # other features are to be checked now
            last = 0 if self.state.last is None else self.state.last
            self._leave(last)
            self.state.since, self.state.units = last + 1, []
        self.state.layout = self.panel.layout
        self.ladder = Ladder(self.clock.bucket_us, self._levels, self.panel.size, self.state.units)
        self.state.units = self.ladder.units
        if self._watcher is not None:
            self._watcher.laid_out(self)
