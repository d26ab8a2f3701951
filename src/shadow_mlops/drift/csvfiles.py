"""CSV files become Parquet files in a temporary folder: their types settled by all rows, and then read as any other.

A column is numbers if every value is one or a blank (``NA``, ``null``, ``-`` and the like), true and false count as 1
and 0, times are left out, and the rest are categories. What a column is, all files decide together.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import duckdb
import pyarrow as pa

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.categories import spilling

Sort: TypeAlias = Literal["nothing", "number", "boolean", "time", "category"]

_BLANK_NUMBERS = ("", "na", "n/a", "nan", "null", "none", "-", "?")
_MEMORY = "256MB"
_ROW_GROUP = 1 << 17
_RAGGED = re.compile(r"Line: (\d+).*Expected Number of Columns: (\d+) Found: (\d+)", re.DOTALL)
_LINE = re.compile(r"Line: (\d+)")


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of CSV files.

    Attributes
    ----------
    paths
        Parquet files, one for each CSV file.
    stored
        Column -> what it is called in them; times are not there.
    left_out
        Column -> why it cannot be compared.
    blank
        Columns without any value.
    """

    paths: tuple[Path, ...]
    stored: dict[str, str]
    left_out: dict[str, str]
    blank: frozenset[str]


def convert(paths: Sequence[Path], folder: Path, *, threads: int) -> Converted:
    """Write CSV files (UTF-8, header row; ``.tsv`` by tabs; gzip and zstd) as Parquet files.

    Raises
    ------
    DriftError
        If one cannot be read, with the line; or if they differ in their columns.
    """
    headers = [_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        _check_header(path, header, paths[0], headers[0])
    connection = spilling(folder, memory=_MEMORY, threads=threads)
    try:
        sorts = _sorts(connection, paths, headers)
        stored = {name: f"c{place}" for place, name in enumerate(headers[0]) if sorts[name] != "time"}
        targets = []
        for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
            targets.append(folder / f"{place:06}.parquet")
            columns = ", ".join(f"{_typed(_column(header, name), sorts[name])} AS {at}" for name, at in stored.items())
            rows = f"SELECT {columns or 'NULL AS nothing'} FROM {_scan(path, header)}"  # noqa: S608 - quoted
            form = f"(FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {_ROW_GROUP})"
            with _reading(path):
                connection.execute(f"COPY ({rows}) TO {_text(str(targets[-1]))} {form}")
    finally:
        connection.close()
    left_out = {name: "a time (text)" for name, sort in sorts.items() if sort == "time"}
    blank = frozenset(name for name, sort in sorts.items() if sort == "nothing")
    return Converted(tuple(targets), stored, left_out, blank)


def _header(path: Path) -> list[str]:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            return next(csv.reader(text, delimiter=_delimiter(path)), [])
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DriftError(f"{path} cannot be read as CSV: {str(error).partition(chr(10))[0]}") from error


def _check_header(path: Path, header: Sequence[str], first_path: Path, first: Sequence[str]) -> None:
    if not header:
        raise DriftError(f"{path} is empty: expected a header row with the names of the columns")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DriftError(f"{path} has two columns called {twice[0]!r}: rename one")
    for lacking, path_lacking, path_having in (
        (set(first) - set(header), path, first_path),
        (set(header) - set(first), first_path, path),
    ):
        if lacking:
            raise DriftError(
                f"{path_lacking} lacks the column {min(lacking)!r} that {path_having} has: files that are read "
                "together need the same columns"
            )


def _sorts(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], headers: Sequence[Sequence[str]]
) -> dict[str, Sort]:
    """What each column is, by all values of all files."""
    given, numbers = (dict.fromkeys(headers[0], 0) for _ in range(2))
    for path, header in zip(paths, headers, strict=True):
        found = _count(connection, path, header, header, ("count({c})", "count(TRY_CAST({c} AS DOUBLE))"))
        for name, (some, numeric) in found.items():
            given[name] += some
            numbers[name] += numeric
    sorts: dict[str, Sort] = {
        name: "number" if given[name] else "nothing" for name in headers[0] if numbers[name] == given[name]
    }
    unclear = [name for name in headers[0] if name not in sorts]
    if not unclear:
        return sorts
    blanks = ", ".join(_text(word) for word in _BLANK_NUMBERS)
    tests = (
        "count_if(trim({c}) <> '')",
        "count_if(TRY_CAST({c} AS DOUBLE) IS NOT NULL OR lower(trim({c})) IN (" + blanks + "))",
        "count(TRY_CAST({c} AS DOUBLE))",
        "count_if(lower(trim({c})) IN ('true', 'false'))",
        "count(TRY_CAST({c} AS TIMESTAMP))",
    )
    totals = {name: [0] * len(tests) for name in unclear}
    for path, header in zip(paths, headers, strict=True):
        for name, counts in _count(connection, path, header, unclear, tests).items():
            totals[name] = [a + b for a, b in zip(totals[name], counts, strict=True)]
    for name, (worded, numeric_or_blank, numeric, boolean, time) in totals.items():
        if not worded:
            sorts[name] = "nothing"
        elif numeric and numeric_or_blank == given[name]:
            sorts[name] = "number"
        else:
            sorts[name] = "boolean" if boolean == worded else "time" if time == worded else "category"
    return sorts


def _count(
    connection: duckdb.DuckDBPyConnection, path: Path, header: Sequence[str], names: Sequence[str], tests: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    terms = [test.format(c=_column(header, name)) for name in names for test in tests]
    query = f"SELECT {', '.join(terms)} FROM {_scan(path, header)}"  # noqa: S608 - quoted
    with _reading(path):
        row = connection.execute(query).fetchall()[0]
    return {name: row[at * len(tests) : (at + 1) * len(tests)] for at, name in enumerate(names)}


def _column(header: Sequence[str], name: str) -> str:
    # By place: DuckDB takes names that differ only in case for one.
    return f"c{header.index(name)}"


def _typed(column: str, sort: Sort) -> str:
    if sort == "number":
        return f"TRY_CAST({column} AS DOUBLE)"
    if sort == "boolean":
        return f"CASE lower(trim({column})) WHEN 'true' THEN 1.0::DOUBLE WHEN 'false' THEN 0.0::DOUBLE END"
    return f"CASE WHEN trim({column}) <> '' THEN {column} END"


def _scan(path: Path, header: Sequence[str]) -> str:
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(header)))
    literal = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))
    return (
        f"read_csv({_text(literal)}, header = true, auto_detect = false, delim = {_text(_delimiter(path))}, "
        f"quote = '\"', escape = '\"', columns = {{{columns}}})"
    )


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes[-2:]] else ","


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise DriftError(f"{path} cannot be read as CSV: {_reason(str(error))}") from error


def _reason(message: str) -> str:
    """DuckDB's page of advice in one line."""
    ragged = _RAGGED.search(message)
    if ragged:
        return f"line {ragged[1]} has {ragged[3]} columns, not {ragged[2]}"
    line = _LINE.search(message)
    first = message.partition("\n")[0]
    said = next((row.strip() for row in message.splitlines()[2:] if row.strip() and "Original Line" not in row), first)
    return f"line {line[1]}: {said}" if line else first
