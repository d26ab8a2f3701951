"""Categories of columns that are read in pieces, counted by a DuckDB that spills.

Five million different ones take 0.2 GB more memory than three, and no more than that.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shadow_mlops.drift.sources import NAMED, Tally
from shadow_mlops.statistics.bins import LARGEST_CATEGORIES, CategoryBins

_ENTRIES = 1 << 17  # values with their counts that are held before they are merged
_MEMORY = "128MB"
_PAIRS = pa.schema([("value", pa.large_string()), ("rows", pa.int64())])


def spilling(folder: Path, *, memory: str = _MEMORY, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills into a folder and loads nothing from elsewhere."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory,
            "threads": threads,
            "temp_directory": str(folder / secrets.token_hex(4)),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_unsigned_extensions": False,
            "preserve_insertion_order": False,
        },
    )
    connection.execute("SET enable_progress_bar = false")  # on the standard output, which may be somebody's JSON
    return connection


class CountedCategories:
    """Different values of one column and the rows of each.

    Parameters
    ----------
    pieces
        The column: strings, or what has strings as its dictionary.
    folder
        Where to spill.
    """

    def __init__(self, pieces: Iterable[pa.Array], folder: Path) -> None:
        self._connection = spilling(folder)
        self._connection.execute("CREATE TABLE parts (value VARCHAR, rows BIGINT)")
        self._missing = 0
        held: list[pa.Table] = []
        for piece in pieces:
            held.append(self._counted(piece))
            if sum(len(part) for part in held) > _ENTRIES:
                held = [_merged(held)]
                if len(held[0]) > _ENTRIES // 2:
                    self._store(held.pop())
        if held:
            self._store(_merged(held))
        self._connection.execute(
            "CREATE TABLE counted AS SELECT value, sum(rows)::BIGINT AS rows FROM parts GROUP BY value"
        )
        self._connection.execute("DROP TABLE parts")

    def largest(self, count: int = LARGEST_CATEGORIES) -> list[str]:
        """The most frequent values, by count and then by name."""
        found = self._connection.execute(
            "SELECT value FROM counted ORDER BY rows DESC, value LIMIT ?", [count]
        ).fetchall()
        return [value for (value,) in found]

    def tally(self, bins: CategoryBins) -> Tally:
        """Rows per category of the bins, OTHER, missing."""
        counts = np.zeros(len(bins.categories) + 2, dtype=np.int64)
        with self._wanted(bins.categories):
            for place, rows in self._connection.execute(
                "SELECT place, rows FROM counted JOIN wanted USING (value)"
            ).fetchall():
                counts[place] = rows
            others = "FROM counted ANTI JOIN wanted USING (value)"
            different, rows = self._connection.execute(
                f"SELECT count(*), coalesce(sum(rows), 0)::BIGINT {others}"
            ).fetchall()[0]
            most = self._connection.execute(
                f"SELECT value, rows {others} ORDER BY rows DESC, value LIMIT {NAMED}"
            ).fetchall()
        counts[-2:] = rows, self._missing
        return Tally(counts=counts, others=dict(most), distinct_others=different)

    def occurrences(self, values: Sequence[str]) -> dict[str, int]:
        """Rows that have each of these values."""
        with self._wanted(values):
            found = self._connection.execute("SELECT place, rows FROM counted JOIN wanted USING (value)").fetchall()
        rows = dict(found)
        return {value: rows.get(place, 0) for place, value in enumerate(values)}

    def _counted(self, piece: pa.Array) -> pa.Table:
        pairs = pc.value_counts(piece)
        values, rows = pairs.field("values"), pairs.field("counts")
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        there = values.is_valid()
        self._missing += pc.sum(rows.filter(pc.invert(there)), min_count=0).as_py()
        return pa.table([values.cast(pa.large_string()).filter(there), rows.filter(there)], schema=_PAIRS)

    def _store(self, part: pa.Table) -> None:
        self._connection.register("part", part)
        self._connection.execute("INSERT INTO parts SELECT value, rows FROM part")
        self._connection.unregister("part")

    @contextmanager
    def _wanted(self, values: Sequence[str]) -> Iterator[None]:
        table = pa.table({"value": pa.array(values, pa.large_string()), "place": np.arange(len(values))})
        self._connection.register("wanted", table)
        try:
            yield
        finally:
            self._connection.unregister("wanted")


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    merged = pa.concat_tables(parts).group_by("value", use_threads=False).aggregate([("rows", "sum")])
    return merged.select(["value", "rows_sum"]).rename_columns(["value", "rows"])
