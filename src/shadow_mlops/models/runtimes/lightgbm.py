"""LightGBM's own text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard


class BoosterRuntime:
    """Scores rows by a LightGBM booster on one thread."""

    def __init__(self, booster: Any, card: ModelCard) -> None:
        if card.signature.strings:
            raise ModelRefusedError(f"a LightGBM booster takes numbers only, not {', '.join(card.signature.strings)}")
        if booster.num_feature() != len(card.signature.numbers):
            raise ModelRefusedError(
                f"the booster takes {booster.num_feature()} features, its signature names {len(card.signature.numbers)}"
            )
        if booster.pandas_categorical:
            raise ModelRefusedError("the booster was fitted on pandas categories, whose codes its text file cannot map")
        self._booster = booster
        self._width = len(card.outputs)

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:  # noqa: ARG002
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        if not len(numbers):
            return np.empty((0, self._width))
        try:
            raw = self._booster.predict(numbers, num_threads=1)
        except lightgbm.basic.LightGBMError as error:
            raise PredictionError(f"the booster failed: {error}") from error
        scores = np.asarray(raw, dtype=np.float64)
        if scores.ndim == 1:
            scores = scores.reshape(-1, 1)
            if self._width == 2:
                scores = np.hstack((1.0 - scores, scores))
        if scores.shape != (len(numbers), self._width):
            raise PredictionError(f"the booster gave an array of shape {scores.shape} for {len(numbers)} rows")
        return scores


def load(directory: Path, card: ModelCard) -> BoosterRuntime:
    """Load ``card.file``.

    Raises
    ------
    ModelRefusedError
        If it is no booster, or does not fit the signature.
    """
    try:
        booster = lightgbm.Booster(model_file=str(directory / card.file))
    except lightgbm.basic.LightGBMError as error:
        raise ModelRefusedError(f"the LightGBM file cannot be loaded: {error}") from error
    return BoosterRuntime(booster, card)
