"""ONNX models on onnxruntime: one thread, no spinning, nothing imported but NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.runtimes import without_none

NUMBERS = "numbers"
STRINGS = "strings"
SCORES = "scores"
"""Names in graphs that this platform exports: two blocks in (float64, string), one matrix out."""
BLOCKS = "blocks"
"""Set to ``yes`` in the provenance of such a graph; a foreign one may have a feature called ``numbers``."""

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
}
_Feed: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.object_]], dict[str, Any]]


def open_session(model: bytes | Path) -> ort.InferenceSession:
    """A session that keeps to the calling thread.

    Raises
    ------
    ModelRefusedError
        If onnxruntime cannot run the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # a spinning pool would take the core from the event loop that answers clients
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common root
        raise ModelRefusedError(f"onnxruntime cannot run the graph: {error}") from error


class OnnxRuntime:
    """Scores rows by a graph of our own export, or a foreign one.

    A foreign graph takes one matrix of all features, or one input per feature by name.
    """

    def __init__(self, session: ort.InferenceSession, card: ModelCard) -> None:
        self._run = session.run
        self._feed = _feed(session.get_inputs(), card)
        output, self._mapped = _output(session.get_outputs(), card)
        self._names = [output]
        self._classes = card.classes
        self._width = len(card.outputs)

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        if not len(numbers):
            return np.empty((0, self._width))
        try:
            raw = self._run(self._names, self._feed(numbers, strings))[0]
        except PredictionError:
            raise
        except Exception as error:  # onnxruntime's own exceptions have no common root
            raise PredictionError(f"the ONNX graph failed: {error}") from error
        if self._mapped:
            raw = np.array([[self._of_class(row, label) for label in self._classes] for row in raw])
        scores: NDArray[np.float64] = raw.astype(np.float64)
        if scores.ndim == 2 and scores.shape[1] == self._width:
            return scores
        if scores.size == len(numbers):
            column = scores.reshape(-1, 1)
            return np.hstack((1.0 - column, column)) if self._width == 2 else column
        raise PredictionError(f"the ONNX graph gave an array of shape {scores.shape} for {len(numbers)} rows")

    @staticmethod
    def _of_class(row: dict[Any, float], label: str) -> float:
        return row[label] if label in row else row[int(label)]


def _feed(inputs: list[Any], card: ModelCard) -> _Feed:
    """How the two blocks become the graph's inputs, decided once so that a request pays for no decision."""
    signature = card.signature
    for each in inputs:
        if each.type not in _DTYPES:
            raise ModelRefusedError(f"the graph's input {each.name!r} is a {each.type}, which cannot be fed")
    kinds = {each.name: each.type for each in inputs}
    if card.provenance.get(BLOCKS) == "yes":
        if STRINGS not in kinds:
            return lambda numbers, _: {NUMBERS: numbers}
        if NUMBERS not in kinds:
            return lambda _, strings: {STRINGS: without_none(strings)}
        return lambda numbers, strings: {NUMBERS: numbers, STRINGS: without_none(strings)}
    if len(inputs) == 1 and (len(signature.names) > 1 or inputs[0].name not in signature.names):
        return _matrix_feed(inputs[0], card)
    return _column_feed(inputs, card)


def _matrix_feed(only: Any, card: ModelCard) -> _Feed:
    signature, dtype, name = card.signature, _DTYPES[only.type], only.name
    width = only.shape[-1] if only.shape else None
    if isinstance(width, int) and width != len(signature.names):
        raise ModelRefusedError(f"the graph takes {width} features, its signature names {len(signature.names)}")
    if dtype is object:
        if signature.numbers:
            raise ModelRefusedError(f"the graph takes strings only, the signature has numbers: {signature.numbers}")
        return lambda _, strings: {name: without_none(strings)}
    if signature.strings:
        raise ModelRefusedError(
            f"the graph takes one matrix of numbers, the signature has strings: {signature.strings}"
        )
    return lambda numbers, _: {name: _cast(numbers, dtype)}


def _column_feed(inputs: list[Any], card: ModelCard) -> _Feed:
    signature = card.signature
    unknown = [each.name for each in inputs if each.name not in signature.names]
    if unknown:
        raise ModelRefusedError(f"the graph's inputs {', '.join(unknown)} are no features of its signature")
    plan = []
    for each in inputs:
        text = each.name in signature.strings
        if text != (_DTYPES[each.type] is object):
            raise ModelRefusedError(f"the graph's input {each.name!r} is a {each.type}, its signature says otherwise")
        index = (signature.strings if text else signature.numbers).index(each.name)
        shape = (-1,) if len(each.shape or ()) == 1 else (-1, 1)
        plan.append((each.name, text, index, _DTYPES[each.type], shape))

    def feed(numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> dict[str, Any]:
        texts = without_none(strings)
        return {
            name: (texts[:, index] if text else _cast(numbers[:, index], dtype)).reshape(shape)
            for name, text, index, dtype, shape in plan
        }

    return feed


def _cast(numbers: NDArray[np.float64], dtype: Any) -> NDArray[Any]:
    if issubclass(dtype, np.floating):
        return numbers.astype(dtype)
    if not np.isfinite(numbers).all():
        raise PredictionError("a value is missing, and the graph takes whole numbers that cannot be")
    return numbers.astype(dtype)


def _output(outputs: list[Any], card: ModelCard) -> tuple[str, bool]:
    """Name of the output that holds the scores, and whether it is a list of dictionaries (ZipMap)."""
    by_name = {each.name: each for each in outputs}
    if SCORES in by_name:
        return SCORES, False
    for each in outputs:
        if each.type.startswith("seq(map("):
            return each.name, True
    floats = [each for each in outputs if each.type in ("tensor(float)", "tensor(double)")]
    named = [each for each in floats if "prob" in each.name.lower()]
    if card.classes and named:
        return named[0].name, False
    if len(floats) == 1:
        return floats[0].name, False
    described = ", ".join(f"{each.name}: {each.type}" for each in outputs)
    raise ModelRefusedError(f"which output of the graph holds the scores? It has {described}")


def load(directory: Path, card: ModelCard) -> OnnxRuntime:
    """Load ``card.file``.

    Raises
    ------
    ModelRefusedError
        If onnxruntime cannot run it, or its inputs do not fit the signature.
    """
    return OnnxRuntime(open_session(directory / card.file), card)
