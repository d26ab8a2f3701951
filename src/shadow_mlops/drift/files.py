"""CSV and Parquet files of any size as a source: paths, globs, folders, lists of these.

What is held does not grow with the files. Counts take one scan. Quantiles of a reference are exact: of a column with up
to half a million values by holding it, of a longer one in two scans that keep a few per cent of its values. The cells
within the bins, which only KS and Wasserstein use, then end where a sample of 262,144 rows says.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.categories import CountedCategories
from shadow_mlops.drift.cells import floats
from shadow_mlops.drift.csvfiles import convert
from shadow_mlops.drift.parquet import ParquetColumns, Unit, in_threads, threads
from shadow_mlops.drift.sources import Column, Schema, Tally
from shadow_mlops.statistics.bins import (
    CategoryBins,
    FeatureBins,
    NumericBins,
    bins_of_order_statistics,
    quantile_bins,
    quantile_ranks,
)
from shadow_mlops.statistics.streaming import sampled_places, select, survey

EXACT_ROWS = 500_000
"""Up to so many rows a column is held as a whole: 4 MB."""

_PARQUET = frozenset({".parquet", ".pq"})
_CSV = frozenset({".csv", ".tsv", ".txt"})
_COMPRESSED = frozenset({".gz", ".zst"})


def file_source(where: str | Path | Sequence[str | Path], *, exact_rows: int = EXACT_ROWS) -> FileSource:
    """Files as one source.

    Parameters
    ----------
    where
        A CSV (``.csv``, ``.tsv``, ``.txt``; UTF-8, header row; also ``.gz`` and ``.zst``) or Parquet file, a glob
        (``**`` reaches into folders), a folder (all such files in it and below), or a list of these; one format, one
        set of columns.
    exact_rows
        Up to so many rows values are handed out without being asked for, and whole columns held.

    Raises
    ------
    DriftError
        If there is no such file, or it has no ending by which it is known.
    """
    places = [where] if isinstance(where, str | Path) else list(where)
    paths = list(dict.fromkeys(path for place in places for path in _found(place)))
    if not paths:
        raise DriftError("no files were named")
    forms = {_form(path): path for path in paths}
    if len(forms) > 1:
        raise DriftError(f"{forms['parquet']} is Parquet but {forms['csv']} is CSV: compare files of one format")
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return FileSource(paths, _form(paths[0]), f"{places[0]}{more}", exact_rows)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Parquet files; column -> what it is called in them; column -> why it is not there; columns without a value."""

    columns: ParquetColumns
    names: Mapping[str, str]
    left_out: Mapping[str, str]
    blank: frozenset[str]


class FileSource:
    """Rows of files; see :func:`file_source`."""

    def __init__(self, paths: Sequence[Path], form: Literal["parquet", "csv"], name: str, exact_rows: int) -> None:
        self.name = name
        self._paths = paths
        self._form = form
        self._exact_rows = exact_rows
        self._counted: dict[str, CountedCategories] = {}
        self._lock = Lock()

    @property
    def affordable(self) -> bool:
        """Whether columns are short enough to be held as a whole."""
        return self._schema.rows <= self._exact_rows

    def schema(self) -> Schema:
        """Names, kinds and the number of rows."""
        return self._schema

    @cached_property
    def _schema(self) -> Schema:
        stored, columns = self._stored, self._stored.columns
        kept = {
            name: Column(None, "no value at all") if name in stored.blank else columns.columns[at]
            for name, at in stored.names.items()
        }
        return Schema(columns.rows, kept, {**columns.left_out, **stored.left_out})

    @cached_property
    def _stored(self) -> _Stored:
        if self._form == "parquet":
            columns = ParquetColumns(self._paths)
            return _Stored(columns, {name: name for name in columns.columns}, {}, frozenset())
        made = convert(self._paths, self._folder, threads=threads())
        return _Stored(ParquetColumns(made.paths), made.stored, made.left_out, made.blank)

    @cached_property
    def _folder(self) -> Path:
        """Where to spill; gone with the source."""
        folder = tempfile.mkdtemp(prefix="shadow-drift-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def bins(self, names: Sequence[str], count: int) -> Mapping[str, FeatureBins]:
        """Quantile bins of numeric columns, categories of the others."""

        def made(name: str) -> FeatureBins:
            if self._schema.columns[name].kind == "category":
                return CategoryBins(tuple(self._categories(name).largest()))
            return self._quantile_bins(name, count)

        _ = self._folder
        return dict(zip(names, in_threads(made, names), strict=True))

    def tally(self, bins: Mapping[str, FeatureBins]) -> Mapping[str, Tally]:
        """Count columns in bins: one scan."""
        numbers = self._tally_numbers({name: each for name, each in bins.items() if isinstance(each, NumericBins)})
        return {
            name: self._categories(name).tally(each) if isinstance(each, CategoryBins) else numbers[name]
            for name, each in bins.items()
        }

    def occurrences(self, values: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, int]]:
        """Rows that have each of a few values."""
        return {name: self._categories(name).occurrences(wanted) for name, wanted in values.items()}

    def values(self, name: str) -> NDArray[np.float64]:
        """One numeric column, read."""
        found, start = np.empty(self._schema.rows), 0
        for piece in self._pieces(name):
            found[start : start + len(piece)] = piece
            start += len(piece)
        return found

    def _pieces(self, name: str) -> Iterator[NDArray[np.float64]]:
        return (floats(piece) for piece in self._stored.columns.column(self._stored.names[name]))

    def _quantile_bins(self, name: str, count: int) -> NumericBins:
        if self.affordable:
            return quantile_bins(self.values(name), count)
        surveyed = survey(self._pieces(name), self._places)
        given = surveyed.given
        if given <= self._exact_rows:
            there = [piece[~np.isnan(piece)] for piece in self._pieces(name)]
            return quantile_bins(np.concatenate(there), count)
        ranks = quantile_ranks(given, count)
        values = surveyed.sample[ranks * len(surveyed.sample) // given]
        # Bins end in the middle of three neighbouring ranks, cells within bins at single ones.
        beside = np.diff(ranks) == 1
        exact = np.append(beside, False) | np.append(False, beside)
        found = select(self._pieces(name), surveyed, ranks[exact])
        if found is None:
            return quantile_bins(self.values(name), count)
        values[exact] = found
        return bins_of_order_statistics(values, given, count, least=surveyed.least, greatest=surveyed.greatest)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return sampled_places(self._schema.rows)

    def _categories(self, name: str) -> CountedCategories:
        with self._lock:
            found = self._counted.get(name)
        if found is None:
            found = CountedCategories(self._stored.columns.column(self._stored.names[name]), self._folder)
            with self._lock:
                self._counted[name] = found
        return found

    def _tally_numbers(self, bins: Mapping[str, NumericBins]) -> dict[str, Tally]:
        columns = self._stored.columns
        wanted = {self._stored.names[name]: name for name in bins}

        def counted(unit: Unit) -> dict[str, Tally]:
            held: dict[str, Tally] = {}
            for pieces in columns.pieces(unit):
                for at, piece in pieces.items():
                    name = wanted[at]
                    held[name] = _added(held.get(name), _tally(floats(piece), bins[name]))
            return held

        nothing = np.empty(0)
        totals = {name: _tally(nothing, each) for name, each in bins.items()}
        for part in columns.over(wanted, counted):
            for name, tally in part.items():
                totals[name] = _added(totals[name], tally)
        return totals


def _tally(values: NDArray[np.float64], bins: NumericBins) -> Tally:
    counts = bins.count(values)
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    return Tally(counts) if np.isnan(low) else Tally(counts, float(low), float(high))


def _added(one: Tally | None, other: Tally) -> Tally:
    if one is None:
        return other
    ends = [(each.low, each.high) for each in (one, other) if each.low is not None and each.high is not None]
    low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (None, None)
    return Tally(one.counts + other.counts, low, high)


def _found(where: str | Path) -> list[Path]:
    path = Path(where)
    if path.is_dir():
        inside = [each for each in sorted(path.rglob("*")) if each.is_file() and _plain(each.relative_to(path))]
        if not (known := [each for each in inside if _known(each)]):
            raise DriftError(f"{where} is a folder without a CSV or Parquet file")
        return known
    if path.is_file():
        return [path]
    if path.exists():
        raise DriftError(f"{where} is not a file")
    if not has_magic(str(where)):
        raise DriftError(f"{where}: there is no such file")
    matches = [Path(each) for each in sorted(glob(str(where), recursive=True)) if Path(each).is_file()]  # noqa: PTH207 - may be absolute
    if not matches:
        raise DriftError(f"{where}: no file matches")
    return matches


def _plain(path: Path) -> bool:
    """Whether no part of it begins as what Spark and others put beside the data does."""
    return not any(part.startswith((".", "_")) for part in path.parts)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED else (suffixes or [""])[-1]


def _known(path: Path) -> bool:
    return _suffix(path) in _PARQUET | _CSV


def _form(path: Path) -> Literal["parquet", "csv"]:
    if not _known(path):
        raise DriftError(f"{path}: expected a .csv, .tsv, .txt or .parquet file (.csv.gz and .csv.zst, too)")
    return "parquet" if _suffix(path) in _PARQUET else "csv"
