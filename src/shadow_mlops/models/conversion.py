"""scikit-learn, LightGBM and XGBoost estimators as one ONNX graph with two blocks of inputs."""

from __future__ import annotations

import warnings
from typing import Any

import structlog

from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import Task
from shadow_mlops.models.graphs import gather_blocks
from shadow_mlops.models.runtimes.onnx import open_session
from shadow_mlops.models.trees import Thresholds, compares_in_double, exact_thresholds, sharpen

log = structlog.get_logger()

OPSET = {"": 21, "ai.onnx.ml": 3}
"""Both are run by every onnxruntime since 1.20; skl2onnx writes trees in ai.onnx.ml 3."""


class ConversionError(Exception):
    """There is no graph for this estimator; the message says why."""


def to_onnx(estimator: Any, signature: Signature, task: Task) -> bytes:
    """Convert a fitted estimator.

    Parameters
    ----------
    estimator
        Fitted on a DataFrame with the signature's columns, or on a matrix of its numbers.

    Returns
    -------
    bytes
        A graph from ``numbers`` double (n, Fn) and ``strings`` string (n, Fs) to ``scores`` (n, k).

    Raises
    ------
    ConversionError
        If the estimator, or a step of it, cannot be converted.
    """
    try:
        from shadow_mlops.models.converters import register_converters  # noqa: PLC0415 - needed at registration only
    except ImportError as error:
        raise ConversionError(f"{error.name} is absent: pip install 'shadow-mlops[train]'") from error
    register_converters()
    model = _last_step(estimator)
    if compares_in_double(model):
        try:
            return _converted(estimator, signature, task, exact_thresholds(model))
        except ConversionError as error:
            log.info("a step has no float64 form; trying float32", reason=str(error))
    return _converted(estimator, signature, task, None)


def _converted(estimator: Any, signature: Signature, task: Task, thresholds: Thresholds | None) -> bytes:
    import skl2onnx  # noqa: PLC0415 - needed at registration only
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType  # noqa: PLC0415

    double = thresholds is not None
    number = DoubleTensorType if double else FloatTensorType
    by_column = bool(signature.strings) or _selects_columns(estimator)
    inputs = [("numbers", number([None, len(signature.names)]))]
    if by_column:
        kinds = {"string": StringTensorType}
        inputs = [(f.name, kinds.get(f.kind, number)([None, 1])) for f in signature.features]
    options = {"zipmap": False} if task != "regression" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = skl2onnx.convert_sklearn(estimator, initial_types=inputs, options=options, target_opset=OPSET)
        scores = model.graph.output[-1].name  # a classifier's outputs are (label, probabilities)
        graph = gather_blocks(model, signature, scores, by_column=by_column, double=double)
        if thresholds is not None:
            sharpen(graph, thresholds)
        made = bytes(graph.SerializeToString())
        open_session(made)  # an operator without a float64 kernel shows here
    except Exception as error:  # converters fail in whatever way the estimator's state does
        raise ConversionError(f"{type(error).__name__}: {str(error).strip()[:300]}") from error
    return made


def _last_step(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _steps(estimator: Any) -> list[Any]:
    found = [estimator]
    if hasattr(estimator, "get_params"):
        found += [value for value in estimator.get_params(deep=True).values() if hasattr(value, "fit")]
    return found


def _selects_columns(estimator: Any) -> bool:
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415

    return any(isinstance(step, ColumnTransformer) for step in _steps(estimator))
