"""scikit-learn estimators stored by skops: no code in the file runs, and only known types are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.rows import Rows, as_frame
from shadow_mlops.models.runtimes import without_none

# Private modules that hold nothing but fitted state; skops itself trusts scikit-learn's public estimators.
_TRUSTED_MODULES = (
    "sklearn._loss.",
    "sklearn.ensemble._hist_gradient_boosting.",
    "sklearn.ensemble._gb_losses.",
    "sklearn.tree._tree.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.neighbors._kd_tree.",
    "sklearn.metrics._dist_metrics.",
    "sklearn.linear_model._sgd_fast.",
)
_TRUSTED_TYPES = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.preprocessing._label.LabelEncoder",
        "sklearn.utils._bunch.Bunch",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
    }
)


def trusted_types(found: list[str]) -> list[str]:
    """The given types, if all are on the allow-list.

    Parameters
    ----------
    found
        Types of a file that skops does not trust by itself.

    Raises
    ------
    ModelRefusedError
        Naming those that are not.
    """
    refused = sorted(t for t in found if t not in _TRUSTED_TYPES and not t.startswith(_TRUSTED_MODULES))
    if refused:
        raise ModelRefusedError(f"the skops file holds types that are not trusted: {', '.join(refused)}")
    return found


def load_estimator(path: Path) -> Any:
    """A fitted estimator from a skops file.

    Raises
    ------
    ModelRefusedError
        If the file is none, or holds types that are not on the allow-list.
    """
    import skops.io  # noqa: PLC0415 - scikit-learn, SciPy: only who serves such a model pays

    try:
        trusted = trusted_types(skops.io.get_untrusted_types(file=path))
        return skops.io.load(path, trusted=trusted)
    except ModelRefusedError:
        raise
    except Exception as error:  # a foreign file fails in whatever way its types do
        raise ModelRefusedError(f"the skops file cannot be loaded: {type(error).__name__}: {error}") from error


class EstimatorRuntime:
    """Scores rows by a scikit-learn estimator."""

    def __init__(self, estimator: Any, card: ModelCard) -> None:
        self._frames = hasattr(estimator, "feature_names_in_")
        self._estimator = estimator
        self._signature = card.signature
        self._width = len(card.outputs)
        if card.classes and not hasattr(estimator, "predict_proba"):
            raise ModelRefusedError(f"{type(estimator).__name__} gives no probabilities (no predict_proba)")
        self._score = estimator.predict_proba if card.classes else estimator.predict
        if not self._frames and self._signature.strings and self._signature.numbers:
            raise ModelRefusedError("an estimator that was not fitted on a DataFrame cannot take numbers and strings")

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        if not len(numbers):
            return np.empty((0, self._width))
        given: Any = numbers if self._signature.numbers else without_none(strings)
        try:
            scores = self._score(as_frame(self._signature, Rows(numbers, strings)) if self._frames else given)
        except Exception as error:  # whatever a step of the pipeline raises on these rows
            raise PredictionError(f"the estimator failed: {type(error).__name__}: {error}") from error
        return np.asarray(scores, dtype=np.float64).reshape(len(numbers), self._width)


def load(directory: Path, card: ModelCard) -> EstimatorRuntime:
    """Load ``card.file``.

    Raises
    ------
    ModelRefusedError
        If the file may not be trusted or cannot be loaded, or the estimator gives no probabilities.
    """
    return EstimatorRuntime(load_estimator(directory / card.file), card)
