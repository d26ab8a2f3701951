"""Rows of a signature: the pair of arrays that travels, and the table or DataFrame it comes from or goes into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Signature

if TYPE_CHECKING:
    import pyarrow as pa

UNSEEN = "a category that no training row has"


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows.

    Attributes
    ----------
    numbers
        float64 (n, Fn), NaN is missing.
    strings
        object (n, Fs), None is missing.
    """

    numbers: NDArray[np.float64]
    strings: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, count: int) -> Rows:
        """At most ``count`` rows, evenly spread over all, the first among them."""
        if len(self) <= count:
            return self
        where = np.linspace(0, len(self) - 1, count).astype(np.int64)
        return Rows(self.numbers[where], self.strings[where])


def table_rows(table: pa.Table, signature: Signature) -> Rows:
    """Rows of the signature's columns of an Arrow table.

    Raises
    ------
    ModelRefusedError
        If a column is absent or its values are not of the signature's kind.
    """
    import pyarrow as pa  # noqa: PLC0415 - 100 ms that a gateway worker must not pay

    absent = [name for name in signature.names if name not in table.column_names]
    if absent:
        raise ModelRefusedError(f"the reference rows lack the columns {', '.join(absent)} of the signature")
    numbers = np.empty((table.num_rows, len(signature.numbers)))
    strings = np.empty((table.num_rows, len(signature.strings)), dtype=object)
    for i, name in enumerate(signature.numbers):
        try:
            numbers[:, i] = table[name].cast(pa.float64(), safe=False).to_numpy()
        except pa.ArrowException as error:
            raise ModelRefusedError(f"column {name} of the reference rows is not numeric: {error}") from error
    for i, name in enumerate(signature.strings):
        strings[:, i] = table[name].cast(pa.string()).to_pylist()
    return Rows(numbers, strings)


def as_frame(signature: Signature, rows: Rows) -> Any:
    """The rows as the pandas DataFrame that a scikit-learn pipeline takes.

    Returns
    -------
    pandas.DataFrame
        Columns in the signature's order; numbers float64 with NaN, strings object with ``""`` for a missing one.
    """
    import pandas as pd  # noqa: PLC0415 - only the slow runtime and registration need it

    columns: dict[str, Any] = {name: rows.numbers[:, i] for i, name in enumerate(signature.numbers)}
    for i, name in enumerate(signature.strings):
        cells = ["" if cell is None else cell for cell in rows.strings[:, i]]
        columns[name] = pd.Series(cells, dtype=object)
    return pd.DataFrame({name: columns[name] for name in signature.names}, index=range(len(rows)))


def unusual_rows(rows: Rows, per_column: int = 4) -> dict[str, Rows]:
    """Rows that reference data may not hold and traffic will: each column missing once, each string unseen once.

    Returns
    -------
    dict
        ``"missing number"``, ``"missing string"``, ``"unseen string"`` -> rows; a kind without columns is absent.
    """
    some = rows.take(per_column)
    count = len(some)
    found: dict[str, Rows] = {}
    if rows.numbers.shape[1] and count:
        width = rows.numbers.shape[1]
        numbers = np.tile(some.numbers, (width, 1))
        numbers[np.arange(width * count), np.repeat(np.arange(width), count)] = np.nan
        found["missing number"] = Rows(numbers, np.tile(some.strings, (width, 1)))
    if rows.strings.shape[1] and count:
        width = rows.strings.shape[1]
        for kind, value in (("missing string", None), ("unseen string", UNSEEN)):
            strings = np.tile(some.strings, (width, 1))
            strings[np.arange(width * count), np.repeat(np.arange(width), count)] = value
            found[kind] = Rows(np.tile(some.numbers, (width, 1)), strings)
    return found
