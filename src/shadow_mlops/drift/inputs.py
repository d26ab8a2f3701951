"""Tables in memory as a source: pandas, Polars, Arrow, anything with an Arrow stream, arrays and lists by name.

Columns stay as they are until they are counted; then one at a time becomes float64 or is counted by category, in Arrow
or NumPy, so that what is held beside the data is two columns for each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.cells import column_of, floats
from shadow_mlops.drift.sources import NAMED, Column, Schema, Source, Tally
from shadow_mlops.statistics.bins import CategoryBins, FeatureBins, category_bins, quantile_bins

Cells: TypeAlias = "NDArray[Any] | pa.ChunkedArray"

_TAKEN = "a pandas or Polars DataFrame, an Arrow table, an object with __arrow_c_stream__, or arrays or lists by name"


class MemorySource:
    """A table in memory.

    Parameters
    ----------
    columns
        Equally long, each a one-dimensional NumPy array or Arrow data.
    name
        For messages.
    rows
        How long they are.
    others
        Names of columns that are not compared.

    Raises
    ------
    DriftError
        If the columns differ in length.
    """

    affordable = True

    def __init__(self, columns: Mapping[str, Cells], name: str, *, rows: int, others: Sequence[str] = ()) -> None:
        self.name = name
        self._columns = dict(columns)
        self._rows = rows
        self._others = tuple(others)
        lengths = {each: len(cells) for each, cells in self._columns.items()}
        if len(set(lengths.values())) > 1:
            short, long = min(lengths, key=lambda k: lengths[k]), max(lengths, key=lambda k: lengths[k])
            raise DriftError(
                f"the columns of {name} differ in length: {short!r} has {lengths[short]}, {long!r} {lengths[long]}"
            )
        self._counted: dict[str, _Categories] = {}
        self._lock = Lock()

    def schema(self) -> Schema:
        """Names, kinds and the number of rows."""
        return self._schema

    @cached_property
    def _schema(self) -> Schema:
        columns, left_out = {}, {}
        for name, cells in self._columns.items():
            found = _column(cells)
            if isinstance(found, Column):
                columns[name] = found
            else:
                left_out[name] = found
        return Schema(self._rows, columns, left_out, self._others)

    def bins(self, names: Sequence[str], count: int) -> Mapping[str, FeatureBins]:
        """Quantile bins of numeric columns, categories of the others."""
        made: dict[str, FeatureBins] = {}
        for name in names:
            if self._schema.columns[name].kind == "category":
                made[name] = category_bins(self._categories(name).by_name())
            else:
                made[name] = quantile_bins(_floats(self._columns[name]), count)
        return made

    def tally(self, bins: Mapping[str, FeatureBins]) -> Mapping[str, Tally]:
        """Count columns in bins."""
        return {
            name: self._categories(name).tally(each)
            if isinstance(each, CategoryBins)
            else _tally(_floats(self._columns[name]), each)
            for name, each in bins.items()
        }

    def occurrences(self, values: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, int]]:
        """Rows that have each of a few values."""
        return {name: self._categories(name).occurrences(wanted) for name, wanted in values.items()}

    def values(self, name: str) -> NDArray[np.float64]:
        """One numeric column; the data's own memory where it is float64."""
        return _floats(self._columns[name])

    def _categories(self, name: str) -> _Categories:
        with self._lock:
            if name not in self._counted:
                self._counted[name] = _counted(self._columns[name])
            return self._counted[name]


def memory_source(
    data: Any, name: str = "current", columns: Sequence[str] | None = None, *, without: Collection[str] = ()
) -> MemorySource:
    """A table in memory as a source.

    Parameters
    ----------
    data
        pandas or Polars DataFrame (eager or lazy), Arrow table or record batch, an object with
        ``__arrow_c_stream__``, or a mapping of names to arrays or lists. Nothing is copied that need not be.
    name
        For messages and for the report.
    columns, without
        Only these, those of them that are there; and not those. Of a lazy table no others are computed.

    Raises
    ------
    DriftError
        If it is none of these, two columns have one name, columns differ in length, or a column mixes types.
    """

    def wanted(column: object) -> bool:
        return (columns is None or str(column) in columns) and str(column) not in without

    found, rows = _raw(data, name, wanted)
    names = [str(each) for each, _ in found]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise DriftError(f"{name} has two columns called {twice[0]!r}: rename one")
    cells = {each: _cells(raw, each, name) for each, (_, raw) in zip(names, found, strict=True) if wanted(each)}
    return MemorySource(cells, name, rows=rows, others=[each for each in names if not wanted(each)])


def as_source(data: Any, name: str, columns: Sequence[str] | None = None, *, without: Collection[str] = ()) -> Source:
    """``data`` if it is a source, else the table in memory that it is."""
    if all(hasattr(data, method) for method in ("occurrences", "tally", "bins", "schema")):
        source: Source = data
        return source
    return memory_source(data, name, columns, without=without)


def _raw(data: Any, name: str, wanted: Callable[[object], bool]) -> tuple[list[tuple[object, Any]], int]:
    """All columns of a table as it holds them, and its rows; of a lazy one, None for those that are not wanted."""
    if isinstance(data, np.ndarray) and data.dtype.names:
        return [(field, data[field]) for field in data.dtype.names], len(data)
    if isinstance(data, Mapping):
        sized = [cells for cells in data.values() if hasattr(cells, "__len__")]
        return list(data.items()), len(sized[0]) if sized else 0
    if isinstance(data, pa.Table | pa.RecordBatch):
        return list(zip(data.schema.names, data.columns, strict=True)), data.num_rows
    try:
        frame = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        which = " ".join(str(error).partition("-")[2].split())
        raise DriftError(f"{name} has two columns of one name ({which}): rename one") from None
    if isinstance(frame, nw.LazyFrame):
        return _of_lazy(frame, wanted)
    if isinstance(frame, nw.DataFrame):
        return [(each, frame[:, i]) for i, each in enumerate(frame.columns)], len(frame)
    if hasattr(data, "__arrow_c_stream__"):
        return _raw(pa.table(data), name, wanted)
    raise DriftError(f"{name} is a {type(data).__name__}, not a table: give {_TAKEN}")


def _of_lazy(frame: nw.LazyFrame[Any], wanted: Callable[[object], bool]) -> tuple[list[tuple[object, Any]], int]:
    names = frame.collect_schema().names()
    present = [each for each in names if wanted(each)]
    counted = frame.select(present).collect() if present else frame.select(rows=nw.len()).collect()
    rows = len(counted) if present else int(counted["rows"].item())
    return [(each, counted[each] if wanted(each) else None) for each in names], rows


def _cells(cells: Any, column: str, name: str) -> Cells:
    """A column as NumPy or Arrow data; Python objects become typed, or are refused."""
    if isinstance(cells, np.ma.MaskedArray):
        return pa.chunked_array([pa.array(np.ma.getdata(cells), mask=np.ma.getmaskarray(cells))])
    if not isinstance(cells, np.ndarray):
        cells = _held(cells, column, name)
    if isinstance(cells, pa.ChunkedArray):
        return cells
    if cells.ndim != 1:
        raise DriftError(f"column {column!r} of {name} has {cells.ndim} dimensions, not one")
    if cells.dtype.kind != "O":
        return cells.astype("U") if cells.dtype.kind == "S" else cells
    try:
        return pa.chunked_array([pa.array(cells, from_pandas=True)])
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise DriftError(f"column {column!r} of {name} mixes {_types_in(cells)}: make it one type ({error})") from None


def _held(cells: Any, column: str, name: str) -> Cells:
    """What a library's own column holds: of pandas a NumPy array, uncopied, or Arrow data; of Polars Arrow data."""
    if isinstance(cells, pa.Array | pa.ChunkedArray):
        return cells if isinstance(cells, pa.ChunkedArray) else pa.chunked_array([cells])
    if isinstance(cells, str | bytes) or not hasattr(cells, "__len__"):
        raise DriftError(f"column {column!r} of {name} is a {type(cells).__name__}, not an array or a list")
    series = nw.from_native(cells, series_only=True, pass_through=True)
    if not isinstance(series, nw.Series):
        listed = np.empty(len(cells), dtype=object)
        listed[:] = list(cells)
        return listed
    native = series.to_native()
    if isinstance(getattr(native, "dtype", None), np.dtype):
        return np.asarray(native.to_numpy())
    return _held(series.to_arrow(), column, name)


def _types_in(cells: NDArray[np.object_]) -> str:
    """The types of its first values of each, for a message."""
    seen: dict[str, None] = {}
    for cell in cells[:10_000]:
        if cell is not None and not (isinstance(cell, float) and np.isnan(cell)):
            seen[type(cell).__name__] = None
    return " and ".join(sorted(seen)) or "values"


def _column(cells: Cells) -> Column | str:
    """What can be compared of a column; or why it cannot be."""
    if isinstance(cells, np.ndarray):
        kind, shown = cells.dtype.kind, str(cells.dtype)
        if kind in "fiub":
            return Column("number", shown)
        if kind in "UT":
            return Column("category", "string")
        return f"a time ({shown})" if kind in "Mm" else f"of type {shown}"
    return column_of(cells.type)


def _floats(cells: Cells) -> NDArray[np.float64]:
    """float64 (n,), NaN for missing; the column's own memory where it is that already."""
    if isinstance(cells, np.ndarray):
        return cells.astype(np.float64, copy=False)
    return floats(cells)


def _tally(values: NDArray[np.float64], bins: FeatureBins) -> Tally:
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    nothing = bool(np.isnan(low))
    return Tally(counts=bins.count(values), low=None if nothing else float(low), high=None if nothing else float(high))


def _counted(cells: Cells) -> _Categories:
    """Count a column of categories."""
    if isinstance(cells, np.ndarray):
        cells = pa.chunked_array([pa.array(cells.astype(object) if cells.dtype.kind == "T" else cells)])
    pairs = pc.value_counts(cells)
    values, counts = pairs.field("values"), pairs.field("counts").to_numpy()
    if isinstance(values, pa.DictionaryArray):  # a dictionary may have a value twice
        decoded = pa.table({"value": values.dictionary_decode().cast(pa.large_string()), "rows": counts})
        totals = decoded.group_by("value").aggregate([("rows", "sum")]).combine_chunks()
        values, counts = totals["value"].combine_chunks(), totals["rows_sum"].to_numpy()
    values = values.cast(pa.large_string())
    there = values.is_valid().to_numpy(zero_copy_only=False)
    return _Categories(values.drop_null(), counts[there], int(counts[~there].sum()))


class _Categories:
    """Different values of a column and the rows of each.

    Parameters
    ----------
    values
        Texts, each once (twice where two typed values have one text).
    counts
        int64, as long.
    missing
        Rows without a value.
    """

    def __init__(self, values: pa.LargeStringArray, counts: NDArray[np.int64], missing: int) -> None:
        self._values = values
        self._counts = counts
        self._missing = missing

    def by_name(self) -> dict[str | None, int]:
        """Value -> rows; None is missing."""
        return {**dict(zip(self._values.to_pylist(), self._counts.tolist(), strict=True)), None: self._missing}

    def tally(self, bins: CategoryBins) -> Tally:
        """Rows per category of the bins, OTHER, missing."""
        places = pc.index_in(self._values, pa.array(bins.categories, pa.large_string()))
        known = places.is_valid().to_numpy(zero_copy_only=False)
        counts = np.zeros(len(bins.categories) + 2, dtype=np.int64)
        np.add.at(counts, places.drop_null().to_numpy(), self._counts[known])
        counts[-2], counts[-1] = self._counts[~known].sum(), self._missing
        return Tally(counts=counts, others=self._most(~known), distinct_others=int((~known).sum()))

    def occurrences(self, wanted: Sequence[str]) -> dict[str, int]:
        """Rows that have each of the wanted values."""
        places = pc.index_in(pa.array(wanted, pa.large_string()), self._values).to_pylist()
        return {
            value: 0 if place is None else int(self._counts[place]) for value, place in zip(wanted, places, strict=True)
        }

    def _most(self, of: NDArray[np.bool_]) -> dict[str, int]:
        table = pa.table({"value": self._values.filter(pa.array(of)), "rows": self._counts[of]})
        most = pc.select_k_unstable(table, NAMED, [("rows", "descending"), ("value", "ascending")])
        return dict(zip(*(each.to_pylist() for each in table.take(most).columns), strict=True))
