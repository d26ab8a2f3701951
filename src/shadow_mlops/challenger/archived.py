"""Recorded events, and the results that they have, as the lake keeps them: read file by file, in columns.

A file that the lake drops while it is open can still be read to its end, however slow the model. One that is gone
before it was opened means that there is a newer snapshot to go on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shadow_mlops.challenger.absent import Absent, absent_cells, without_unknown
from shadow_mlops.challenger.coverage import Coverage
from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EventSchema, Origin
from shadow_mlops.domain.features import Signature
from shadow_mlops.eventlog.records import Floats, Strings
from shadow_mlops.lake.manifest import DataFile, Manifest
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX

_KEYS = ["segment", "row", "time"]
_ABSENT = ["schema", "origins", "entity"]


class ReplacedFileError(Exception):
    """A file of the snapshot has been removed: a newer snapshot has what was in it."""


@dataclass(frozen=True, slots=True)
class ArchivedEvents:
    """n sampled events, in the order of their ids.

    Attributes
    ----------
    segments, rows
        int64 (n,): together the ids.
    numbers, strings
        Features in the model's order; those that an event lacks are missing.
    passed
        Rows of the file that were looked at to find these.
    absent
        What the events lack because nobody looked for it; None if that was not asked for.
    """

    segments: NDArray[np.int64]
    rows: NDArray[np.int64]
    numbers: Floats
    strings: Strings
    passed: int
    absent: Absent | None = None


def cover_archived(lake: Path, manifest: Manifest, coverage: Coverage, *, version: str) -> None:
    """Cover the events that have a result of the version in the lake.

    Parameters
    ----------
    manifest
        With the files of the wanted span of time.

    Raises
    ------
    ReplacedFileError
        If there is a newer snapshot.
    LakeError
        If a file cannot be read.
    """
    for file in manifest.files.get("results", ()):
        with _opened(lake, file) as parquet:
            for batch in _batches(parquet, file, [*_KEYS[:2], "version"], 131_072):
                batch = batch.filter(pc.equal(batch.column("version"), version))  # noqa: PLW2901 - the rest is not ours
                coverage.add_rows(_integers(batch, "segment"), _integers(batch, "row"))


def archived_events(
    lake: Path,
    manifest: Manifest,
    signature: Signature,
    *,
    since_us: int,
    until_us: int,
    rows: int,
    absent: bool = False,
) -> Iterator[ArchivedEvents]:
    """The sampled events of a span of time, at most so many rows at once.

    Parameters
    ----------
    absent
        Say what they lack, too: three more columns are read for it.

    Raises
    ------
    ReplacedFileError
        If there is a newer snapshot.
    LakeError
        If a file cannot be read.
    """
    for file in manifest.files.get("events", ()):
        with _opened(lake, file) as parquet:
            there = set(parquet.schema_arrow.names)
            numbers = [NUMBER_PREFIX + name for name in signature.numbers]
            strings = [STRING_PREFIX + name for name in signature.strings]
            features = [name for name in (*numbers, *strings) if name in there]
            wanted = [*_KEYS, "sampled", *features, *(_ABSENT if absent else ())]
            for batch in _batches(parquet, file, wanted, rows):
                passed = batch.num_rows
                times = _integers(batch, "time")
                sampled = batch.column("sampled").to_numpy(zero_copy_only=False).astype(np.bool_)
                chosen = np.flatnonzero((times >= since_us) & (times < until_us) & sampled)
                segments, at = _integers(batch, "segment")[chosen], _integers(batch, "row")[chosen]
                order = np.lexsort((at, segments))
                batch = batch.take(pa.array(chosen[order]))  # noqa: PLW2901 - only the chosen rows are wanted
                yield ArchivedEvents(
                    segments[order],
                    at[order],
                    _floats(batch, [name if name in there else None for name in numbers]),
                    _texts(batch, [name if name in there else None for name in strings]),
                    passed,
                    _absent(batch, signature, manifest.schemas) if absent else None,
                )


def _opened(lake: Path, file: DataFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(lake / file.path)
    except FileNotFoundError as error:
        raise ReplacedFileError(file.path) from error
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{file.path} in the lake cannot be read: {error}") from error


def _batches(parquet: pq.ParquetFile, file: DataFile, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from parquet.iter_batches(rows, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{file.path} in the lake cannot be read: {error}") from error


def _integers(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = batch.column(name).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return values


def _floats(batch: pa.RecordBatch, names: list[str | None]) -> Floats:
    block = np.full((batch.num_rows, len(names)), np.nan)
    for place, name in enumerate(names):
        if name is not None:
            block[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
    return block


def _texts(batch: pa.RecordBatch, names: list[str | None]) -> Strings:
    block = np.full((batch.num_rows, len(names)), None, dtype=np.object_)
    for place, name in enumerate(names):
        if name is not None:
            block[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
    return block


def _absent(batch: pa.RecordBatch, signature: Signature, schemas: Mapping[str, EventSchema]) -> Absent:
    cells = np.zeros((batch.num_rows, len(signature.numbers) + len(signature.strings)), dtype=np.bool_)
    keys = batch.column("schema").dictionary_encode()
    codes = keys.indices.to_numpy(zero_copy_only=False)
    for code, key in enumerate(keys.dictionary.to_pylist()):
        rows, schema = np.flatnonzero(codes == code), schemas[key]
        cells[rows] = absent_cells(schema, signature, len(rows), _origins(batch.column("origins"), rows, schema))
    entities: Strings = batch.column("entity").to_numpy(zero_copy_only=False)
    return Absent(without_unknown(cells, entities), entities, _integers(batch, "time"))


def _origins(column: pa.ListArray, rows: NDArray[np.intp], schema: EventSchema) -> NDArray[np.uint8] | None:
    lists = column.take(pa.array(rows))
    given = lists.is_valid().to_numpy(zero_copy_only=False)
    if not given.any():
        return None
    origins = np.full((len(rows), len(schema.numbers) + len(schema.strings)), Origin.REQUEST, dtype=np.uint8)
    origins[given] = lists.flatten().to_numpy(zero_copy_only=False).reshape(int(given.sum()), -1)
    return origins
