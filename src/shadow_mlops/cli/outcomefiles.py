"""Files of outcomes, read in batches and checked: CSV and Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from shadow_mlops.domain.errors import ImportFileError
from shadow_mlops.eventlog.records import NO_TIME

BATCH_ROWS = 50_000  # some 5 MB of log: one write, and no frame is near the limit of 64 MiB
_MAX_TEXT = 256  # as POST /outcomes has it
_BLOCK_BYTES = 8 * 2**20
_TIME = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$"
_ZONE = r":.*(Z|[+-]\d\d:?\d\d)$"
_EARLIEST_US, _LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # as POST /outcomes: the years 1 to 9999
_NO_TIME = "it is no time; write 2026-01-31T12:00:00Z, or leave the zone out for UTC"
_NO_YEAR = "it is no time between the years 1 and 9999"
_NO_TEXT = "it cannot be read as text; write the column as text in UTF-8"
_PARQUET = frozenset({".parquet", ".pq"})

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)

Done: TypeAlias = Callable[[float], None]
"""Called with the part of the file that has been read, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns that are read; None: the file has none for it."""

    label: str
    request_id: str | None = None
    entity: str | None = None
    time: str | None = None

    @property
    def names(self) -> list[str]:
        """Those that are to be read."""
        return [name for name in (self.request_id, self.entity, self.time, self.label) if name is not None]


@dataclass(frozen=True, slots=True)
class OutcomeRows:
    """Checked rows: either ``request_ids`` or ``entities`` is empty, the other has one text per label."""

    labels: list[str]
    request_ids: list[str | None]
    entities: list[str | None]
    times: NDArray[np.int64]
    """Microseconds since 1970, UTC; ``NO_TIME`` where the row has none."""


class OutcomeFile:
    """A CSV (``.csv``, ``.tsv``, possibly compressed) or Parquet file of outcomes.

    Parameters
    ----------
    path
        Where it is.
    label, request_id, entity, time
        Names of columns. None: ``label``, ``request_id``, ``entity`` and ``time``, as far as the file has them. A
        file that has request ids is read by them.

    Raises
    ------
    ImportFileError
        If it cannot be read, or lacks a column.
    """

    def __init__(
        self,
        path: Path,
        *,
        label: str | None = None,
        request_id: str | None = None,
        entity: str | None = None,
        time: str | None = None,
    ) -> None:
        self.path = path
        self._parquet = path.suffix.lower() in _PARQUET
        present = self._present()
        self.columns = _choose(path, present, label=label, request_id=request_id, entity=entity, time=time)
        counts = Counter(present)
        if twice := [name for name in self.columns.names if counts[name] > 1]:
            raise ImportFileError(f"{path}: these columns stand more than once: {', '.join(twice)}")

    def rows(self, done: Done | None = None) -> Iterator[OutcomeRows]:
        """The rows in order, at most ``BATCH_ROWS`` at once.

        Raises
        ------
        ImportFileError
            Naming the first row that is wrong; rows are counted from 1, without the header.
        """
        first = 1
        for batch, part in self._batches():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                piece = batch.slice(start, BATCH_ROWS)
                yield self._checked(piece, first)
                first += piece.num_rows
            if done is not None:
                done(part)

    def _present(self) -> list[str]:
        try:
            if self._parquet:
                with pq.ParquetFile(self.path) as file:
                    return list(file.schema_arrow.names)
            with self._open_csv(csv.ConvertOptions()) as reader:
                return list(reader.schema.names)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None

    def _open_csv(self, convert: csv.ConvertOptions, source: Any = None) -> csv.CSVStreamingReader:
        stems = [suffix.lower() for suffix in self.path.suffixes]
        delimiter = "\t" if ".tsv" in stems[-2:] else ","
        return csv.open_csv(
            self.path if source is None else source,
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def _batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        try:
            yield from self._parquet_batches() if self._parquet else self._csv_batches()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None

    def _parquet_batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        with pq.ParquetFile(self.path) as file:
            total, read = max(file.metadata.num_rows, 1), 0
            for batch in file.iter_batches(BATCH_ROWS, columns=self.columns.names):
                read += batch.num_rows
                yield batch, read / total

    def _csv_batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        names = self.columns.names
        convert = csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        )
        size = max(self.path.stat().st_size, 1)
        with pa.OSFile(str(self.path)) as file:
            kind = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(self.path.suffix.lower())
            source = pa.CompressedInputStream(file, kind) if kind else file
            with self._open_csv(convert, source) as reader:
                for batch in reader:
                    yield batch, file.tell() / size

    def _unreadable(self, error: Exception) -> ImportFileError:
        first = str(error).partition("\n")[0]
        return ImportFileError(f"{self.path} cannot be read as {'Parquet' if self._parquet else 'CSV'}: {first}")

    def _checked(self, batch: pa.RecordBatch, first: int) -> OutcomeRows:
        def texts(name: str | None) -> list[str | None]:
            return [] if name is None else self._texts(batch, name, first)

        columns = self.columns
        labels = texts(columns.label)
        return OutcomeRows(
            labels=[label for label in labels if label is not None],
            request_ids=texts(columns.request_id),
            entities=texts(columns.entity),
            times=self._times(batch, first),
        )

    def _texts(self, batch: pa.RecordBatch, name: str, first: int) -> list[str | None]:
        column = self._converted(batch.column(name), name, first, _as_text, _NO_TEXT)
        if column is None:
            raise ImportFileError(
                f"{self.path}: column {name!r} holds {batch.column(name).type}; expected text, numbers or true/false"
            )
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), fill_value=True)
        self._refuse(blank, name, first, "it is blank")
        self._refuse(
            pc.greater(pc.utf8_length(column), _MAX_TEXT), name, first, f"it has more than {_MAX_TEXT} characters"
        )
        values: list[str | None] = column.to_pylist()
        return values

    def _times(self, batch: pa.RecordBatch, first: int) -> NDArray[np.int64]:
        name = self.columns.time
        if name is None:
            return np.full(batch.num_rows, NO_TIME, dtype=np.int64)
        column = batch.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            moments = self._converted(column, name, first, _of_timestamps, _NO_YEAR)
        elif pa.types.is_null(kind) or any(is_text(kind) for is_text in _TEXTS):
            moments = self._parsed(self._converted(column, name, first, _as_text, _NO_TEXT), name, first)
        else:
            raise ImportFileError(
                f"{self.path}: column {name!r} holds {kind}; expected times, or text such as 2026-01-31T12:00:00Z"
            )
        if self.columns.entity is not None:
            self._refuse(pc.is_null(moments), name, first, "it is blank; an outcome by entity needs its time")
        moments = moments.cast(pa.int64())
        outside = pc.or_(pc.less(moments, _EARLIEST_US), pc.greater(moments, _LATEST_US))
        self._refuse(outside, name, first, _NO_YEAR)
        times: NDArray[np.int64] = pc.fill_null(moments, NO_TIME).to_numpy(zero_copy_only=False)
        return times

    def _parsed(self, texts: pa.Array, name: str, first: int) -> pa.Array:
        texts = pc.utf8_upper(pc.utf8_trim_whitespace(texts))
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
        self._refuse(pc.invert(pc.match_substring_regex(texts, _TIME)), name, first, _NO_TIME)
        texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
        return self._converted(texts, name, first, _moments, _NO_TIME)

    def _converted(
        self, column: pa.Array, name: str, first: int, convert: Callable[[pa.Array], pa.Array], why: str
    ) -> pa.Array:
        """What ``convert`` makes of a column; a row that Arrow does not take is named."""
        try:
            return convert(column)
        except pa.ArrowException:
            start, end = 0, len(column)
            while end - start > 1:
                middle = (start + end) // 2
                start, end = (start, middle) if _refuses(convert, column[start:middle]) else (middle, end)
            raise self._wrong(name, first + start, why) from None

    def _refuse(self, wrong: pa.Array, name: str, first: int, why: str) -> None:
        """Raise if ``wrong`` is true of a row."""
        at = pc.index(wrong, value=True).as_py()
        if at >= 0:
            raise self._wrong(name, first + at, why)

    def _wrong(self, name: str, row: int, why: str) -> ImportFileError:
        return ImportFileError(f"{self.path}: row {row}, column {name!r}: {why}; nothing was imported")


def _choose(
    path: Path, present: list[str], *, label: str | None, request_id: str | None, entity: str | None, time: str | None
) -> Columns:
    if request_id is not None and entity is not None:
        raise ImportFileError("an outcome belongs to a request id or to an entity: give --request-id or --entity")
    by_entity = entity is not None or (request_id is None and "request_id" not in present)
    chosen = Columns(
        label=label or "label",
        request_id=None if by_entity else request_id or "request_id",
        entity=(entity or "entity") if by_entity else None,
        time=time or ("time" if by_entity or "time" in present else None),
    )
    if missing := [name for name in chosen.names if name not in present]:
        raise ImportFileError(
            f"{path} lacks the column {', '.join(map(repr, missing))} (it has {', '.join(present)}); expected are "
            "request_id and label, or entity, time and label: name others with --request-id, --entity, --time, --label"
        )
    return chosen


def _as_text(column: pa.Array) -> pa.Array | None:
    """Values as ``POST /outcomes`` would have kept them: true is 1, 1.0 is 1. None: not values of this kind."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.cast(kind.value_type))
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.string())
    if pa.types.is_decimal(kind):  # not by way of a float: a number of 20 digits may be an id
        digits = pc.replace_substring_regex(column.cast(pa.string()), r"(\.\d*?)0+$", r"\1")
        return pc.replace_substring_regex(digits, r"\.$", "")
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53))
        integers = pc.if_else(whole, values, 0.0).cast(pa.int64()).cast(pa.string())
        texts = pc.if_else(whole, integers, values.cast(pa.string()))
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), texts)
    if not any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_null, *_TEXTS)):
        return None
    texts = column.cast(pa.string())
    texts.validate(full=True)  # Parquet promises UTF-8, and nobody has looked yet
    return texts


def _of_timestamps(column: pa.Array) -> pa.Array:
    """Timestamps and dates in microseconds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _of_timestamps(column.cast(kind.value_type))
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("us"))
    # Nanoseconds are cut off, but what no longer fits must not become another time.
    return column.cast(pa.timestamp("us", kind.tz), safe=kind.unit != "ns")


def _moments(texts: pa.Array) -> pa.Array:
    """Times in microseconds; those without a zone are UTC."""
    zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONE), fill_value=False)
    nothing = pa.scalar(None, pa.string())
    utc = pa.timestamp("us", "UTC")
    with_zone = pc.if_else(zoned, texts, nothing).cast(utc)
    without = pc.if_else(zoned, nothing, texts).cast(pa.timestamp("us")).cast(pa.int64()).cast(utc)
    return pc.coalesce(with_zone, without)


def _refuses(convert: Callable[[pa.Array], pa.Array], column: pa.Array) -> bool:
    try:
        convert(column)
    except pa.ArrowException:
        return True
    return False
