"""Requests and answers of remote models: Open Inference Protocol v2, and MLflow's ``/invocations``."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.endpoint import Protocol
from shadow_mlops.models.outputs import OutputsError, scores_of
from shadow_mlops.models.runtimes import without_none

_LARGEST_WHOLE = 2.0**53  # beyond it float64 skips whole numbers, and what was meant is not known
_MARKS = ("prob", "score")


def request_of(
    protocol: Protocol, signature: Signature, numbers: NDArray[np.float64], strings: NDArray[np.object_]
) -> bytes:
    """Body of a request for scores of n rows.

    In v2 each feature is one input of shape (n, 1), and the request says so to servers that make a DataFrame of it
    (``content_type`` ``pd``). A missing number is null, a missing string the empty one.
    """
    columns = _columns(signature, numbers, without_none(strings))
    if protocol == "mlflow":
        rows = list(zip(*(cells for _, cells in columns), strict=True))
        return msgspec.json.encode({"dataframe_split": {"columns": signature.names, "data": rows}})
    inputs = [
        {"name": name, "shape": [len(numbers), 1], "datatype": datatype, "data": cells}
        for name, (datatype, cells) in zip(signature.names, columns, strict=True)
    ]
    return msgspec.json.encode({"parameters": {"content_type": "pd"}, "inputs": inputs})


def _columns(
    signature: Signature, numbers: NDArray[np.float64], strings: NDArray[np.object_]
) -> list[tuple[str, list[Any]]]:
    places = {name: i for i, name in enumerate(signature.numbers)}
    texts = {name: i for i, name in enumerate(signature.strings)}
    found: list[tuple[str, list[Any]]] = []
    for feature in signature.features:
        if feature.kind == "string":
            found.append(("BYTES", strings[:, texts[feature.name]].tolist()))
            continue
        cells = numbers[:, places[feature.name]]
        whole = np.isfinite(cells).all() and np.all(cells == np.trunc(cells)) and np.all(np.abs(cells) < _LARGEST_WHOLE)
        if feature.kind == "boolean" and np.isin(cells, (0.0, 1.0)).all():
            found.append(("BOOL", cells.astype(np.bool_).tolist()))
        elif feature.kind == "integer" and whole:
            found.append(("INT64", cells.astype(np.int64).tolist()))
        else:
            found.append(("FP64", cells.tolist()))  # JSON has no NaN: the encoder writes null
    return found


def scores_in(protocol: Protocol, body: bytes, count: int, card: ModelCard) -> NDArray[np.float64]:
    """Scores in the answer to a request for n rows.

    Returns
    -------
    ndarray
        float64 (n, k); a row without finite scores is NaN.

    Raises
    ------
    OutputsError
        If it is not JSON, or holds no such scores.
    """
    answer = _decoded(body)
    if not isinstance(answer, dict):
        raise OutputsError("answers with JSON that is no object")
    if protocol == "mlflow":
        if "predictions" not in answer:
            raise OutputsError("answers without 'predictions'")
        return scores_of(answer["predictions"], count, card)
    return scores_of(_v2_values(answer.get("outputs"), card), count, card)


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        # MLflow's server writes NaN as it is: no JSON, but only the rows that it stands in are without a score
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        raise OutputsError(f"answers with what is not JSON ({error})") from error


def _v2_values(outputs: Any, card: ModelCard) -> Any:
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs) or not outputs:
        raise OutputsError("answers without 'outputs'")
    names = [str(each.get("name")) for each in outputs]
    if len(outputs) > 1 and set(names) >= set(card.outputs):  # a DataFrame, a column each
        named = dict(zip(names, outputs, strict=True))
        columns = [_values(named[name]) for name in card.outputs]
        if len({len(column) for column in columns}) != 1:
            raise OutputsError("answers with columns of different lengths")
        return [[_cell(cell) for cell in row] for row in zip(*columns, strict=True)]
    marked = [each for each, name in zip(outputs, names, strict=True) if any(m in name.lower() for m in _MARKS)]
    chosen = outputs if len(outputs) == 1 else marked
    if len(chosen) != 1:
        raise OutputsError(f"answers with the outputs {', '.join(names)}; which of them holds the scores?")
    return _values(chosen[0])


def _values(output: dict[str, Any]) -> list[Any]:
    shape, data = output.get("shape"), output.get("data")
    if not isinstance(shape, list) or not isinstance(data, list) or not all(isinstance(n, int) for n in shape):
        raise OutputsError("answers with an output without shape or data")
    cells = np.asarray(data, dtype=object).ravel()
    if len(shape) not in {1, 2} or min(shape) < 0 or math.prod(shape) != len(cells):
        raise OutputsError(f"answers with {len(cells)} values of shape {shape}")
    values: list[Any] = cells.reshape(shape).tolist()
    return values


def _cell(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
