"""Which segments of the log may go, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import structlog

from shadow_mlops.domain.errors import ConflictError, LogError
from shadow_mlops.domain.events import EVENTS, REPLAYS_PREFIX, RESULTS_PREFIX
from shadow_mlops.eventlog.retention import Retention, SegmentInfo
from shadow_mlops.monitor.ledger import Ledger

log = structlog.get_logger()

Reason: TypeAlias = Literal["age", "bytes", "absent"]
_FULL = 0.9
"""Removal begins at this part of the declared bytes: living segments grow on between two looks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the deployment allows."""

    max_bytes: int
    """Of the whole log, tombstones included."""
    max_age_seconds: float
    """Of a segment's newest row."""


@dataclass(frozen=True, slots=True)
class Removal:
    """One segment that is to go."""

    info: SegmentInfo
    reason: Reason


class Retainer:
    """Keeps the log within its limits.

    Parameters
    ----------
    removed
        Told stream and reason of each removed segment.
    unarchived
        How many rows of a segment the lake does not have.
    lost
        Told stream and rows of each segment that had to go before it was archived.
    """

    def __init__(
        self,
        retention: Retention,
        ledger: Ledger,
        limits: Limits,
        *,
        removed: Callable[[str, Reason], None],
        unarchived: Callable[[SegmentInfo], int] = lambda _: 0,
        lost: Callable[[str, int], None] = lambda _stream, _rows: None,
    ) -> None:
        self._retention = retention
        self._ledger = ledger
        self._limits = limits
        self._removed = removed
        self._unarchived = unarchived
        self._lost = lost
        self._overfull = False

    def look(self) -> list[SegmentInfo]:
        """List the log, and tell the ledger what is retired or gone."""
        infos = self._retention.segments()
        segments = self._ledger.state.segments
        there = {info.segment: info.state for info in infos if info.stream == EVENTS}
        for segment in list(segments):
            if segment not in there:
                self._ledger.close_segment(segment)
            elif there[segment] == "retired":
                segments[segment].retired = True
        return infos

    def due(self, infos: Sequence[SegmentInfo], *, serving: Collection[str] | None) -> list[Removal]:
        """What should be removed now. The ledger must be saved before that is done.

        Parameters
        ----------
        infos
            As :meth:`look` gave them.
        serving
            Names of the challengers that have a version; None: not known.
        """
        ages = age_of_segments(infos)
        absent = self._absent(infos, serving)
        removals = [
            Removal(info, "absent") for info in infos if info.state in ("sealed", "dead") and info.stream in absent
        ]
        rest = [info for info in infos if info.stream not in absent]
        removals += choose(
            rest,
            self._limits,
            ages,
            free=self._is_free(infos),
            passed=self._ledger.passed,
            archived=lambda info: self._unarchived(info) == 0,
        )
        total = sum(info.bytes for info in infos) - sum(removal.info.bytes for removal in removals)
        if (total > self._limits.max_bytes) != self._overfull:
            self._overfull = not self._overfull
            if self._overfull:
                log.warning("the log is larger than declared and nothing more may go", bytes=total)
        return removals

    def apply(self, removals: Sequence[Removal]) -> None:
        """Remove the segments; what cannot be removed now is tried again at the next look."""
        for removal in removals:
            info = removal.info
            try:
                self._retention.retire(info)
            except (LogError, ConflictError, OSError) as error:
                log.warning("segment cannot be removed", file=info.path.name, problem=str(error))
                continue
            log.info("segment removed", stream=info.stream, file=info.path.name, reason=removal.reason)
            self._removed(info.stream, removal.reason)
            missing = self._unarchived(info)
            if missing:
                log.error("segment removed before it was archived", file=info.path.name, rows=missing)
                self._lost(info.stream, missing)
            if info.stream == EVENTS:
                self._ledger.state.segments[info.segment].retired = True
            else:  # nobody is told of removed results and outcomes
                self.forget([replace(info, state="retired")])

    def passed(self, infos: Sequence[SegmentInfo]) -> list[SegmentInfo]:
        """Tombstones that every reader has passed. The ledger must be saved before they are forgotten."""
        return [
            info
            for info in infos
            if info.state == "retired"
            and (info.stream != EVENTS or (self._ledger.passed(info.segment) and not self._unarchived(info)))
        ]

    def forget(self, tombstones: Sequence[SegmentInfo]) -> None:
        """Remove tombstones, and what the ledger keeps of their segments."""
        for info in tombstones:
            self._retention.forget(info)
            if info.stream == EVENTS:
                self._ledger.close_segment(info.segment)
            else:
                self._ledger.state.references.get(info.stream, {}).pop(info.segment, None)

    def _absent(self, infos: Sequence[SegmentInfo], serving: Collection[str] | None) -> set[str]:
        # A challenger that nobody has wanted for longer than anything is kept holds up nothing any more.
        oldest = time.time() - self._limits.max_age_seconds
        absent: set[str] = set()
        if serving is None:
            return absent
        for name, account in list(self._ledger.state.accounts.items()):
            stream = RESULTS_PREFIX + name
            live = any(info.stream == stream and info.state == "live" for info in infos)
            if name not in serving and not live and account.seen_at < oldest:
                log.info("account closed, its challenger has been absent", challenger=name)
                self._ledger.drop_account(name)
                absent.add(stream)
        return absent

    def _is_free(self, infos: Sequence[SegmentInfo]) -> Callable[[SegmentInfo], bool]:
        """Whether a segment has been counted whole and, being one of results, no restart needs it.

        A challenger recovers its position from its results: without them it would score again whatever is
        left of the events that they name.
        """
        state = self._ledger.state
        events = {info.segment for info in infos if info.stream == EVENTS}

        def free(info: SegmentInfo) -> bool:
            if info.stream == EVENTS:
                counted = state.segments.get(info.segment)
                return counted is not None and counted.rows >= info.rows
            if info.stream.startswith(REPLAYS_PREFIX):
                return True  # nobody counts them, and a replay that is begun again finds its results in the lake
            position: Mapping[int, int] = state.positions.get(info.stream, {})
            if position.get(info.segment, 0) < info.rows:
                return False
            named = state.references.get(info.stream, {}).get(info.segment, [])
            return events.isdisjoint(named)

        return free


def age_of_segments(infos: Sequence[SegmentInfo]) -> dict[int, float]:
    """Seconds since the newest row of each segment.

    Within one boot by the monotonic clock, so that a step of the wall clock removes nothing.
    """
    boot = max((info.boot for info in infos), default=0)
    now, wall = time.monotonic_ns(), time.time()
    ages = {}
    for info in infos:
        if info.boot == boot and info.monotonic_ns <= now:
            ages[info.segment] = (now - info.monotonic_ns) / 1e9
        else:
            ages[info.segment] = wall - info.created_us / 1e6 if info.created_us else 0.0
    return ages


def choose(
    infos: Sequence[SegmentInfo],
    limits: Limits,
    ages: Mapping[int, float],
    *,
    free: Callable[[SegmentInfo], bool],
    passed: Callable[[int], bool],
    archived: Callable[[SegmentInfo], bool] = lambda _: True,
) -> list[Removal]:
    """Which segments are to go.

    Too old ones first; then, while the log is larger than nine tenths of what is declared, the oldest that
    nobody waits for; then the oldest events that a challenger has not read, which it will count as shed; then
    what the lake does not have yet.

    Parameters
    ----------
    ages
        Segment -> seconds.
    free
        Whether a segment may go at all.
    passed
        Whether every challenger has passed an event segment.
    archived
        Whether the lake has all rows of a segment.
    """
    ended = [info for info in infos if info.state in ("sealed", "dead") and free(info)]
    removals = [Removal(info, "age") for info in ended if ages[info.segment] > limits.max_age_seconds]
    aged = {removal.info.segment for removal in removals}
    total = sum(info.bytes for info in infos if info.segment not in aged)

    def order(info: SegmentInfo) -> tuple[bool, bool, float]:
        unread = info.stream == EVENTS and not passed(info.segment)
        return not archived(info), unread, -ages[info.segment]

    for info in sorted((info for info in ended if info.segment not in aged), key=order):
        if total <= _FULL * limits.max_bytes:
            break
        removals.append(Removal(info, "bytes"))
        total -= info.bytes
    return removals
