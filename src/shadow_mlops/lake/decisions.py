"""What scores mean for an event: the one score that is compared, and the decision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.eventlog.records import Floats
from shadow_mlops.lake.labelnames import plain_label


def decide(schema: EventSchema, outputs: Sequence[str], scores: Floats) -> tuple[pa.Array, pa.Array]:
    """Scores and decisions of n rows, decisions by the names that the event's model has for the classes.

    Parameters
    ----------
    schema
        Of the events.
    outputs
        What the columns of the scores are: the event's own outputs, or those of a challenger.
    scores
        float64 (n, len(outputs)); NaN where there are none.

    Returns
    -------
    tuple of pa.Array
        Doubles: of the positive class, or the value; null for multiclass. Strings: the decision; null for regression.
        Null, both, where the scores are NaN or have no such class.

    Examples
    --------
    >>> schema = EventSchema(
    ...     deployment="d", task="binary", model="m", version="1", registry_version="1",
    ...     numbers=(), strings=(), outputs=("No", "Yes"), positive="Yes", threshold=0.4,
    ... )  # fmt: skip
    >>> score, label = decide(schema, schema.outputs, np.array([[0.6, 0.4], [0.9, 0.1]]))
    >>> score.to_pylist(), label.to_pylist()
    ([0.4, 0.1], ['Yes', 'No'])
    """
    n = len(scores)
    if schema.task == "multiclass":
        return pa.nulls(n, pa.float64()), _best(schema, outputs, scores)
    if schema.task == "regression":
        return _numbers(scores[:, 0]), pa.nulls(n, pa.string())
    column = _place(schema.positive, outputs)
    if column is None:
        return pa.nulls(n, pa.float64()), pa.nulls(n, pa.string())
    positive = np.ascontiguousarray(scores[:, column])
    other = next((name for name in schema.outputs if name != schema.positive), "")
    codes = np.where(positive >= schema.threshold, 0, 1).astype(np.int32)
    return _numbers(positive), _texts(codes, [schema.positive, other], np.isnan(positive))


def _best(schema: EventSchema, outputs: Sequence[str], scores: Floats) -> pa.Array:
    absent = np.isnan(scores).any(axis=1)
    codes = np.where(absent, 0, np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=1)).astype(np.int32)
    plain = {plain_label(name): name for name in reversed(schema.outputs)}
    names = [name if name in schema.outputs else plain.get(plain_label(name), name) for name in outputs]
    return _texts(codes, names, absent)


def _place(wanted: str, outputs: Sequence[str]) -> int | None:
    if wanted in outputs:
        return outputs.index(wanted)
    plain = [plain_label(name) for name in outputs]
    return plain.index(plain_label(wanted)) if plain_label(wanted) in plain else None


def _numbers(values: Floats) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), mask=np.isnan(values))


def _texts(codes: np.ndarray[tuple[int], np.dtype[np.int32]], names: Sequence[str], absent: object) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), pa.array(names, pa.string())).cast(pa.string())
