"""Files of predictions that were answered elsewhere, as checked batches: lines of JSON, CloudEvents, Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shadow_mlops.console.checking import Checker
from shadow_mlops.console.cloudevents import STRUCTURED, InferenceEvent, Pairing, read_events
from shadow_mlops.console.inference import reported
from shadow_mlops.console.intake import parse_events
from shadow_mlops.console.reported import ReportedEvent
from shadow_mlops.domain.errors import ImportFileError, RequestError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import EventLog, Frame
from shadow_mlops.lake.manifest import read_manifest

BATCH_ROWS = 2_000
_PARQUET = frozenset({".parquet", ".pq"})
_OWN = frozenset(ReportedEvent.__struct_fields__) - {"features"}
_MOST_INSTANCES = 100_000
_NO_VALUE = (pa.ArrowException, OverflowError, UnicodeDecodeError)

Done: TypeAlias = Callable[[float], object]
"""Called with the part of the file that has been read, 0 to 1."""
_Row: TypeAlias = tuple[int, ReportedEvent]


@dataclass(slots=True)
class Unpaired:
    """Halves in a file of CloudEvents that have no other half in it."""

    count: int = 0


class EventFile:
    """A file of events.

    Parameters
    ----------
    path
        Parquet (``.parquet``, ``.pq``); else a JSON object a line, each an event or a CloudEvent.
    version
        Of the model that answered, where a row does not say.
    """

    def __init__(self, path: Path, checker: Checker, *, version: str | None = None) -> None:
        self.path = path
        self.unpaired = Unpaired()
        self._checker = checker
        self._version = version
        self._parquet = path.suffix.lower() in _PARQUET

    def events(self, done: Done | None = None, *, check: bool = True) -> Iterator[list[ReportedEvent]]:
        """The events in order, some at a time, each of the right form.

        Parameters
        ----------
        check
            True: each fits the deployment, too.

        Raises
        ------
        ImportFileError
            Naming the first row that is wrong; rows are counted from 1.
        UnavailableError
            If no model is known yet.
        """
        source = self._parquet_rows(done) if self._parquet else self._line_rows(done)
        for rows in source:
            events = [event for _, event in rows]
            try:
                if check:
                    self._checker.batches(events)
            except RequestError as error:
                raise self._wrong(error, [row for row, _ in rows]) from None
            yield events

    def _parquet_rows(self, done: Done | None) -> Iterator[list[_Row]]:
        first = 1
        try:
            with pq.ParquetFile(self.path) as file:
                total = max(file.metadata.num_rows, 1)
                for batch in file.iter_batches(BATCH_ROWS):
                    rows = [self._of_columns(row) for row in self._values(batch, first)]
                    yield list(zip(itertools.count(first), self._parsed(rows, first), strict=False))
                    first += batch.num_rows
                    if done is not None:
                        done((first - 1) / total)
        except (OSError, pa.ArrowException) as error:
            raise ImportFileError(f"{self.path} cannot be read as Parquet: {_first_line(error)}") from None

    def _values(self, batch: pa.RecordBatch, first: int) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = _microseconds(batch).to_pylist()
        except _NO_VALUE:
            columns = (batch.select([place]) for place in range(batch.num_columns))
            wrong = next(column for column in columns if _is_wrong(column))
            row = next(row for row in range(len(wrong)) if _is_wrong(wrong.slice(row, 1)))
            field = wrong.schema.field(0)
            raise ImportFileError(
                f"{self.path}: row {first + row}, column {field.name!r}: it is no {field.type} that can be read (text"
                " must be UTF-8, times within the years 1 and 9999); nothing was imported"
            ) from None
        return rows

    def _of_columns(self, row: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in row.items() if name in _OWN and value is not None}
        if type(own.get("request_id")) is int:
            own["request_id"] = str(own["request_id"])
        if self._version is not None:
            own.setdefault("version", self._version)
        return {**own, "features": {name: value for name, value in row.items() if name not in _OWN}}

    def _line_rows(self, done: Done | None) -> Iterator[list[_Row]]:
        pairing = Pairing(given_up=lambda *_: None, most_halves=10**9, most_bytes=2**40, wait_seconds=float("inf"))
        read = 0
        first = 1
        try:
            size = max(self.path.stat().st_size, 1)
            with self.path.open("rb") as file:
                while lines := list(itertools.islice(file, BATCH_ROWS)):
                    rows = self._of_lines(lines, first, pairing)
                    if rows:
                        yield rows
                    first += len(lines)
                    read += sum(len(line) for line in lines)
                    if done is not None:
                        done(read / size)
        except OSError as error:
            raise ImportFileError(f"{self.path} cannot be read: {error}") from None
        self.unpaired.count = len(pairing)

    def _of_lines(self, lines: Sequence[bytes], first: int, pairing: Pairing) -> list[_Row]:
        rows: list[_Row] = []
        for row, line in enumerate(lines, first):
            if not line.strip():
                continue
            try:
                content = msgspec.json.decode(line)
            except (ValueError, RecursionError) as error:
                raise ImportFileError(
                    f"{self.path}: row {row} is not valid JSON: {error}; nothing was imported"
                ) from None
            if isinstance(content, dict) and "specversion" in content:
                rows += [(row, event) for event in self._of_cloudevent(line, row, pairing)]
                continue
            if isinstance(content, dict) and self._version is not None:
                content.setdefault("version", self._version)
            rows += [(row, event) for event in self._parsed([content], row)]
        return rows

    def _of_cloudevent(self, line: bytes, row: int, pairing: Pairing) -> list[ReportedEvent]:
        try:
            found: list[InferenceEvent] = read_events({}, STRUCTURED, line)
            pairs, alone = pairing.match(found)
            pairing.settle(pairs, alone)
            champion = self._checker.accepted.champion
            if self._version is not None:
                champion = msgspec.structs.replace(champion, version=self._version)
            return [event for pair in pairs for event in reported(pair, champion, most_rows=_MOST_INSTANCES)]
        except RequestError as error:
            raise self._wrong(error, [row]) from None

    def _parsed(self, content: Sequence[Any], first: int) -> list[ReportedEvent]:
        try:
            return parse_events(content, len(content))
        except RequestError as error:
            raise self._wrong(error, range(first, first + len(content))) from None

    def _wrong(self, error: RequestError, rows: Sequence[int]) -> ImportFileError:
        problem = next(iter(error.problems), None)
        if problem is None:
            return ImportFileError(f"{self.path}: row {rows[0]}: {error}; nothing was imported")
        row = rows[problem.index] if problem.index is not None and problem.index < len(rows) else rows[0]
        hint = " (or give --version)" if "`version`" in problem.problem else ""
        field = f", {problem.field!r}" if problem.field else ""
        return ImportFileError(f"{self.path}: row {row}{field}: {problem.problem}{hint}; nothing was imported")


def batches_of(checker: Checker, events: Sequence[ReportedEvent]) -> list[EventBatch]:
    """Checked events as frames, one for each version."""
    return checker.batches(events) if events else []


def hashes(request_ids: Sequence[str]) -> NDArray[np.int64]:
    """A number for each id, equal in this process for equal ids."""
    return np.fromiter((hash(each) for each in request_ids), dtype=np.int64, count=len(request_ids))


def recorded(event_log: EventLog, lake: Path, wanted: NDArray[np.int64]) -> set[int]:
    """Which of some ids are those of recorded events, in the lake or in the log.

    Parameters
    ----------
    wanted
        As :func:`hashes` gives them.

    Raises
    ------
    LakeError
        If the lake cannot be read.
    """
    wanted = np.unique(wanted)
    found: set[int] = set()

    def note(ids: Sequence[str]) -> None:
        these = hashes(ids)
        found.update(these[np.isin(these, wanted)].tolist())

    manifest = read_manifest(lake)
    tail = event_log.tail(EVENTS, manifest.positions.get(EVENTS))
    try:
        for file in manifest.files.get("events", ()):
            with pq.ParquetFile(lake / file.path) as parquet:
                for batch in parquet.iter_batches(131_072, columns=["request_id"]):
                    note(batch.column(0).to_pylist())
        left = tail.backlog()
        while left > 0 and (items := tail.poll(65_536)):
            for item in items:
                if isinstance(item, Frame) and isinstance(item.batch, EventBatch):
                    note(item.batch.request_ids)
            left -= sum(item.count for item in items)
    finally:
        tail.close()
    return found


def _microseconds(batch: pa.RecordBatch) -> pa.Table:
    """Times without nanoseconds, which Python's have not, and in UTC where they name no zone."""
    table = pa.Table.from_batches([batch])
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            kind = pa.timestamp("us", field.type.tz or "UTC")
            # Nanoseconds are cut off, but what no longer fits must not become another time.
            moments = table.column(place).cast(kind, safe=field.type.unit != "ns")
            table = table.set_column(place, field.name, moments)
    return table


def _is_wrong(batch: pa.RecordBatch) -> bool:
    try:
        _microseconds(batch).to_pylist()
    except _NO_VALUE:
        return True
    return False


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
