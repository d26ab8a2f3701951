"""From a table as it was found to one that models can be trained on: kinds, missing values, task, target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.domain.features import Feature, Kind, Signature
from shadow_mlops.domain.models import Task
from shadow_mlops.training.reading import check_columns

MIN_ROWS = 50
MIN_ROWS_PER_CLASS = 4  # one of them is held out, three are trained on
_MOST_CLASSES = 100
_MOST_INTEGER_CLASSES = 10  # a target with more whole numbers counts something
# What numeric columns say for "nothing"; in a column of words "NA" may be a word, and clients will
# send it as one.
_BLANK_NUMBERS = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})
# Distinct values per row beyond which a column of words is a name or a text, which a one-hot code cannot use.
_FREE_TEXT_SHARE, _FREE_TEXT_VALUES = 0.5, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table that models can be trained on.

    Attributes
    ----------
    table
        The entity (if any), the features of the signature and the target; missing values are null.
    target_values
        What estimators learn, of shape (rows,): int64 or object (str) class labels, or float64.
    classes
        Labels as text in ascending order of the values; empty for regression.
    positive
        The class whose probability is served, as the deployment file writes it; None unless binary.
    dropped
        Column -> why it is not a feature.
    """

    table: pa.Table
    signature: Signature
    entity: str | None
    target: str
    target_values: NDArray[Any]
    task: Task
    classes: tuple[str, ...]
    positive: int | str | None
    dropped: dict[str, str]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def missing(self) -> tuple[str, ...]:
        """Features that have missing values."""
        return tuple(name for name in self.signature.names if self.table[name].null_count)


def prepare(
    table: pa.Table,
    *,
    target: str,
    entity: str | None = None,
    task: Task | None = None,
    positive: str | None = None,
    where: str = "the data",
) -> Dataset:
    """Decide what each column of a table is.

    Integers, floats and booleans keep their kind. A column of words that are all numbers or blank becomes
    numbers with missing values; other words stay as they are ("Yes" is a category), blank ones are missing.
    Dates, nested values and words that nearly all differ are dropped, and named in ``dropped``.

    Parameters
    ----------
    target
        Column to learn.
    entity
        Column that identifies whom a row is about; not a feature.
    task
        None decides by the target: words, booleans and up to ten different whole numbers are classes.
    positive
        Class to be predicted, for a binary task; None takes 1 of 0 and 1, Yes of Yes and No, else the rarer.
    where
        What the messages call the data.

    Raises
    ------
    TrainingError
        Naming the column and what to do about it.
    """
    check_columns(table.column_names, where)
    _check_present(table, target, entity, where)
    if table.num_rows < MIN_ROWS:
        raise TrainingError(f"{where}: {table.num_rows} rows are too few to train and measure on; at least {MIN_ROWS}")
    decided, values, classes = _target(_settled(table[target], target)[0], target, task)
    features: list[Feature] = []
    columns: dict[str, pa.ChunkedArray] = {}
    dropped: dict[str, str] = {}
    if entity is not None:
        columns[entity] = table[entity].cast(pa.string())
        dropped[entity] = "identifies the row"
    for name in table.column_names:
        if name in (target, entity):
            continue
        column, kind = _settled(table[name], name)
        if kind is None:
            dropped[name] = f"values of type {column.type} are no feature"
        elif kind == "string" and _is_free_text(column):
            dropped[name] = "nearly every row has another value"
        else:
            features.append(Feature(name, kind))
            columns[name] = column
    if not features:
        raise TrainingError(f"{where}: no column is left to learn {target!r} from")
    columns[target] = pa.chunked_array([pa.array(values)])
    return Dataset(
        table=pa.table(columns),
        signature=Signature(tuple(features)),
        entity=entity,
        target=target,
        target_values=values,
        task=decided,
        classes=classes,
        positive=_positive(values, positive, target) if decided == "binary" else None,
        dropped=dropped,
    )


def _check_present(table: pa.Table, target: str, entity: str | None, where: str) -> None:
    for role, name in (("target", target), ("id", entity)):
        if name is not None and name not in table.column_names:
            raise TrainingError(f"{where}: no {role} column {name!r}; the columns are {', '.join(table.column_names)}")
    if target == entity:
        raise TrainingError(f"{where}: {target!r} cannot be both target and id")


def _settled(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, Kind | None]:
    """The column with blanks as nulls, and its kind; None for what no model takes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind: Kind | None = None
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        raise TrainingError(f"column {name!r} is not UTF-8 text; save the file as UTF-8")
    if pa.types.is_boolean(column.type):
        kind = "boolean"
    elif pa.types.is_integer(column.type):
        column, kind = column.cast(pa.int64(), safe=False), "integer"
    elif pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column, kind = _finite(column.cast(pa.float64(), safe=False), name), "number"
    elif _is_text(column.type):
        column, kind = _words_or_numbers(column.cast(pa.string()), name)
    if column.null_count == len(column):
        raise TrainingError(f"column {name!r} has no values; remove it from the data")
    return column, kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _words_or_numbers(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, Kind]:
    words: list[str | None] = column.to_pylist()
    numbers: list[float | None] = []
    for word in words:
        text = "" if word is None else word.strip()
        if text.lower() in _BLANK_NUMBERS:
            numbers.append(None)
            continue
        try:
            numbers.append(float(text.replace("_", "x")))  # Python reads 1_000, a client's JSON does not
        except ValueError:
            kept = [None if w is None or not w.strip() else w for w in words]
            return pa.chunked_array([pa.array(kept, pa.string())]), "string"
    return _finite(pa.chunked_array([pa.array(numbers, pa.float64())]), name), "number"


def _finite(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    if pc.any(pc.is_inf(column)).as_py():
        raise TrainingError(f"column {name!r} has infinite values; replace them or leave them empty")
    return column


def _is_free_text(column: pa.ChunkedArray) -> bool:
    distinct = pc.count_distinct(column).as_py()
    return bool(distinct > _FREE_TEXT_VALUES and distinct > _FREE_TEXT_SHARE * (len(column) - column.null_count))


def _target(column: pa.ChunkedArray, name: str, task: Task | None) -> tuple[Task, NDArray[Any], tuple[str, ...]]:
    if column.null_count:
        raise TrainingError(f"target {name!r} is missing in {column.null_count} rows; remove these rows")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())  # a label is 0 or 1 or a name everywhere else
    is_text = _is_text(column.type)
    if not (is_text or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TrainingError(f"target {name!r} has values of type {column.type}; expected numbers, booleans or words")
    values: NDArray[Any] = np.array(column.to_pylist(), dtype=object) if is_text else column.to_numpy()
    distinct = np.unique(values)
    decided = task or _inferred(distinct)
    if decided == "regression":
        if is_text:
            raise TrainingError(f"target {name!r} holds words: it cannot be a regression")
        if len(distinct) < 2:
            raise TrainingError(f"target {name!r} has only the value {distinct[0]}: nothing to learn")
        return decided, values.astype(np.float64), ()
    if not is_text:
        if not np.array_equal(distinct, np.floor(distinct)):
            raise TrainingError(f"target {name!r} has fractions: it cannot be a {decided} task")
        values = values.astype(np.int64)
    return decided, values, _classes(values, name, decided)


def _inferred(distinct: NDArray[Any]) -> Task:
    if distinct.dtype == object:
        return "binary" if len(distinct) == 2 else "multiclass"
    whole = np.array_equal(distinct, np.floor(distinct))
    if whole and len(distinct) == 2:
        return "binary"
    return "multiclass" if whole and len(distinct) <= _MOST_INTEGER_CLASSES else "regression"


def _classes(values: NDArray[Any], name: str, task: Task) -> tuple[str, ...]:
    labels, counts = np.unique(values, return_counts=True)
    if len(labels) < 2:
        raise TrainingError(f"target {name!r} has only the class {labels[0]}: nothing to learn")
    if task == "binary" and len(labels) != 2:
        raise TrainingError(f"target {name!r} has {len(labels)} classes: not a binary task")
    if len(labels) > _MOST_CLASSES:
        raise TrainingError(f"target {name!r} has {len(labels)} classes; at most {_MOST_CLASSES} (a name or an id?)")
    rarest = int(counts.argmin())
    if counts[rarest] < MIN_ROWS_PER_CLASS:
        raise TrainingError(
            f"target {name!r}: class {labels[rarest]} has {counts[rarest]} rows, under {MIN_ROWS_PER_CLASS}"
        )
    return tuple(str(label) for label in labels)


def _positive(values: NDArray[Any], wanted: str | None, name: str) -> int | str:
    labels, counts = np.unique(values, return_counts=True)
    by_text: dict[str, int | str] = {str(label): label for label in labels.tolist()}
    if wanted is not None:
        if wanted not in by_text:
            raise TrainingError(f"target {name!r} has no class {wanted!r}; the classes are {', '.join(by_text)}")
        return by_text[wanted]
    if set(by_text) == {"0", "1"}:
        return by_text["1"]
    yes = [label for text, label in by_text.items() if text.strip().lower() in {"yes", "true", "y"}]
    return yes[0] if len(yes) == 1 else list(by_text.values())[int(counts.argmin())]
