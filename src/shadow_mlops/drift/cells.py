"""What Arrow columns mean to a comparison: numbers, categories, or nothing that can be compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shadow_mlops.drift.sources import Column


def column_of(type_: pa.DataType) -> Column | str:
    """What can be compared of a column of this type; else why it cannot be, in words that follow "left out:".

    >>> column_of(pa.int8())
    Column(kind='number', type='int8')
    >>> column_of(pa.date32())
    'a time (date32[day])'
    """
    is_ = pa.types
    if is_.is_dictionary(type_):
        inner = column_of(type_.value_type)
        return Column("category", "category") if isinstance(inner, Column) else inner
    if is_.is_integer(type_) or is_.is_floating(type_) or is_.is_decimal(type_) or is_.is_boolean(type_):
        return Column("number", str(type_))
    if is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_):
        return Column("category", "string")
    if is_.is_null(type_):
        return Column(None, "no value at all")
    return f"a time ({type_})" if is_.is_temporal(type_) else f"of type {type_}"


def floats(cells: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """float64 (n,), NaN where missing; the column's own memory where it is one piece of that already."""
    if pa.types.is_null(cells.type):
        return np.full(len(cells), np.nan)
    if isinstance(cells, pa.ChunkedArray) and cells.num_chunks == 1:
        cells = cells.chunk(0)
    if not pa.types.is_float64(cells.type):
        cells = cells.cast(pa.float64(), safe=False)
    found: NDArray[np.float64] = (
        cells.to_numpy() if isinstance(cells, pa.ChunkedArray) else cells.to_numpy(zero_copy_only=False)
    )
    return found
