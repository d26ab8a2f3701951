"""The books: every event and every result of the log, counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import structlog

from shadow_mlops.domain.events import EVENTS, OUTCOMES, RESULTS_PREFIX, Status, Stream
from shadow_mlops.eventlog.records import EventBatch, ResultBatch
from shadow_mlops.eventlog.seam import EventLog, Frame, Gone, Tail
from shadow_mlops.monitor.account import Results, Totals, enter, totals
from shadow_mlops.monitor.repeats import RepeatedIds
from shadow_mlops.monitor.sampleindex import SampleIndex
from shadow_mlops.monitor.state import AccountState, Coverage, MonitorState, SegmentState

log = structlog.get_logger()

_ROWS = 65_536
OTHER_VERSIONS = "__other__"
"""Predictions of versions that nobody registered, beyond those that are counted each by itself."""
_MOST_VERSIONS = 1000  # who reports events names their versions, and each is a series of metrics for ever


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a challenger is behind."""

    events: int
    """Sampled events without a result."""
    seconds: float
    """Age of the oldest of them; 0 if there is none."""


class Ledger:
    """Reads the log and keeps the accounts.

    Parameters
    ----------
    state
        As read from the monitor's file; changed in place, and consistent between two calls.
    now
        Clock, seconds since 1970.
    """

    def __init__(self, event_log: EventLog, state: MonitorState, *, now: Callable[[], float] = time.time) -> None:
        self.state = state
        self.violations = 0
        """Contradictions found by this process."""
        self._log = event_log
        self._now = now
        self._tails: dict[Stream, Tail] = {}
        self._indexes: dict[int, SampleIndex] = {}
        self._repeats = RepeatedIds()
        self._unbalanced: dict[str, int] = {}
        self._crowded = False
        self._open_events()

    def read(self) -> None:
        """Count everything that the log has by now, and check each account."""
        # Results first: whatever they cover is then among the events that are read after them.
        new = self._new_accounts()
        results = list(self._read_results())
        if new:
            self._open_events()  # a new account wants the index from each segment's beginning
        self._read_events()
        self._count_outcomes()
        for each in results:
            self._enter(each)
        self._check()

    def totals(self, challenger: str) -> Totals:
        """What became of the events of one challenger."""
        return totals(self.state.accounts[challenger], self.state.segments)

    def lag(self, challenger: str) -> Lag:
        """How far one challenger is behind."""
        oldest: list[float] = []
        events = 0
        for segment, cover in self.state.accounts[challenger].covered.items():
            pending = self.state.segments[segment].sampled - cover.sampled
            if pending > 0:
                events += pending
                index = self._indexes.get(segment)
                happened = index.happened(cover.rows) if index is not None else None
                oldest += [happened] if happened is not None else []
        return Lag(events, max(0.0, self._now() - min(oldest)) if oldest else 0.0)

    def passed(self, segment: int) -> bool:
        """Whether the results of every challenger cover the event segment as far as it has been counted."""
        rows = self.state.segments[segment].rows if segment in self.state.segments else 0
        return all(
            account.covered[segment].rows >= rows
            for account in self.state.accounts.values()
            if segment in account.covered
        )

    def close_segment(self, segment: int) -> None:
        """Forget an event segment of which nothing is left in the log, its tombstone included."""
        gone = self.state.segments.pop(segment, None)
        self._indexes.pop(segment, None)
        if gone is None:
            return
        for name, account in self.state.accounts.items():
            cover = account.covered.pop(segment, None)
            if cover is None:
                continue
            account.closed += gone.sampled
            if cover.sampled != gone.sampled:
                # Nobody will ever account for these: they count as shed, so that the books close.
                lost = gone.sampled - cover.sampled
                self._contradiction(name, f"segment {segment:016x} went with {lost} events pending, counted as shed")
                account.shed += lost

    def drop_account(self, challenger: str) -> None:
        """Forget a challenger and its results."""
        stream = RESULTS_PREFIX + challenger
        for book in (self.state.positions, self.state.references):
            book.pop(stream, None)
        self.state.accounts.pop(challenger, None)
        tail = self._tails.pop(stream, None)
        if tail is not None:
            tail.close()

    def close(self) -> None:
        """Release the open files."""
        for tail in self._tails.values():
            tail.close()

    def _new_accounts(self) -> bool:
        new = False
        for stream in self._log.streams():
            if not stream.startswith(RESULTS_PREFIX):
                continue
            if stream not in self._tails:
                self._tails[stream] = self._log.tail(stream, self.state.positions.get(stream))
            name = stream.removeprefix(RESULTS_PREFIX)
            if name not in self.state.accounts:
                there = (segment for segment, each in self.state.segments.items() if not each.retired)
                self.state.accounts[name] = AccountState(
                    covered={segment: Coverage() for segment in there}, seen_at=self._now()
                )
                log.info("account opened", challenger=name)
                new = True
        return new

    def _open_events(self) -> None:
        """Read the events again from where the first account is, to index, not to count them."""
        self._indexes = {}
        position = {}
        for segment, counted in self.state.segments.items():
            covers = [a.covered[segment] for a in self.state.accounts.values() if segment in a.covered]
            first = min(covers, key=lambda cover: cover.rows, default=Coverage(counted.rows, counted.sampled))
            position[segment] = first.rows
            self._indexes[segment] = SampleIndex(first.rows, first.sampled)
        old = self._tails.pop(EVENTS, None)
        if old is not None:
            old.close()
        self._tails[EVENTS] = self._log.tail(EVENTS, position or None)

    def _read_results(self) -> Iterator[Results]:
        for stream, tail in self._tails.items():
            if not stream.startswith(RESULTS_PREFIX):
                continue
            challenger = stream.removeprefix(RESULTS_PREFIX)
            for item in _all_of(tail):
                if isinstance(item, Frame) and isinstance(item.batch, ResultBatch):
                    self._add_rows(stream, item.count)
                    yield Results.of(challenger, item.segment, item.batch)
            self.state.positions[stream] = dict(tail.position())

    def _read_events(self) -> None:
        for item in _all_of(self._tails[EVENTS]):
            counted = self.state.segments.get(item.segment)
            if counted is None:
                counted = self._begin_segment(item.segment)
            happened = None
            fresh = item.first + item.count > counted.rows
            if isinstance(item, Frame) and isinstance(item.batch, EventBatch):
                happened = float(item.batch.times[0]) / 1e6
                if fresh:
                    self._count_events(item.batch)
            index = self._indexes[item.segment]
            index.add(item.first, item.count, item.sampled, at=happened)
            if fresh:
                counted.rows, counted.sampled = index.row, index.sampled

    def _begin_segment(self, segment: int) -> SegmentState:
        counted = self.state.segments[segment] = SegmentState()
        self._indexes[segment] = SampleIndex()
        for account in self.state.accounts.values():
            account.covered[segment] = Coverage()
        return counted

    def _count_events(self, batch: EventBatch) -> None:
        self.state.events += len(batch)
        self._add_rows(EVENTS, len(batch))
        self._add_version(batch.schema.version, len(batch), registered=bool(batch.schema.registry_version))
        self.state.repeated += self._repeats.count(batch.request_ids)

    def _count_outcomes(self) -> None:
        if OUTCOMES not in self._tails:
            if OUTCOMES not in self._log.streams():
                return
            self._tails[OUTCOMES] = self._log.tail(OUTCOMES, self.state.positions.get(OUTCOMES))
        tail = self._tails[OUTCOMES]
        for item in _all_of(tail):
            self._add_rows(OUTCOMES, item.count)
        self.state.positions[OUTCOMES] = dict(tail.position())

    def _enter(self, results: Results) -> None:
        account = self.state.accounts[results.challenger]
        for problem in enter(account, results, self.state.segments, self._indexes):
            self._contradiction(results.challenger, problem)
        account.seen_at = self._now()
        self._add_version(results.version, results.counts[Status.PAIRED], registered=True)
        references = self.state.references.setdefault(RESULTS_PREFIX + results.challenger, {})
        known = references.setdefault(results.segment, [])
        known += sorted({span.segment for span in results.spans} - set(known))

    def _check(self) -> None:
        for name, account in self.state.accounts.items():
            imbalance = totals(account, self.state.segments).imbalance
            if imbalance != self._unbalanced.get(name, 0):
                log.error("events are not conserved", challenger=name, imbalance=imbalance)
            self._unbalanced[name] = imbalance
        for segment, index in self._indexes.items():
            covers = [a.covered[segment].rows for a in self.state.accounts.values() if segment in a.covered]
            index.forget_times(min(covers, default=index.row))

    def _contradiction(self, challenger: str, problem: str) -> None:
        self.violations += 1
        log.error("results contradict the events", challenger=challenger, problem=problem)

    def _add_rows(self, stream: Stream, count: int) -> None:
        self.state.rows[stream] = self.state.rows.get(stream, 0) + count

    def _add_version(self, version: str, count: int, *, registered: bool) -> None:
        versions = self.state.versions
        if not registered and version not in versions and len(versions) >= _MOST_VERSIONS:
            if not self._crowded:
                log.warning("too many versions, further ones are counted as one", first=version, label=OTHER_VERSIONS)
            self._crowded = True
            version = OTHER_VERSIONS
        versions[version] = versions.get(version, 0) + count


def _all_of(tail: Tail) -> Iterable[Frame | Gone]:
    """Everything that the log holds now; what is appended meanwhile only as far as it comes along."""
    # More than the backlog: a frame that came later may have been stamped, and so be returned, earlier.
    left = tail.backlog() + _ROWS
    while left > 0 and (items := tail.poll(_ROWS)):
        yield from items
        left -= sum(item.count for item in items)
