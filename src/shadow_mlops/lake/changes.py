"""The only way to change the lake: files first, then the manifest that names them, in one rename."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.durable import replace_durably, sync_folder
from shadow_mlops.lake.manifest import MANIFEST, DataFile, Dropped, Manifest, read_manifest
from shadow_mlops.lake.tables import SCHEMAS, Table

GRACE_SECONDS = 600.0
"""How long a dropped file stays for those who read an older snapshot."""
ROW_GROUP = 131_072
_DAY_US = 86_400_000_000


def time_column(table: Table) -> str:
    """Column by which the rows of a table are dated."""
    return "received" if table == "outcomes" else "time"


class Change:
    """One step from a snapshot to the next. One process at a time may have one.

    Nothing of it is visible before :meth:`commit`; a crash before leaves files that no snapshot names, which the next
    sweep removes.

    Parameters
    ----------
    lake
        Folder of the lake; made when the first file is written.
    manifest
        The newest snapshot.

    Examples
    --------
    >>> import tempfile
    >>> change = Change(Path(tempfile.mkdtemp()) / "lake", Manifest())
    >>> change.count("late", 2)
    >>> change.commit().counts
    {'late': 2}
    """

    def __init__(self, lake: Path, manifest: Manifest) -> None:
        self.began = time.time()
        """Seconds since 1970: files of this change are not older."""
        self._lake = lake
        self._number = manifest.number + 1
        self._files: dict[Table, list[DataFile]] = {table: list(files) for table, files in manifest.files.items()}
        self._positions = {stream: dict(segments) for stream, segments in manifest.positions.items()}
        self._schemas = dict(manifest.schemas)
        self._counts = dict(manifest.counts)
        self._dropped = list(manifest.dropped)
        self._matched_us = manifest.matched_us
        self._added: dict[Table, list[DataFile]] = {}
        self._written: list[str] = []
        self._folders: set[Path] = set()
        self._expired: list[str] = []
        self._first = manifest.number == 0
        self.changed = False
        """Whether a commit would make any difference."""

    def add(self, table: Table, data: pa.Table, *, part: str = "") -> None:
        """Write rows behind those that the table has on their dates: one file per date.

        Parameters
        ----------
        data
            All columns of the table, and for events any number of feature columns.
        part
            Stream that the rows come from; parts of one date lie behind each other.

        Raises
        ------
        LakeError
            If the disk does not take it.
        ValueError
            If a column is missing, unknown or of another type.
        """
        new = self._write_dated(table, conform(table, data), part)
        if new:
            files = self._files.setdefault(table, [])
            files += new
            files.sort(key=_order)
            self._added.setdefault(table, []).extend(new)
            self.count(table, data.num_rows)

    def added(self, table: Table) -> tuple[DataFile, ...]:
        """Files that :meth:`add` has written, in the order of the table."""
        return tuple(sorted(self._added.get(table, ()), key=_order))

    def replace(self, table: Table, old: Sequence[DataFile], data: pa.Table | pa.RecordBatchReader) -> None:
        """Put rows in the place of files that follow each other.

        Parameters
        ----------
        data
            A table, of any dates; or a reader, whose rows must have the date of the old files, and which is not held in
            memory.

        Raises
        ------
        LakeError
            If the disk does not take it.
        ValueError
            If a file is not of this snapshot.
        """
        files = self._files.get(table, [])
        place = min(self._place(table, file) for file in old)
        if isinstance(data, pa.Table):
            new = self._write_dated(table, conform(table, data), old[0].part)
        else:
            new = [self._write(table, old[0].date, old[0].part, data.schema, _tables(data))]
        self._take_out(table, old)
        files[place:place] = new
        files.sort(key=_order)

    def drop(self, table: Table, old: Sequence[DataFile]) -> None:
        """Take files out of the table.

        Raises
        ------
        ValueError
            If a file is not of this snapshot.
        """
        for file in old:
            self._place(table, file)
        self._take_out(table, old)

    def count(self, name: str, n: int = 1) -> None:
        """Add to a count."""
        if n:
            self._counts[name] = self._counts.get(name, 0) + n
            self.changed = True

    def set_position(self, stream: str, segment: int, rows: int) -> None:
        """Note that so many rows of the segment are taken in."""
        self._positions.setdefault(stream, {})[segment] = rows
        self.changed = True

    def forget_positions(self, stream: str, segments: Iterable[int]) -> None:
        """Forget segments of which nothing is left in the log."""
        for segment in segments:
            self._positions.get(stream, {}).pop(segment, None)
            self.changed = True

    def set_matched(self, us: int) -> None:
        """Note until when final labels have met the results."""
        self.changed = self.changed or us != self._matched_us
        self._matched_us = us

    def learn(self, key: str, schema: EventSchema) -> None:
        """Keep the schema of events."""
        if key not in self._schemas:
            self._schemas[key] = schema
            self.changed = True

    def expire(self, paths: Iterable[str]) -> None:
        """Remove, once this is committed, files that were dropped long enough ago."""
        gone = set(paths)
        self._expired += sorted(gone)
        self._dropped = [each for each in self._dropped if each.path not in gone]
        self.changed = self.changed or bool(gone)

    def preview(self) -> Manifest:
        """The snapshot that a commit would make."""
        return Manifest(
            number=self._number,
            at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            files={table: tuple(files) for table, files in self._files.items() if files},
            positions={stream: dict(segments) for stream, segments in self._positions.items() if segments},
            schemas=dict(self._schemas),
            counts=dict(self._counts),
            dropped=tuple(self._dropped),
            matched_us=self._matched_us,
        )

    def commit(self) -> Manifest:
        """Make it the newest snapshot.

        Raises
        ------
        LakeError
            The snapshot before is still the newest.
        """
        self._sync()
        manifest = self.preview()
        self._publish(manifest)
        for path in self._expired:
            (self._lake / path).unlink(missing_ok=True)
        return manifest

    def abandon(self) -> None:
        """Remove the files that were written, unless they are committed; the change must not be used any more."""
        # A commit that failed to make the rename durable has renamed nevertheless.
        if self._written and read_manifest(self._lake).number >= self._number:
            return
        for path in self._written:
            (self._lake / path).unlink(missing_ok=True)

    def _sync(self) -> None:
        if not self._written:
            return
        paths = [self._lake / path for path in self._written]
        try:
            # At once: labels of a quarter may touch two hundred files, of which each alone waits for the disk.
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(_sync_file, paths))
            for folder in self._folders:
                sync_folder(folder)
        except OSError as error:
            raise LakeError(f"the lake cannot be written: {error}") from error

    def _publish(self, manifest: Manifest) -> None:
        try:
            replace_durably(self._lake / MANIFEST, msgspec.json.encode(manifest))
        except OSError as error:
            raise LakeError(f"the lake's manifest cannot be written: {error}") from error

    def _place(self, table: Table, file: DataFile) -> int:
        try:
            return self._files[table].index(file)
        except (KeyError, ValueError):
            raise ValueError(f"{file.path} is not a file of {table} in this snapshot") from None

    def _take_out(self, table: Table, old: Sequence[DataFile]) -> None:
        gone = {file.path for file in old}
        files = self._files[table]
        files[:] = [file for file in files if file.path not in gone]
        now = time.time()
        self._dropped += [Dropped(file.path, now) for file in old]
        self.changed = True

    def _write_dated(self, table: Table, data: pa.Table, part: str) -> list[DataFile]:
        days = column_us(data, time_column(table)) // _DAY_US
        if len(days) == 0:
            return []
        order = None if (days == days[0]).all() else np.argsort(days, kind="stable")
        if order is not None:
            data, days = data.take(pa.array(order)), days[order]
        bounds = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        return [
            self._write(table, str(np.datetime64(int(days[start]), "D")), part, data.schema, [data[start:end]])
            for start, end in itertools.pairwise(bounds)
        ]

    def _write(self, table: Table, date: str, part: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> DataFile:
        if self._first:
            # Tables without a manifest are then never the beginning of a lake, but one that has lost it.
            self._first = False
            self._publish(Manifest(number=self._number))
            self._number += 1
        name = f"{self._number:010d}-{len(self._written):04d}-{secrets.token_hex(4)}.parquet"
        path = str(Path(table, f"date={date}", name))
        target = self._lake / path
        new = not target.parent.is_dir()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            rows, size, first_us, last_us = _write_file(target, schema, tables, time_column(table))
            self._written.append(path)
            self._folders.update(list(target.parents)[: 3 if new else 1])
        except OSError as error:
            raise LakeError(f"the lake cannot be written: {error}") from error
        return DataFile(path, rows, size, date, first_us, last_us, part)


def _write_file(
    target: Path, schema: pa.Schema, tables: Iterable[pa.Table], time_name: str
) -> tuple[int, int, int, int]:
    """Rows, bytes, first and last time of the file."""
    rows, first_us, last_us = 0, 2**63 - 1, -(2**63)
    try:
        with target.open("xb") as file:
            with pq.ParquetWriter(file, schema, **_options(schema)) as writer:
                for each in tables:
                    times = column_us(each, time_name)
                    first_us, last_us = min(first_us, int(times.min())), max(last_us, int(times.max()))
                    rows += each.num_rows
                    writer.write_table(each, row_group_size=ROW_GROUP)
            return rows, file.tell(), first_us, last_us
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def conform(table: Table, data: pa.Table) -> pa.Table:
    """The columns of the table in its order and types; those of features behind them.

    Raises
    ------
    ValueError
        If a column is missing, unknown or of another type.
    """
    schema = SCHEMAS[table]
    names = set(data.column_names)
    extra = [name for name in data.column_names if name not in schema.names]
    missing = [name for name in schema.names if name not in names]
    if missing or (extra and table != "events"):
        raise ValueError(f"rows for {table} lack the columns {missing} or have others: {extra}")
    wanted = pa.schema([*schema, *(data.schema.field(name).remove_metadata() for name in extra)])
    data = data.select(wanted.names)
    try:
        return data if data.schema.equals(wanted) else data.cast(wanted)
    except pa.ArrowInvalid as error:
        raise ValueError(f"rows for {table} have a column of another type: {error}") from error


def column_us(data: pa.Table, name: str) -> NDArray[np.int64]:
    """A time column as int64 (n,): microseconds since 1970.

    Raises
    ------
    ValueError
        If a value is missing.
    """
    column = data.column(name)
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no {name}")
    values: NDArray[np.int64] = pc.cast(column, pa.int64()).to_numpy()
    return values


def _order(file: DataFile) -> tuple[str, str]:
    return file.date, file.part


def _tables(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    for batch in reader:
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _options(schema: pa.Schema) -> Mapping[str, object]:
    # Dictionaries on strings only: twice the speed of the default settings on wide float tables.
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    lists = [field for field in schema if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)]
    strings += [f"{field.name}.list.element" for field in lists]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": strings}
