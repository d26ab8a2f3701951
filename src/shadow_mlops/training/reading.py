"""Files of rows as Arrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from shadow_mlops.domain.errors import TrainingError

_PARQUET = frozenset({".parquet", ".pq"})
_CSV = frozenset({".csv", ".tsv", ".txt"})
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 20, 2**31 - 1


def read_table(path: Path) -> pa.Table:
    """Read a CSV (``.csv``, ``.tsv``, ``.txt``; UTF-8, header row) or Parquet file, possibly compressed.

    Strings are kept as they stand, "NA" and blanks included; :func:`~shadow_mlops.training.dataset.prepare`
    decides what is missing once it knows what is a number.

    Raises
    ------
    TrainingError
        If the file cannot be read or two columns have one name.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    form = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in {".gz", ".bz2", ".zst"} else (suffixes or [""])[-1]
    if form not in _PARQUET | _CSV:
        raise TrainingError(f"{path}: expected a .csv, .tsv, .txt or .parquet file")
    try:
        table = parquet.read_table(path) if form in _PARQUET else _read_csv(path, "\t" if form == ".tsv" else ",")
    except (OSError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"{path}: cannot be read: {first}") from error
    check_columns(table.column_names, str(path))
    return table


def check_columns(names: Sequence[str], where: str) -> None:
    """Refuse columns that cannot be told apart or called by a name.

    Raises
    ------
    TrainingError
        Naming the columns.
    """
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise TrainingError(f"{where}: these columns stand more than once: {', '.join(repeated)}")
    if any(not name.strip() for name in names):
        raise TrainingError(
            f"{where}: a column has no name (an index that was written with the data?); name or remove it"
        )


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    # Arrow settles a column's type on its first block and fails on a later one: one block sees the whole
    # file.
    block = min(max(path.stat().st_size * (1 if path.suffix.lower() in _CSV else 20), _SMALLEST_BLOCK), _LARGEST_BLOCK)
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(block_size=block),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(strings_can_be_null=False),
    )
