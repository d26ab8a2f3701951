"""XGBoost boosters, logged alone or taken out of a scikit-learn wrapper, prepared as ONNX or in their own format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.conversion import ConversionError
from shadow_mlops.models.export import keep_export
from shadow_mlops.models.prepared import write_prepared
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import load_runtime
from shadow_mlops.models.runtimes.xgboost import Objective, objective_of, open_booster

FILE = "model.ubj"


def export_xgboost(directory: Path, path: Path, card: ModelCard, rows: Rows, *, wrapped: bool) -> ModelCard:
    """Prepare a booster from a file: its ONNX graph where that agrees, else the booster itself.

    Parameters
    ----------
    wrapped
        It was saved from a scikit-learn wrapper, which answers with the best iteration where training stopped early; a
        booster by itself answers with all of its trees.

    Raises
    ------
    ModelRefusedError
        If it cannot be loaded, or does not take the signature's features.
    """
    booster = open_booster(path)
    objective = objective_of(booster)
    directory.mkdir(parents=True, exist_ok=True)
    best_booster(booster, objective, wrapped=wrapped).save_model(directory / FILE)
    classes = tuple(str(i) for i in range(objective.classes))
    card = msgspec.structs.replace(card, runtime="xgboost", file=FILE, task=objective.task, classes=classes)
    original = load_runtime(directory, card)
    kept = keep_export(
        directory,
        original=original.predict,
        convert=lambda: _to_onnx(directory / FILE, objective, card),
        rows=rows,
        card=card,
    )
    if isinstance(kept, ModelCard):
        (directory / FILE).unlink()
        return kept
    provenance = {**card.provenance, "onnx_refused": kept}
    return write_prepared(directory, msgspec.structs.replace(card, provenance=provenance), original, rows)


def keep_estimator(directory: Path, estimator: Any, card: ModelCard) -> ModelCard:
    """Store a scikit-learn wrapper's booster in its own format.

    Returns
    -------
    ModelCard
        With runtime and file.

    Raises
    ------
    ModelRefusedError
        If the wrapper does to the values what its booster alone does not.
    """
    missing = estimator.missing
    if missing is not None and not math.isnan(missing):
        raise ModelRefusedError(f"the XGBoost estimator takes {missing} for a missing value: refit it with missing=nan")
    booster = estimator.get_booster()
    best_booster(booster, objective_of(booster), wrapped=True).save_model(directory / FILE)
    return msgspec.structs.replace(card, runtime="xgboost", file=FILE)


def best_booster(booster: Any, objective: Objective, *, wrapped: bool) -> Any:
    """The part of a booster that answers: cut off after the best iteration where its wrapper would do so."""
    best = booster.attr("best_iteration")
    if not wrapped or best is None or objective.linear or int(best) + 1 >= booster.num_boosted_rounds():
        return booster
    return booster[: int(best) + 1]


def _to_onnx(path: Path, objective: Objective, card: ModelCard) -> bytes:
    try:
        import numpy as np  # noqa: PLC0415 - with the converter that wants its class labels
        import onnxmltools  # noqa: PLC0415 - an extra
        from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415
        from onnxmltools.convert.xgboost._parse import WrappedBooster  # noqa: PLC0415

        from shadow_mlops.models.graphs import gather_blocks  # noqa: PLC0415
    except ImportError as error:
        raise ConversionError(f"{error.name} is absent: pip install 'shadow-mlops[train,xgboost]'") from error
    try:
        booster = open_booster(path)
        booster.feature_names = None  # the converter reads f0, f1, … and nothing else
        # The converter's own wrapper guesses classifier or regressor from the trees; here it is known.
        model = WrappedBooster.__new__(WrappedBooster)
        model.booster_ = booster
        model.kwargs = {"objective": objective.name, "n_estimators": len(booster.get_dump())}
        model.operator_name = "XGBClassifier" if objective.classes else "XGBRegressor"
        if objective.classes:
            model.classes_ = np.arange(objective.classes)
        if objective.name == "multi:softmax":
            model.kwargs["objective"] = "multi:softprob"  # the same trees; the probabilities are what is served
        inputs: Any = [("numbers", FloatTensorType([None, len(card.signature.names)]))]
        graph = onnxmltools.convert_xgboost(model, initial_types=inputs, target_opset=15)
        made = gather_blocks(graph, card.signature, graph.graph.output[-1].name, by_column=False, double=False)
    except Exception as error:  # the converter fails in whatever way the trees do
        raise ConversionError(f"{type(error).__name__}: {str(error).strip()[:300]}") from error
    return bytes(made.SerializeToString())
