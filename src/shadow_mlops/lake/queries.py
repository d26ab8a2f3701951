"""DuckDB over exactly the files of one snapshot."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.lake.manifest import DataFile, Manifest, read_manifest
from shadow_mlops.lake.tables import SCHEMAS, Table

SPILL = ".spill"
_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.uint8(): "UTINYINT",
    pa.uint32(): "UINTEGER",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


def connect(
    lake: Path,
    manifest: Manifest | None = None,
    *,
    memory_limit: str = "1GB",
    threads: int | None = None,
    tables: Iterable[Table] = tuple(SCHEMAS),
) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the views ``events``, ``results``, ``outcomes``, ``labels`` and ``pairs``.

    Each view gives the table's rows in its order, and has every column of the table, typed, also where there is no
    row. Close the connection within ten minutes: files that are replaced meanwhile stay that long.

    Parameters
    ----------
    lake
        Folder of the lake.
    manifest
        The snapshot; None: the newest.
    memory_limit
        Beyond it DuckDB spills into a folder of the lake.
    threads
        None: as many as there are cores.
    tables
        Views to make.

    Raises
    ------
    LakeError
        If the manifest cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> connect(Path(tempfile.mkdtemp())).execute("SELECT count(*), max(time) FROM events").fetchone()
    (0, None)
    """
    manifest = read_manifest(lake) if manifest is None else manifest
    spill = lake / SPILL
    if lake.is_dir():
        with suppress(OSError):  # who may only read needs no room to spill, until a query is too large for memory
            spill.mkdir(exist_ok=True)
    config: dict[str, str | bool | int] = {
        "memory_limit": memory_limit,
        # DuckDB names its files alike in every process: a folder for each.
        "temp_directory": str(spill / f"{os.getpid()}-{secrets.token_hex(4)}"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_unsigned_extensions": False,
    }
    if threads is not None:
        config["threads"] = threads
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")  # on the standard output, which may be somebody's JSON
    for table in tables:
        create_view(connection, lake, table, manifest.files.get(table, ()))
    return connection


def spill_folder(connection: duckdb.DuckDBPyConnection) -> Path:
    """Where a connection of :func:`connect` spills what is too large for memory; there only once it has."""
    (found,) = connection.execute("SELECT current_setting('temp_directory')").fetchall()[0]
    return Path(found)


@contextmanager
def reading(lake: Path) -> Iterator[None]:
    """Tell of a lake that cannot be read as of one that is damaged.

    Raises
    ------
    LakeError
        Instead of whatever DuckDB, Arrow and the system raise.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise LakeError(f"the lake {lake} cannot be read: {error}") from error


def create_view(
    connection: duckdb.DuckDBPyConnection,
    lake: Path,
    table: Table,
    files: Iterable[DataFile],
    *,
    name: str | None = None,
) -> None:
    """Make a view of some files of a table.

    Parameters
    ----------
    name
        Of the view; empty: the table's.
    """
    view = quoted(name or table)
    found = scan(lake, files)
    if found is None:
        columns = ", ".join(f"NULL::{sql_type(field.type)} AS {quoted(field.name)}" for field in SCHEMAS[table])
        connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {columns} WHERE false")
        return
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {found}")  # noqa: S608 - paths are quoted
    there = {
        column
        for (column,) in connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [name or table]
        ).fetchall()
    }
    added = [field for field in SCHEMAS[table] if field.name not in there]
    if added:  # columns that a later version of the platform added: null in files that it did not write
        nulls = ", ".join(f"NULL::{sql_type(field.type)} AS {quoted(field.name)}" for field in added)
        connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT *, {nulls} FROM {found}")  # noqa: S608 - as above


def scan(lake: Path, files: Iterable[DataFile]) -> str | None:
    """SQL of a table function that reads the files in their order, columns by name; None if there are none."""
    paths = ", ".join(_text(_literal_path(str(lake.absolute() / file.path))) for file in files)
    return f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)" if paths else None


def quoted(name: str) -> str:
    """A name as an SQL identifier.

    >>> quoted('n_a"b')
    '"n_a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of the type of a column.

    >>> sql_type(pa.list_(pa.float64()))
    'DOUBLE[]'
    """
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    return _TYPES[kind]


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literal_path(path: str) -> str:
    # What looks like a pattern is taken for one, in lists of files too.
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
