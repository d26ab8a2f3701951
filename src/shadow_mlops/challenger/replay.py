"""Recorded traffic, scored by a version that was not there: the live challenger's code, at full speed.

First what the log has beyond the position that the lake's snapshot names, then what a newer snapshot of the lake has:
so what retention takes from the log meanwhile is met in the lake. An event that has a result of the version is left
alone, so that a replay that was killed goes on when it is started again, and a second one finds nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.challenger.absent import Absent
from shadow_mlops.challenger.archived import ArchivedEvents, ReplacedFileError, archived_events, cover_archived
from shadow_mlops.challenger.coverage import Coverage, LiveResults, cover_replayed
from shadow_mlops.challenger.scoring import Fill, Score, result_schema, score_columns, score_events
from shadow_mlops.domain.errors import LakeError, UnavailableError
from shadow_mlops.domain.events import EVENTS, Span, Status, replays_stream
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import EventBatch, Floats, ResultBatch, Strings
from shadow_mlops.eventlog.seam import Appender, EventLog, Frame, Gone
from shadow_mlops.lake.manifest import Manifest, read_manifest

CHALLENGER = "replay"
"""What result frames of a replay name as their challenger."""
_MOST_ROWS = 16_384
_MARGIN = 65_536  # rows: a frame that came later may have been stamped, and so be returned, earlier
_PAUSE = 0.05  # seconds before a store that cannot answer now is asked again
_SHORT, _LONG = 0.5, 2.0  # seconds of work that a kill may cost


class Replayed(msgspec.Struct, kw_only=True):
    """What a replay did."""

    version: str
    events: int = 0
    """Sampled events of the span."""
    already_scored: int = 0
    """Of these, those that had a result of the version before."""
    paired: int = 0
    timed_out: int = 0
    errored: int = 0
    gone: int = 0
    """Sampled events, of whatever time, that retention has removed from the log before they were archived."""
    seconds: float = 0.0
    """From the first event to the last result, without loading the model."""
    interrupted: bool = False
    """True: there is more to do, and the same replay goes on there."""

    @property
    def scored(self) -> int:
        """Events that got a result."""
        return self.paired + self.timed_out + self.errored


OnProgress = Callable[[int, int, int], None]
"""Called with the recorded rows that are passed, all of them, and the events that got a result."""


class Replay:
    """One version over one span of time.

    Parameters
    ----------
    lake
        Folder of the lake; need not exist.
    card
        Of the version that scores.
    since_us, until_us
        Microseconds since 1970: events from the one on and before the other.
    score
        Scores a micro-batch; None if it was broken off.
    batch_rows
        Most rows in one micro-batch.
    stopping
        True once the replay has been asked to end.
    fill
        Reads what events lack because nobody looked for it, as a live challenger does; while it cannot now, the replay
        waits. None: there is nowhere to read.
    """

    def __init__(
        self,
        event_log: EventLog,
        lake: Path,
        *,
        card: ModelCard,
        deployment: str,
        since_us: int,
        until_us: int,
        score: Score,
        batch_rows: int,
        stopping: Callable[[], bool] = lambda: False,
        on_progress: OnProgress = lambda _passed, _all, _scored: None,
        fill: Fill | None = None,
    ) -> None:
        self._log = event_log
        self._lake = lake
        self._card = card
        self._schema = result_schema(card, deployment=deployment, challenger=CHALLENGER)
        self._since_us, self._until_us = since_us, until_us
        self._score = score
        self._batch_rows = batch_rows
        self._stopping = stopping
        self._on_progress = on_progress
        self._fill = None if fill is None else _patient(fill, stopping)
        self._coverage = Coverage()
        self._seen = Coverage()
        """Read from the log by this run."""
        self._live = LiveResults(event_log, card.version, self._coverage)
        self._appender: Appender | None = None
        self._rows_at_once = batch_rows
        self._broken_off = False
        self._passed = self._total = 0
        self.done = Replayed(version=card.version)

    def run(self) -> Replayed:
        """Score what has no result yet.

        Raises
        ------
        AppendError
            If the log takes no results; what it took stays.
        LogError, LakeError
            If log or lake cannot be read.
        UnavailableError
            If the feature store does not answer; what was scored before stands.
        """
        began = time.monotonic()
        try:
            self._live.read()
            cover_replayed(self._log, self._card.version, self._coverage)
            gone = self._replay_log(read_manifest(self._lake))
            self._replay_lake(gone)
            self.done.interrupted = self._ended()
            self.done.seconds = round(time.monotonic() - began, 3)
        finally:
            self._live.close()
            if self._appender is not None:
                self._appender.close()
        return self.done

    def _ended(self) -> bool:
        return self._broken_off or self._stopping()

    def _replay_log(self, snapshot: Manifest) -> list[Gone]:
        """Score what the log has and the snapshot has not; what of it is gone by now."""
        gone: list[Gone] = []
        tail = self._log.tail(EVENTS, snapshot.positions.get(EVENTS))
        try:
            left = tail.backlog()
            self._total = snapshot.between(self._since_us, self._until_us - 1).rows("events") + left
            left += _MARGIN  # what is appended from now on is not awaited: a busy gateway would be followed for ever
            while left > 0 and not self._ended() and (items := tail.poll(self._rows_at_once)):
                gone += [item for item in items if isinstance(item, Gone)]
                self._replay_frames([item for item in items if isinstance(item, Frame)])
                rows = sum(item.count for item in items)
                left -= rows
                self._advance(rows)
        finally:
            tail.close()
        return gone

    def _replay_lake(self, gone: list[Gone]) -> None:
        """Score what the lake has, from one snapshot after another until none of its files was replaced too early."""
        events, already, scored = self.done.events, self.done.already_scored, self.done.scored
        while not self._ended():
            before = self.done.scored - scored
            self.done.events, self.done.already_scored = events, already
            snapshot = read_manifest(self._lake)
            try:
                self._replay_archive(snapshot.between(self._since_us, self._until_us - 1))
            except ReplacedFileError as error:
                if read_manifest(self._lake).number == snapshot.number:
                    raise LakeError(f"{error} is missing, and the lake's manifest names it") from error
                continue
            self.done.already_scored -= before  # those were scored in this very run
            self.done.gone = sum(_lost(item, snapshot.positions.get(EVENTS, {}).get(item.segment, 0)) for item in gone)
            return

    def _replay_archive(self, snapshot: Manifest) -> None:
        # After the results in the log: what is removed from there has been archived before.
        cover_archived(self._lake, snapshot, self._coverage, version=self._card.version)
        since, until = self._since_us, self._until_us
        for found in archived_events(
            self._lake,
            snapshot,
            self._card.signature,
            since_us=since,
            until_us=until,
            rows=_MOST_ROWS,
            absent=self._fill is not None,
        ):
            start = 0
            while start < len(found.rows):
                part = slice(start, start + self._rows_at_once)
                if self._ended() or not self._replay_rows(found, part):
                    return
                start = part.stop
            self._advance(found.passed)

    def _replay_rows(self, found: ArchivedEvents, part: slice) -> bool:
        self._live.read()
        segments, rows = found.segments[part], found.rows[part]
        new = ~_covered(self._seen, segments, rows)
        todo = new & ~_covered(self._coverage, segments, rows)
        count = int(todo.sum())
        self.done.events += int(new.sum())
        self.done.already_scored += int(new.sum()) - count
        if not count:
            return True
        began = time.monotonic()
        numbers, strings = found.numbers[part][todo], found.strings[part][todo]
        incomplete = None
        if self._fill is not None and found.absent is not None:
            absent = found.absent.of(part.start + np.flatnonzero(todo))
            incomplete = self._fill(absent, self._card.signature, numbers, strings)
            if incomplete is None:
                return self._append(None, began)
        batch = score_columns(
            numbers,
            strings,
            self._score,
            sampled=np.ones(count, dtype=np.bool_),
            spans=_spans(segments[todo], rows[todo]),
            schema=self._schema,
            batch_rows=self._batch_rows,
            incomplete=incomplete,
        )
        return self._append(batch, began)

    def _replay_frames(self, read: Sequence[Frame]) -> None:
        self._live.read()
        frames = [part for frame in read for part in self._selected(frame)]
        self._seen.add([Span(frame.segment, frame.first, frame.count, frame.sampled) for frame in read])
        if not frames:
            return
        began = time.monotonic()
        batch = score_events(
            frames,
            self._score,
            signature=self._card.signature,
            schema=self._schema,
            batch_rows=self._batch_rows,
            fill=self._fill,
        )
        self._append(batch, began)

    def _selected(self, frame: Frame) -> list[Frame]:
        """The rows of a frame that are to be scored, and unsampled ones between them, as frames of their own."""
        batch = frame.batch
        if not isinstance(batch, EventBatch):
            raise TypeError(f"the stream of events holds a {type(batch).__name__}")
        inside = (batch.times >= self._since_us) & (batch.times < self._until_us)
        sampled = inside if batch.sampled is None else inside & batch.sampled
        chosen = inside & ~self._coverage.covered(frame.segment, np.arange(frame.first, frame.first + frame.count))
        wanted, count = int((chosen & sampled).sum()), int(sampled.sum())
        self.done.events += count
        self.done.already_scored += count - wanted
        if not wanted:
            return []
        if chosen.all():
            return [frame]
        return [_cut(frame, batch, run) for run in _equal_runs(chosen) if chosen[run.start]]

    def _append(self, batch: ResultBatch | None, began: float) -> bool:
        """Append results; False if the scoring was broken off."""
        if batch is None:
            self._broken_off = True
            return False
        if self._appender is None:  # a replay that scores nothing leaves nothing
            self._appender = self._log.appender(replays_stream(self._card.version), writer=CHALLENGER)
        self._appender.append(batch)
        self._coverage.add(batch.spans)
        counts = np.bincount(batch.statuses, minlength=len(Status)).tolist()
        self.done.paired += counts[Status.PAIRED]
        self.done.timed_out += counts[Status.TIMED_OUT]
        self.done.errored += counts[Status.ERRORED]
        took = time.monotonic() - began
        if took < _SHORT:
            self._rows_at_once = min(2 * self._rows_at_once, max(_MOST_ROWS, self._batch_rows))
        elif took > _LONG:
            self._rows_at_once = max(self._rows_at_once // 2, self._batch_rows)
        return True

    def _advance(self, rows: int) -> None:
        self._passed += rows
        self._on_progress(self._passed, self._total, self.done.scored)


def _patient(fill: Fill, stopping: Callable[[], bool]) -> Fill:
    """The same, asked until it answers; None if asked to end before.

    A live challenger would count what cannot be completed as errored, and lose nothing else. A replay has time: it
    breaks off rather than give rows a result that no later replay would mend.
    """

    def patient(absent: Absent, signature: Signature, numbers: Floats, strings: Strings) -> NDArray[np.bool_] | None:
        while (incomplete := fill(absent, signature, numbers, strings)) is None and not stopping():
            time.sleep(_PAUSE)
        if incomplete is not None and incomplete.any():
            raise UnavailableError(
                f"the feature store does not answer, and {np.count_nonzero(incomplete):,} rows need it; what was "
                "scored before stands, the same command goes on there once the store answers"
            )
        return incomplete

    return patient


def _covered(coverage: Coverage, segments: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of n events, sorted by segment, are covered."""
    return np.concatenate([coverage.covered(int(segments[run.start]), rows[run]) for run in _equal_runs(segments)])


def _lost(gone: Gone, archived: int) -> int:
    """Sampled rows of what is gone that the lake does not have either, if it has so many of the segment."""
    return min(gone.sampled, max(gone.first + gone.count - max(archived, gone.first), 0))


def _equal_runs(values: NDArray[np.int64] | NDArray[np.bool_]) -> Iterator[slice]:
    """Slices of equal neighbours.

    >>> list(_equal_runs(np.array([4, 4, 7])))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    bounds = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    for start, stop in pairwise(bounds):
        yield slice(start, stop)


def _spans(segments: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Span]:
    """Spans of sorted ids, all sampled.

    >>> [(span.first, span.count) for span in _spans(np.array([1, 1, 1, 2]), np.array([3, 4, 6, 7]))]
    [(3, 2), (6, 1), (7, 1)]
    """
    breaks = np.flatnonzero((np.diff(segments) != 0) | (np.diff(rows) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((starts, [len(rows)])))
    return [
        Span(segment, first, count, count)
        for segment, first, count in zip(segments[starts].tolist(), rows[starts].tolist(), counts.tolist(), strict=True)
    ]


def _cut(frame: Frame, batch: EventBatch, run: slice) -> Frame:
    part = replace(
        batch,
        times=batch.times[run],
        latencies=batch.latencies[run],
        request_ids=batch.request_ids[run],
        entities=batch.entities[run],
        numbers=batch.numbers[run],
        strings=batch.strings[run],
        scores=batch.scores[run],
        origins=None if batch.origins is None else batch.origins[run],
        ages=None if batch.ages is None else batch.ages[run],
        sampled=None if batch.sampled is None else batch.sampled[run],
    )
    count = len(part)
    sampled = count if part.sampled is None else int(part.sampled.sum())
    return Frame(frame.segment, frame.first + run.start, count, sampled, frame.boot, frame.monotonic_ns, part)
