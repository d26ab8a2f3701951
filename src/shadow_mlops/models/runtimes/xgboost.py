"""XGBoost's own JSON and UBJSON formats; nothing that is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard, Task

_LARGEST = float(np.finfo(np.float32).max)
_UNFIT = frozenset({"binary:logitraw", "binary:hinge"})


class Objective(msgspec.Struct, frozen=True):
    """What a booster was trained for, as its configuration says."""

    name: str
    classes: int
    """Outputs of a classifier; 0 for anything else."""
    targets: int
    linear: bool

    @property
    def task(self) -> Task:
        """Task that its scores serve."""
        return "regression" if not self.classes else "binary" if self.classes == 2 else "multiclass"


def open_booster(path: Path) -> Any:
    """A booster from a JSON or UBJSON file, on one thread.

    Raises
    ------
    ModelRefusedError
        If the file is neither (a pickle, the binary format of old), or XGBoost cannot read it.
    """
    try:
        head = path.read_bytes()[:2]
    except OSError as error:
        raise ModelRefusedError(f"the XGBoost file cannot be read: {error}") from error
    if head[:1] != b"{":
        raise ModelRefusedError(
            f"{path.name} is no JSON or UBJSON booster: save it with save_model('model.ubj') (XGBoost 1.6 or newer)"
        )
    try:
        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(path.read_bytes()))
        booster.set_param({"nthread": 1})
    except xgboost.core.XGBoostError as error:
        raise ModelRefusedError(f"the XGBoost file cannot be loaded: {_first_line(error)}") from error
    return booster


def objective_of(booster: Any) -> Objective:
    """Objective and number of outputs of a booster.

    Raises
    ------
    ModelRefusedError
        If its scores are neither probabilities nor one value a row.
    """
    learner = json.loads(booster.save_config())["learner"]
    parameters = learner["learner_model_param"]
    name, classes = str(learner["objective"]["name"]), int(parameters.get("num_class", 0))
    targets = int(parameters.get("num_target", 1))
    if name in _UNFIT:
        raise ModelRefusedError(f"an XGBoost model with objective {name} gives no probabilities: use binary:logistic")
    if targets > 1 and not classes:
        raise ModelRefusedError(f"the XGBoost model predicts {targets} targets; one is served")
    if name == "binary:logistic":
        classes = 2
    linear = learner["gradient_booster"]["name"] == "gblinear"
    return Objective(name, classes, targets, linear)


class BoosterRuntime:
    """Scores rows by an XGBoost booster on one thread."""

    def __init__(self, booster: Any, card: ModelCard) -> None:
        if card.signature.strings:
            raise ModelRefusedError(f"an XGBoost booster takes numbers only, not {', '.join(card.signature.strings)}")
        if booster.num_features() != len(card.signature.numbers):
            raise ModelRefusedError(
                f"the booster takes {booster.num_features()} features,"
                f" its signature names {len(card.signature.numbers)}"
            )
        if any(kind in {"c", "categorical"} for kind in booster.feature_types or ()):
            raise ModelRefusedError("the booster was fitted on pandas categories: encode them as numbers in the model")
        names = booster.feature_names
        if names and tuple(names) != card.signature.numbers:
            raise ModelRefusedError(
                f"the booster was fitted on {', '.join(names)}, in this order; its signature names"
                f" {', '.join(card.signature.numbers)}"
            )
        self._objective = objective_of(booster)
        self._booster = booster
        self._width = len(card.outputs)

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:  # noqa: ARG002
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        if not len(numbers):
            return np.empty((0, self._width))
        # XGBoost compares float32; what is too large for one stays on its side of every threshold
        given = np.clip(numbers, -_LARGEST, _LARGEST).astype(np.float32)
        softmax = self._objective.name == "multi:softmax"
        try:
            if self._objective.linear:
                matrix = xgboost.DMatrix(given, missing=np.nan, nthread=1)
                raw = self._booster.predict(matrix, output_margin=softmax, validate_features=False)
            else:
                kind = "margin" if softmax else "value"
                raw = self._booster.inplace_predict(given, predict_type=kind, validate_features=False, missing=np.nan)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise PredictionError(f"the booster failed: {_first_line(error)}") from error
        scores = np.asarray(raw, dtype=np.float64)
        if softmax:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        if scores.ndim == 1:
            scores = scores.reshape(-1, 1)
            if self._width == 2:
                scores = np.hstack((1.0 - scores, scores))
        if scores.shape != (len(numbers), self._width):
            raise PredictionError(f"the booster gave an array of shape {scores.shape} for {len(numbers)} rows")
        return scores


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load(directory: Path, card: ModelCard) -> BoosterRuntime:
    """Load ``card.file``.

    Raises
    ------
    ModelRefusedError
        If it is no booster, or does not fit the signature.
    """
    return BoosterRuntime(open_booster(directory / card.file), card)
