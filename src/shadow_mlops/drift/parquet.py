"""Parquet files as columns that are read in pieces: what is held at a time does not grow with the files.

The unit of work is some columns of one row group, taken by a few threads. DuckDB sums ten million rows of 25 columns in
about the time that this reads and counts them, but holds whole row groups of all columns meanwhile: 0.8 GB of a file as
PyArrow writes it by default, where this takes 0.2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.cells import column_of
from shadow_mlops.drift.sources import Column

PIECE_ROWS = 1 << 17
_VALUES_A_UNIT = 1 << 20  # small row groups are read many columns at a time, large ones by the column
_BUFFER_BYTES = 1 << 20
_MOST_THREADS = 8  # each holds some 20 MB

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    metadata: pq.FileMetaData
    types: Mapping[str, pa.DataType]


@dataclass(frozen=True, slots=True)
class Unit:
    """Some columns of one row group of one file, and where its rows start among all rows."""

    file: _File
    group: int
    start: int
    columns: tuple[str, ...]


class ParquetColumns:
    """Rows of one or more Parquet files that have the same columns.

    Parameters
    ----------
    paths
        At least one.

    Raises
    ------
    DriftError
        If one cannot be read, has a column twice, or differs from the first in its columns.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_opened(path) for path in paths]
        first = self._files[0]
        for other in self._files[1:]:
            _check_alike(first, other)
        self.rows = sum(file.metadata.num_rows for file in self._files)
        self.columns: dict[str, Column] = {}
        self.left_out: dict[str, str] = {}
        for name in first.types:
            found = self._column(name)
            if isinstance(found, Column):
                self.columns[name] = found
            else:
                self.left_out[name] = found

    def _column(self, name: str) -> Column | str:
        """What a column is in all files together."""
        decided: Column | str = Column(None, "no value at all")
        decider = self._files[0]
        for file in self._files:
            found = column_of(file.types[name])
            if isinstance(found, str):
                return found
            if found.kind is None:
                continue
            if isinstance(decided, Column) and decided.kind not in {None, found.kind}:
                raise DriftError(
                    f"column {name!r} holds {decided.type} in {decider.path} but {found.type} in {file.path}: "
                    "write it with one type"
                )
            if isinstance(decided, Column) and decided.kind is None:
                decided, decider = found, file
        return decided

    def pieces(self, unit: Unit) -> Iterator[Mapping[str, pa.Array]]:
        """The unit's columns, at most ``PIECE_ROWS`` rows at once.

        Raises
        ------
        DriftError
            If the file cannot be read.
        """
        with (
            _reading(unit.file.path),
            pq.ParquetFile(
                unit.file.path, metadata=unit.file.metadata, pre_buffer=False, buffer_size=_BUFFER_BYTES
            ) as file,
        ):
            for batch in file.iter_batches(
                PIECE_ROWS, row_groups=[unit.group], columns=list(unit.columns), use_threads=False
            ):
                yield {name: batch.column(batch.schema.get_field_index(name)) for name in unit.columns}

    def column(self, name: str) -> Iterator[pa.Array]:
        """One column from the first row to the last."""
        for unit in self._units([name]):
            for piece in self.pieces(unit):
                yield piece[name]

    def over(self, names: Iterable[str], work: Callable[[Unit], Result]) -> Iterator[Result]:
        """Do ``work`` once for each unit of these columns, in threads; results in the order of the units."""
        return in_threads(work, list(self._units(list(names))))

    def _units(self, names: Sequence[str]) -> Iterator[Unit]:
        start = 0
        for file in self._files:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                width = max(1, _VALUES_A_UNIT // max(rows, 1))
                for at in range(0, len(names), width):
                    yield Unit(file, group, start, tuple(names[at : at + width]))
                start += rows


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``map`` by a few threads; after a failure nothing more is begun."""
    if len(items) <= 1 or threads() == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(threads(), len(items))) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def threads() -> int:
    """How many threads read: one for each core that this process may use, up to a few."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _MOST_THREADS)


def _opened(path: Path) -> _File:
    with _reading(path), pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    names = list(schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DriftError(f"{path} has two columns called {twice[0]!r}: rename one")
    return _File(path, metadata, dict(zip(names, schema.types, strict=True)))


def _check_alike(first: _File, other: _File) -> None:
    for one, two in ((first, other), (other, first)):
        lacking = [name for name in one.types if name not in two.types]
        if lacking:
            raise DriftError(
                f"{two.path} lacks the column {lacking[0]!r} that {one.path} has: files that are read together need "
                "the same columns"
            )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise DriftError(f"{path} cannot be read as Parquet: {first}") from error
