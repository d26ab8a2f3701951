"""Many small files become few: neighbours of one table, date and part, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from shadow_mlops.lake.changes import ROW_GROUP
from shadow_mlops.lake.manifest import DataFile, Manifest
from shadow_mlops.lake.tables import SCHEMAS, Table

LARGE = 1_000_000
"""Rows of a file that is left alone."""
_FEW = 8
_FEW_OF_A_PAST_DAY = 2


class Merge(NamedTuple):
    """Files that are to become one."""

    table: Table
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """Rows of the new file."""
        return sum(file.rows for file in self.files)


def merges(manifest: Manifest, *, today: str, skip: Collection[str] = ()) -> list[Merge]:
    """What is worth merging, the most files first.

    A file is merged with those behind it once these have as many rows together, so that a row is rewritten a
    logarithmic number of times, however many files there are.

    Parameters
    ----------
    today
        Date; a day before is over, and has as few files as possible.
    skip
        Paths of files to leave alone.
    """
    found = []
    for table in SCHEMAS:
        files = manifest.files.get(table, ())
        for (date, _), group in groupby(files, key=lambda file: (file.date, file.part)):
            few = _FEW if date >= today else _FEW_OF_A_PAST_DAY
            found += [Merge(table, run) for run in _runs(list(group), few, skip)]
    return sorted(found, key=lambda merge: -len(merge.files))


def _runs(files: Sequence[DataFile], few: int, skip: Collection[str]) -> Iterator[tuple[DataFile, ...]]:
    run: list[DataFile] = []
    rows = 0
    for file in reversed(files):
        mergeable = file.rows < LARGE and file.path not in skip
        if run and (not mergeable or file.rows > max(rows, ROW_GROUP // 32) or rows + file.rows > 2 * LARGE):
            if len(run) >= few:
                yield tuple(reversed(run))
            run, rows = [], 0
        if mergeable:
            run.append(file)
            rows += file.rows
    if len(run) >= few:
        yield tuple(reversed(run))


def merged(lake: Path, merge: Merge) -> pa.RecordBatchReader:
    """Rows of the files, one row group in memory at a time.

    The columns are those of the table as it is now, and every feature that one of the files has.

    Raises
    ------
    pa.ArrowInvalid
        If a file cannot be read; the reader raises it too.
    """
    paths = [lake / file.path for file in merge.files]
    schemas = [SCHEMAS[merge.table]]
    for path in paths:
        with _naming(path):
            schemas.append(pq.read_schema(path).remove_metadata())
    schema = pa.unify_schemas(schemas)
    return pa.RecordBatchReader.from_batches(schema, _batches(paths, schema))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise pa.ArrowInvalid(f"{path}: {error}") from error


def _batches(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    empty = schema.empty_table()
    held: list[pa.Table] = []
    rows = 0
    for batch in _read(paths):
        table = pa.Table.from_batches([batch.replace_schema_metadata(None)])
        held.append(pa.concat_tables([empty, table], promote_options="default"))
        rows += len(batch)
        if rows >= ROW_GROUP:
            yield from _joined(held)
            held, rows = [], 0
    if held:
        yield from _joined(held)


def _read(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with _naming(path), pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROW_GROUP)


def _joined(tables: Sequence[pa.Table]) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = pa.concat_tables(tables).combine_chunks().to_batches()
    return batches
