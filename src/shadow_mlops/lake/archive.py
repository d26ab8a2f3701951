"""The log becomes the lake: each row once, in the log's order, by one commit per round."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import structlog

from shadow_mlops.domain.deployment import Labels
from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EVENTS, OUTCOMES, Stream
from shadow_mlops.eventlog.seam import EventLog, Gone
from shadow_mlops.lake.candidates import candidates
from shadow_mlops.lake.champions import Champions, in_log_order
from shadow_mlops.lake.changes import GRACE_SECONDS, Change
from shadow_mlops.lake.compaction import Merge, merged, merges
from shadow_mlops.lake.feed import Feed, Taken, frames_of
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.matching import UNMATCHED, match
from shadow_mlops.lake.queries import connect, create_view, spill_folder
from shadow_mlops.lake.rows import event_rows, outcome_rows
from shadow_mlops.lake.sweeping import drop_expired, sweep
from shadow_mlops.lake.tables import SCHEMAS, Table

log = structlog.get_logger()

ROUND_ROWS = 131_072
"""Rows of the log in one round: about a second, and some 300 MB of memory."""
_DAY_SECONDS = 86_400.0
_STEP_SECONDS = 60.0  # more than NTP slews a clock by between two looks
_TIDY_SECONDS = 30.0  # between looks at what may be merged or dropped
_SWEEP_SECONDS = 3600.0
_MATURE_SECONDS = 60.0  # between looks at labels that only time makes final
_RECEIPT_SECONDS = 5.0  # between an outcome's receipt and its append lie milliseconds
_FRESH: tuple[tuple[Table, str], ...] = (
    ("events", "new_events"),
    ("results", "new_results"),
    ("outcomes", "new_outcomes"),
)


class Archiver:
    """Reads the log and writes the lake. One process of the host may have one.

    Parameters
    ----------
    event_log
        Read with :meth:`~shadow_mlops.eventlog.seam.OrderedTail.poll_ordered`.
    lake
        Folder of the lake; made by the first round that has rows.
    labels
        How outcomes are matched.
    retain_days
        Days, by the time of the event, after which rows are dropped.
    rows
        Rows of the log in one round.
    tidy_seconds
        Between looks at what may be merged or dropped.
    now, clock
        Seconds since 1970, and monotonic ones.
    memory_limit, threads
        Of DuckDB.

    Examples
    --------
    >>> import tempfile
    >>> from shadow_mlops.eventlog.memory import MemoryLog
    >>> archiver = Archiver(MemoryLog(), Path(tempfile.mkdtemp()), labels=Labels(), retain_days=400)
    >>> archiver.round(), archiver.manifest.number
    (0, 0)
    """

    def __init__(
        self,
        event_log: EventLog,
        lake: Path,
        *,
        labels: Labels,
        retain_days: float,
        rows: int = ROUND_ROWS,
        tidy_seconds: float = _TIDY_SECONDS,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        memory_limit: str = "1GB",
        threads: int | None = 1,
    ) -> None:
        self._log = event_log
        self._lake = lake
        self._labels = labels
        self._retain_us = int(max(retain_days * _DAY_SECONDS, labels.max_delay) * 1e6)
        self._rows = rows
        self._tidy_seconds = tidy_seconds
        self._now = now
        self._clock = clock
        self._begun = now(), clock()
        self._dropped_since: dict[str, float] = {}
        self._limits = (memory_limit, threads)
        self._champions = Champions(lake)
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._feed: Feed | None = None
        self._unreadable: set[str] = set()
        self._next_tidy = self._next_sweep = self._next_mature = 0.0
        self.manifest = Manifest()
        """The newest snapshot, once a round has been made."""

    def round(self) -> int:
        """Archive what is new, as far as one round goes; commit once.

        Returns
        -------
        int
            Rows of the log that were taken in; 0 when nothing was new.

        Raises
        ------
        LakeError
            The lake is as before, and the next round begins where the last commit ended.
        """
        if self._feed is None:
            self.manifest = read_manifest(self._lake)
            try:
                self._feed = Feed(self._log, self.manifest.positions)
            except OSError as error:
                raise LakeError(f"the log cannot be read: {error}") from error
            self._next_sweep = 0.0
        change, began = Change(self._lake, self.manifest), self._steady_now()
        try:
            self._sweep(change)
            taken = self._feed.take(self._rows)
            self._store(change, self._feed, taken)
            self._match(change, self._feed, began)
            self._tidy(change, self._feed)
            if change.changed:
                self.manifest = change.commit()
        except BaseException as error:
            self.close()
            with suppress(OSError, LakeError):  # what is left is swept later; the error that led here must be told
                change.abandon()
            if isinstance(error, OSError | duckdb.Error | pa.ArrowException | ValueError):
                raise LakeError(f"the log cannot be archived: {error}") from error
            raise
        return sum(item.count for _, item in taken)

    def positions(self) -> Mapping[Stream, Mapping[int, int]]:
        """Stream -> segment -> rows that the lake has."""
        return self.manifest.positions

    def close(self) -> None:
        """Release the open files; the next round opens them again."""
        if self._feed is not None:
            self._feed.close()
        self._feed = None
        if self._opened is not None:
            self._opened.close()
        self._opened = None
        self._champions.forget()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            memory_limit, threads = self._limits
            self._opened = connect(self._lake, Manifest(), memory_limit=memory_limit, threads=threads, tables=())
        return self._opened

    def _store(self, change: Change, feed: Feed, taken: Sequence[Taken]) -> None:
        events = event_rows(frames_of(taken, EVENTS))
        if len(events.data):
            change.add("events", events.data)
            self._champions.saw(events.data)
            for key, schema in events.schemas.items():
                change.learn(key, schema)
        outcomes = outcome_rows(frames_of(taken, OUTCOMES))
        if len(outcomes):
            change.add("outcomes", outcomes)
        stored: dict[Stream, list[pa.Table]] = {}
        for piece in candidates(taken, self._rows):
            joined = self._champions.join(self._connection(), piece, change.preview())
            change.count("repeated_results", joined.repeated)
            change.count("orphaned_results", joined.orphaned)
            if len(joined.data):
                stored.setdefault(piece.stream, []).append(joined.data)
        for stream, tables in stored.items():
            change.add("results", in_log_order(tables), part=stream)
        for stream, passed in feed.passed.items():
            for segment, rows in passed.items():
                change.set_position(stream, segment, rows)
        feed.passed = {}
        _note(change, taken)
        for stream in {each.stream for each in taken}:
            change.forget_positions(stream, self.manifest.positions.get(stream, {}).keys() - feed.known(stream))

    def _match(self, change: Change, feed: Feed, began: float) -> None:
        before = self.manifest
        new = {table for table, _ in _FRESH if change.added(table)}
        ready = int((began - _RECEIPT_SECONDS) * 1e6) if feed.outcomes_complete else 0
        now_us = max(before.matched_us, ready)
        due = self._labels.policy != "first" and before.files.get("labels") and self._clock() >= self._next_mature
        waiting = "events" in new and before.counts.get(UNMATCHED, 0) > 0
        if not ("outcomes" in new or waiting or ("results" in new and before.files.get("labels")) or due):
            return
        self._next_mature = self._clock() + _MATURE_SECONDS
        preview = change.preview()
        if "outcomes" not in new:  # earlier outcomes may still belong to new events, never to old ones
            files = {**preview.files, "events": change.added("events")}
            preview = msgspec.structs.replace(preview, files=files)
        connection = self._connection()
        for each in SCHEMAS:
            create_view(connection, self._lake, each, preview.files.get(each, ()))
        for table, name in _FRESH:
            create_view(connection, self._lake, table, change.added(table), name=name)
        matched = match(
            connection,
            policy=self._labels.policy,
            max_delay_seconds=self._labels.max_delay,
            now_us=now_us,
            positives=preview.schemas,
            since_us=before.matched_us or None,
        )
        for name, count in matched.counts.items():
            change.count(name, count)
        change.add("labels", matched.labels)
        change.add("pairs", matched.pairs)
        change.set_matched(now_us)

    def _tidy(self, change: Change, feed: Feed) -> None:
        if self._clock() < self._next_tidy:
            return
        self._next_tidy = self._clock() + self._tidy_seconds
        now = self._steady_now()
        drop_expired(change, self.manifest, before_us=int(now * 1e6) - self._retain_us)
        change.expire(self._expired(now))
        for stream, segments in self.manifest.positions.items():
            change.forget_positions(stream, segments.keys() - feed.known(stream))
        left = self._rows
        today = datetime.fromtimestamp(now, UTC).date().isoformat()
        dropped = {each.path for each in change.preview().dropped}
        for merge in merges(self.manifest, today=today, skip=self._unreadable | dropped):
            if left <= 0:
                self._next_tidy = 0.0  # more of it in the next round
                break
            left -= merge.rows
            self._merge(change, merge)

    def _steady_now(self) -> float:
        """The wall clock, as far as the monotonic one confirms it: a step must not drop rows or end a label's time."""
        return min(self._now(), self._begun[0] + self._clock() - self._begun[1] + _STEP_SECONDS)

    def _expired(self, now: float) -> list[str]:
        """Dropped files that this process has known for their ten minutes: a step of the wall clock takes none."""
        clock = self._clock()
        since = {each.path: self._dropped_since.get(each.path, clock) for each in self.manifest.dropped}
        self._dropped_since = since
        return [
            each.path
            for each in self.manifest.dropped
            if clock - since[each.path] > GRACE_SECONDS or now - each.at > _DAY_SECONDS
        ]

    def _merge(self, change: Change, merge: Merge) -> None:
        try:
            change.replace(merge.table, merge.files, merged(self._lake, merge))
        except pa.ArrowInvalid as error:
            # Archiving goes on; whoever reads these rows gets the same error.
            log.error("lake_file_unreadable", table=merge.table, date=merge.files[0].date, problem=str(error))
            self._unreadable |= {file.path for file in merge.files}

    def _sweep(self, change: Change) -> None:
        if self._clock() >= self._next_sweep and self.manifest.number:
            self._next_sweep = self._clock() + _SWEEP_SECONDS
            spilling = () if self._opened is None else (spill_folder(self._opened),)
            sweep(self._lake, self.manifest, before=change.began, spilling=spilling)


def _note(change: Change, taken: Sequence[Taken]) -> None:
    """Positions behind everything that was taken, and rows that nobody has any more."""
    ends: dict[Stream, dict[int, int]] = defaultdict(dict)
    lost: dict[Stream, int] = defaultdict(int)
    for stream, item in taken:
        ends[stream][item.segment] = item.first + item.count
        if isinstance(item, Gone):
            lost[stream] += item.count
    for stream, segments in ends.items():
        for segment, rows in segments.items():
            change.set_position(stream, segment, rows)
    for stream, rows in lost.items():
        log.error("log_rows_removed_before_archived", stream=stream, rows=rows)
        change.count(f"lost_{stream.partition('/')[0]}", rows)
