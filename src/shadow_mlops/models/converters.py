"""Converters that skl2onnx lacks: SimpleImputer with indicators, LightGBM as a step of a pipeline."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common._registration import get_converter, get_shape_calculator
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.operator_converters.common import concatenate_variables
from sklearn.impute import SimpleImputer

_IMPUTER = "SklearnSimpleImputer"


@cache
def register_converters() -> None:
    """Make the converters known to skl2onnx, once a process."""
    update_registered_converter(
        SimpleImputer, "ShadowSimpleImputer", _imputer_shape, _convert_imputer, overwrite=True
    )
    if find_spec("lightgbm") and find_spec("onnxmltools"):
        _register_lightgbm()


def _register_lightgbm() -> None:
    from lightgbm import LGBMClassifier, LGBMRegressor  # noqa: PLC0415 - an extra
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415

    update_registered_converter(
        LGBMClassifier,
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    update_registered_converter(
        LGBMRegressor,
        "LightGbmLGBMRegressor",
        calculate_linear_regressor_output_shapes,
        convert_lightgbm,
        options={"split": None},
    )


def _flagged(imputer: Any) -> list[int]:
    """Columns for which the imputer adds an indicator."""
    return [int(i) for i in imputer.indicator_.features_] if imputer.add_indicator else []


def _imputer_shape(operator: Any) -> None:
    get_shape_calculator(_IMPUTER)(operator)
    flagged = _flagged(operator.raw_operator)
    if flagged:
        rows, width = operator.outputs[0].type.shape
        operator.outputs[0].type = FloatTensorType([rows, width + len(flagged)])


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    flagged = _flagged(operator.raw_operator)
    if not flagged:
        get_converter(_IMPUTER)(scope, operator, container)
        return
    imputer = operator.raw_operator
    given = concatenate_variables(scope, operator.inputs, container)

    def name(text: str) -> str:
        return str(scope.get_unique_variable_name(text))

    filled, indices, picked, absent, flags = map(name, ("filled", "flagged", "picked", "absent", "flags"))
    container.add_node(
        "Imputer",
        given,
        filled,
        op_domain="ai.onnx.ml",
        imputed_value_floats=imputer.statistics_.astype(np.float32),
        replaced_value_float=float("nan"),
        name=scope.get_unique_operator_name("Imputer"),
    )
    container.add_initializer(indices, TensorProto.INT64, [len(flagged)], flagged)
    container.add_node(
        "Gather", [given, indices], picked, axis=1, name=scope.get_unique_operator_name("Gather")
    )
    container.add_node("IsNaN", picked, absent, name=scope.get_unique_operator_name("IsNaN"))
    container.add_node(
        "Cast", absent, flags, to=TensorProto.FLOAT, name=scope.get_unique_operator_name("Cast")
    )
    container.add_node(
        "Concat",
        [filled, flags],
        operator.outputs[0].full_name,
        axis=1,
        name=scope.get_unique_operator_name("Concat"),
    )
