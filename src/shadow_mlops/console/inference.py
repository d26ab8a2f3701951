"""What is in the bodies of an inference request and its response: KServe V1, and the Open Inference Protocol v2.

V1 has ``instances`` and ``predictions``, V2 has tensors: ``inputs`` and ``outputs``. Instances are objects, or lists in
the order of the champion's signature. A prediction that is a whole number, a text or a truth value is a label, and is
taken as certain; another number is the positive class's probability, or the value of a regression; several numbers are
the scores of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from shadow_mlops.console.cloudevents import Pair
from shadow_mlops.console.reported import ReportedEvent
from shadow_mlops.domain.errors import BodyTooLargeError, InvalidFieldsError, Problem
from shadow_mlops.domain.models import ModelCard

_MARKS = ("prob", "score")
_MOST_LATENCY_MS = 4e6


def reported(pair: Pair, champion: ModelCard, *, most_rows: int) -> list[ReportedEvent]:
    """The events that a request and its response are: one for each instance.

    Parameters
    ----------
    champion
        Has the order of features and outputs, and is taken for the model that answered where nothing else is said.

    Raises
    ------
    InvalidFieldsError
        If the bodies do not fit each other or the model.
    BodyTooLargeError
        If there are more instances than ``most_rows``.
    """
    request, response = pair
    rows = _instances(request.data, champion)
    answers = _predictions(response.data, champion)
    if len(rows) != len(answers):
        raise _wrong("data", f"the request {request.id!r} has {len(rows)} instances, its response {len(answers)}")
    if len(rows) > most_rows:
        raise BodyTooLargeError(f"the request has {len(rows)} instances, at most {most_rows} are allowed")
    version = response.version or request.version or str(response.data.get("model_version") or "") or champion.version
    latency = 0.0
    if request.time is not None and response.time is not None:
        passed = (response.time - request.time).total_seconds() * 1000
        latency = passed if 0 <= passed <= _MOST_LATENCY_MS else 0.0
    events = []
    for index, (features, answer) in enumerate(zip(rows, answers, strict=True)):
        fields = {
            "request_id": request.id if len(rows) == 1 else f"{request.id}-{index}",
            "time": request.time or response.time,
            "features": features,
            "version": version,
            "latency_ms": latency,
            **_answer(answer, champion),
        }
        try:
            events.append(msgspec.convert(fields, ReportedEvent))
        except msgspec.ValidationError as error:
            raise _wrong("data", f"{error}", index) from None
    return events


def _answer(value: Any, champion: ModelCard) -> dict[str, Any]:
    if isinstance(value, list):
        return _answer(value[0], champion) if len(value) == 1 else {"scores": value}
    if isinstance(value, dict):
        return {"scores": value}
    if isinstance(value, float) and not (champion.task == "multiclass" and value.is_integer()):
        return {"score": value}
    if isinstance(value, float):
        return {"label": int(value)}
    return {"label": value}


def _instances(data: dict[str, Any], champion: ModelCard) -> list[dict[str, Any]]:
    if "instances" in data:
        rows = data["instances"]
        if not isinstance(rows, list):
            raise _wrong("data.instances", "must be a list")
    elif "inputs" in data:
        rows = _of_tensors(data["inputs"], champion)
    else:
        raise _wrong("data", "a request has `instances` (V1) or `inputs` (V2)")
    return [_named(row, champion, index) for index, row in enumerate(rows)]


def _named(row: Any, champion: ModelCard, index: int) -> dict[str, Any]:
    names = champion.signature.names
    if isinstance(row, dict):
        return row
    if not isinstance(row, list):
        if len(names) != 1:
            raise _wrong("data.instances", "an instance is an object, or a list in the order of the signature", index)
        row = [row]
    if len(row) != len(names):
        raise _wrong("data.instances", f"has {len(row)} values, the model has {len(names)} features", index)
    return dict(zip(names, row, strict=True))


def _of_tensors(tensors: Any, champion: ModelCard) -> list[Any]:
    named = _tensors(tensors, "data.inputs")
    names = champion.signature.names
    if len(named) == 1:
        (only,) = named.values()
        if next(iter(named)) not in names or len(names) == 1:
            return only
    columns = {name: [row[0] if len(row) == 1 else row for row in rows] for name, rows in named.items()}
    if len({len(column) for column in columns.values()}) > 1:
        raise _wrong("data.inputs", "the tensors have different numbers of rows")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _predictions(data: dict[str, Any], champion: ModelCard) -> list[Any]:
    if "predictions" in data:
        answers = data["predictions"]
        if not isinstance(answers, list):
            raise _wrong("data.predictions", "must be a list")
        return answers
    if "outputs" not in data:
        raise _wrong("data", "a response has `predictions` (V1) or `outputs` (V2)")
    named = _tensors(data["outputs"], "data.outputs")
    if len(named) > 1 and set(named) >= set(champion.outputs):
        return [
            {name: row[0] for name, row in zip(champion.outputs, rows, strict=True)}
            for rows in zip(*(named[name] for name in champion.outputs), strict=False)
        ]
    chosen = list(named.values())
    if len(named) > 1:
        chosen = [rows for name, rows in named.items() if any(mark in name.lower() for mark in _MARKS)]
    if len(chosen) != 1:
        raise _wrong("data.outputs", f"which of {', '.join(named)} holds the scores? Call it `probabilities`")
    return chosen[0]


def _tensors(tensors: Any, field: str) -> dict[str, list[list[Any]]]:
    """Name -> rows of each tensor."""
    if not isinstance(tensors, list) or not tensors or not all(isinstance(each, dict) for each in tensors):
        raise _wrong(field, "must be a list of tensors")
    return {str(each.get("name", place)): _rows(each, field) for place, each in enumerate(tensors)}


def _rows(tensor: dict[str, Any], field: str) -> list[list[Any]]:
    shape, data = tensor.get("shape"), tensor.get("data")
    name = str(tensor.get("name"))[:100]
    if not isinstance(shape, list) or not isinstance(data, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise _wrong(field, f"tensor {name!r} lacks its shape or its data")
    cells = _flat(data)
    if len(shape) not in {1, 2} or math.prod(shape) != len(cells):
        raise _wrong(field, f"tensor {name!r} has {len(cells)} values of shape {shape}")
    width = shape[1] if len(shape) == 2 else 1
    if str(tensor.get("datatype", "")).startswith(("FP", "BF")):  # 1 in JSON is a score of 1.0 here, not a label
        try:
            cells = [float(cell) if type(cell) is int else cell for cell in cells]
        except OverflowError:
            raise _wrong(field, f"tensor {name!r} has a number that no float holds") from None
    return [cells[start : start + width] for start in range(0, len(cells), width)] if width else []


def _flat(data: Sequence[Any]) -> list[Any]:
    if not any(isinstance(each, list) for each in data):
        return list(data)
    return [cell for each in data for cell in (each if isinstance(each, list) else [each])]


def _wrong(field: str, problem: str, index: int | None = None) -> InvalidFieldsError:
    return InvalidFieldsError("the inference events are not understood", [Problem(field, problem, index)])
