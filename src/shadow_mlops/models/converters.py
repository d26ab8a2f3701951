"""Converters that skl2onnx lacks: SimpleImputer with indicators, LightGBM and XGBoost as steps of a pipeline."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common._registration import get_converter, get_shape_calculator
from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.operator_converters.common import concatenate_variables
from sklearn.impute import SimpleImputer

from shadow_mlops.models.conversion import ConversionError

_IMPUTER = "SklearnSimpleImputer"


@cache
def register_converters() -> None:
    """Make the converters known to skl2onnx, once a process."""
    update_registered_converter(SimpleImputer, "ShadowSimpleImputer", _imputer_shape, _convert_imputer, overwrite=True)
    if find_spec("lightgbm") and find_spec("onnxmltools"):
        _register_lightgbm()
    if find_spec("xgboost") and find_spec("onnxmltools"):
        _register_xgboost()


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


def _register_xgboost() -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost  # noqa: PLC0415
    from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor  # noqa: PLC0415 - an extra

    def named_by_position(scope: Any, operator: Any, container: Any) -> None:
        # The converter reads feature names as f0, f1, …; they are positions in what the step before gives.
        booster = operator.raw_operator.get_booster()
        names, booster.feature_names = booster.feature_names, None
        try:
            convert_xgboost(scope, operator, container)
        finally:
            booster.feature_names = names

    for kind in (XGBClassifier, XGBRFClassifier):
        update_registered_converter(
            kind,
            f"XGBoost{kind.__name__}",
            calculate_linear_classifier_output_shapes,
            named_by_position,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
        )
    for kind in (XGBRegressor, XGBRFRegressor):
        update_registered_converter(
            kind, f"XGBoost{kind.__name__}", calculate_linear_regressor_output_shapes, named_by_position
        )


def _flagged(imputer: Any) -> list[int]:
    """Columns for which the imputer adds an indicator."""
    return [int(i) for i in imputer.indicator_.features_] if imputer.add_indicator else []


def _ours(operator: Any) -> bool:
    """Whether skl2onnx's own converter falls short: indicators, or float64, for which onnxruntime has no Imputer."""
    kind = operator.inputs[0].type
    if isinstance(kind, StringTensorType):
        return False
    return bool(_flagged(operator.raw_operator)) or isinstance(kind, DoubleTensorType)


def _imputer_shape(operator: Any) -> None:
    get_shape_calculator(_IMPUTER)(operator)
    if _ours(operator):
        rows, width = operator.outputs[0].type.shape
        flagged = len(_flagged(operator.raw_operator))
        operator.outputs[0].type = type(operator.inputs[0].type)([rows, width + flagged])


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    if not _ours(operator):
        get_converter(_IMPUTER)(scope, operator, container)
        return
    imputer, flagged = operator.raw_operator, _flagged(operator.raw_operator)
    given = concatenate_variables(scope, operator.inputs, container)
    double = isinstance(operator.inputs[0].type, DoubleTensorType)
    number = TensorProto.DOUBLE if double else TensorProto.FLOAT
    if not isinstance(imputer.missing_values, float):  # NaN is the only mark of a missing number here
        raise ConversionError(f"SimpleImputer(missing_values={imputer.missing_values!r}) has no ONNX form")

    def name(text: str) -> str:
        return str(scope.get_unique_variable_name(text))

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        container.add_node(kind, inputs, output, name=scope.get_unique_operator_name(kind), **attributes)

    absent, fill, output = name("absent"), name("fill"), operator.outputs[0].full_name
    filled = name("filled") if flagged else output
    container.add_initializer(fill, number, [1, len(imputer.statistics_)], imputer.statistics_.astype(float).tolist())
    add("IsNaN", [given], absent)
    add("Where", [absent, fill, given], filled)
    if flagged:
        indices, picked, flags = name("flagged"), name("picked"), name("flags")
        container.add_initializer(indices, TensorProto.INT64, [len(flagged)], flagged)
        add("Gather", [absent, indices], picked, axis=1)
        add("Cast", [picked], flags, to=number)
        add("Concat", [filled, flags], output, axis=1)
