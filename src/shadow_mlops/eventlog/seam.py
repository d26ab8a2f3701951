"""What an event log must be able to do: one writer per appender, any number of independent readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from shadow_mlops.domain.events import Stream
from shadow_mlops.eventlog.records import Batch

Position: TypeAlias = Mapping[int, int]
"""Segment id -> rows of it that are done. A segment that is not named has not been begun."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one append wrote: rows ``first`` … ``first + count - 1`` of a segment.

    A result frame of which all spans are shed has an empty batch and takes one row number (``count`` 1), so
    that a position can lie behind it.
    """

    segment: int
    first: int
    count: int
    sampled: int
    """Rows that the deployment's sample contains (result and outcome frames: equal to ``count``)."""
    boot: int
    monotonic_ns: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows that this reader has not seen and that retention has removed."""

    segment: int
    first: int
    count: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Rows that this reader passed over at its own wish (:meth:`Tail.skip`)."""

    segment: int
    first: int
    count: int
    sampled: int


class Appender(Protocol):
    """The only writer of its segments."""

    def append(self, batch: Batch) -> tuple[int, int]:
        """Write the batch as one frame, wholly or not at all.

        Returns
        -------
        tuple of int
            Segment id, and the row in it of the batch's first row: together the ids of the rows.

        Raises
        ------
        AppendError
            Nothing of the batch is in the log (disk full, file too large, …); a later append may succeed.
        ValueError
            The batch is empty, or an array has another type or shape than its schema asks for.
        """
        ...

    def sync(self) -> None:
        """Return when everything appended so far survives a loss of power."""
        ...

    def close(self) -> None:
        """Seal the segment; no append may follow."""
        ...


class Tail(Protocol):
    """One reader of one stream, at its own pace. It takes no lock that a writer takes."""

    def poll(self, max_rows: int) -> Sequence[Frame | Gone]:
        """Whole frames that follow the position: at least one if there is any, at most ``max_rows`` rows.

        Within a segment in order; across segments in order of (boot, monotonic time) as far as known.
        Returns at once, empty when there is nothing new. A torn or corrupt frame that is final is set aside
        and logged; the rest is read.
        """
        ...

    def backlog(self) -> int:
        """Rows that :meth:`poll` or :meth:`skip` would still return, those of :class:`Gone` included."""
        ...

    def skip(self, rows: int) -> Sequence[Skipped | Gone]:
        """Pass undecoded over whole frames, oldest first, until ``rows`` rows are passed or none is left."""
        ...

    def position(self) -> Position:
        """Where the reader is, to be given to :meth:`EventLog.tail` later."""
        ...

    def close(self) -> None:
        """Release what the reader holds open."""
        ...


class BeatingAppender(Appender, Protocol):
    """An appender whose silence ordered readers can tell from slowness."""

    def beat(self) -> None:
        """Promise that all later appends are later than now; due each second or so from an idle writer."""
        ...


class OrderedTail(Tail, Protocol):
    """A tail that can also read in one order for all."""

    def poll_ordered(self, max_rows: int) -> Sequence[Frame | Gone]:
        """As :meth:`Tail.poll`, but only frames that no later append of a living writer can precede.

        The sequence over all segments, by (boot, monotonic time), is the same whatever the polling.
        """
        ...

    def horizon(self) -> tuple[int, int]:
        """Boot and monotonic time that all frames exceed which :meth:`poll_ordered` has still to return.

        Holds once :meth:`poll_ordered` has returned nothing. Where no writer lives it is beyond every frame that was in
        the log by then.
        """
        ...


class EventLog(Protocol):
    """All streams of one deployment on one host, or in one database."""

    def appender(self, stream: Stream, *, writer: str) -> Appender:
        """Open a new segment of the stream for one writer (``gateway-0``, ``challenger``, …)."""
        ...

    def tail(self, stream: Stream, position: Position | None = None) -> Tail:
        """Read the stream from a position.

        None: from its oldest retained row, without :class:`Gone` for older ones. A position is one that
        a tail has given, or otherwise lies between two frames.
        """
        ...

    def streams(self) -> Sequence[Stream]:
        """Streams that have at least one segment."""
        ...
