"""Trees that compare in float64, as the libraries do that fitted them.

Converters write thresholds as float32. A continuous feature with thousands of distinct training values has splits
between two values that one float32 cannot tell apart, and a row that lies there is sent down the wrong branch: one such
row in the reference data is enough to lose the export (seen with 600 rows of a normal variable). ``ai.onnx.ml`` 3 can
hold thresholds as float64 where the input is float64.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from shadow_mlops.models.graphs import TREES

Thresholds: TypeAlias = dict[tuple[int, float], float]
"""(feature, threshold rounded to float32) -> threshold."""

_TENSOR_ATTRIBUTES = 3
"""First version of ``ai.onnx.ml`` whose trees take float64 attributes, as tensors."""


def compares_in_double(model: Any) -> bool:
    """Whether a fitted estimator compares float64 values (scikit-learn's trees and forests round to float32 first)."""
    return hasattr(model, "_predictors") or hasattr(model, "booster_") or hasattr(model, "dump_model")


def exact_thresholds(model: Any) -> Thresholds:
    """All thresholds of a histogram gradient boosting of scikit-learn, a LightGBM estimator or booster."""
    found: Thresholds = {}
    if hasattr(model, "_predictors"):
        for tree in (tree for group in model._predictors for tree in group):  # noqa: SLF001 - no public way to them
            for node in tree.nodes[tree.nodes["is_leaf"] == 0]:
                _note(found, int(node["feature_idx"]), float(node["num_threshold"]))
        return found
    booster = getattr(model, "booster_", model)
    pending = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while pending:
        node = pending.pop()
        if "split_feature" in node:
            pending += [node["left_child"], node["right_child"]]
            if node["decision_type"] == "<=":
                _note(found, int(node["split_feature"]), float(node["threshold"]))
    return found


def _note(found: Thresholds, feature: int, threshold: float) -> None:
    found[feature, float(np.float32(threshold))] = threshold


def sharpen(model: ModelProto, thresholds: Thresholds) -> None:
    """Write the thresholds of the graph's trees as float64; their input must be float64."""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = max(opset.version, _TENSOR_ATTRIBUTES)
    for node in model.graph.node:
        if node.op_type not in TREES:
            continue
        kept = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values = [
            thresholds.get((feature, float(np.float32(value))), value) if mode != b"LEAF" else 0.0
            for feature, value, mode in zip(
                kept["nodes_featureids"], kept["nodes_values"], kept["nodes_modes"], strict=True
            )
        ]
        weights = "class_weights" if node.op_type == "TreeEnsembleClassifier" else "target_weights"
        doubles = {"nodes_values": values, weights: kept[weights], "base_values": kept.get("base_values", [])}
        remaining = [a for a in node.attribute if a.name not in {*doubles, "nodes_hitrates"}]
        del node.attribute[:]
        node.attribute.extend(remaining)
        for name, given in doubles.items():
            if len(given):
                tensor = numpy_helper.from_array(np.array(given, dtype=np.float64))
                node.attribute.append(helper.make_attribute(f"{name}_as_tensor", tensor))
