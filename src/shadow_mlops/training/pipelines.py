"""The two families of models: regularised linear and gradient boosting, over numbers and words with gaps.

Both take a DataFrame with the signature's columns: numbers float64 with NaN for a missing one, strings object
with ``""`` for a missing one. Every step has an ONNX equivalent, missing and unseen values included; that
rules out the indicator of ``SimpleImputer``, ``MissingIndicator``, the infrequent categories of
``OneHotEncoder`` and categorical splits of trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Binarizer, OneHotEncoder, StandardScaler

from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import Task

ModelKind: TypeAlias = Literal["linear", "boosting"]

# A category needs this many rows to have a column of its own; the rarer are coded like one that was never
# seen: all zeros.
_MIN_CATEGORY_ROWS = 5
_MAX_CATEGORIES = 64
# Beyond any measured quantity, and exact enough in the float32 of ONNX for the threshold at half of it.
_MISSING_MARK = 1e30
# Early stopping holds out a tenth of the rows: with fewer than these it would stop by chance.
_EARLY_STOPPING_ROWS = 2000


def build(kind: ModelKind, signature: Signature, task: Task, frame: pd.DataFrame, seed: int) -> Pipeline:
    """An unfitted pipeline for the columns of the frame.

    Parameters
    ----------
    kind
        ``linear``: imputed by medians with an indicator where training rows have gaps, scaled, one-hot,
        L2-regularised.
        ``boosting``: histogram gradient boosting, which has a branch for missing numbers; one-hot words.
    signature
        Its columns are the frame's.
    task
        What is learned.
    frame
        Training rows, from which categories and gaps are read.
    seed
        For the rows that early stopping holds out.
    """
    numbers, strings = list(signature.numbers), list(signature.strings)
    steps: list[tuple[str, Any, list[str]]] = []
    if numbers and kind == "linear":
        steps.append(("numbers", _imputed_and_scaled(), numbers))
        if gaps := [name for name in numbers if frame[name].isna().any()]:
            steps.append(("missing", _indicator(), gaps))
    elif numbers:
        steps.append(("numbers", "passthrough", numbers))
    # A column whose every category is rare has nothing to encode.
    known = {name: _categories(frame[name]) for name in strings}
    if coded := [name for name in strings if known[name]]:
        steps.append(("strings", _one_hot([known[name] for name in coded]), coded))
    estimator = _linear(task) if kind == "linear" else _boosting(task, len(frame), seed)
    return Pipeline([("columns", ColumnTransformer(steps)), ("model", estimator)])


def _imputed_and_scaled() -> Pipeline:
    return Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])


def _indicator() -> Pipeline:
    fill = SimpleImputer(strategy="constant", fill_value=_MISSING_MARK)
    return Pipeline([("mark", fill), ("flag", Binarizer(threshold=_MISSING_MARK / 2))])


def _categories(column: pd.Series[str]) -> list[str]:
    counts = column.value_counts()
    frequent = counts[counts >= _MIN_CATEGORY_ROWS].index[:_MAX_CATEGORIES]
    return sorted(str(category) for category in frequent)


def _one_hot(categories: Sequence[Sequence[str]]) -> OneHotEncoder:
    known = [np.array(each, dtype=object) for each in categories]
    return OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)


def _linear(task: Task) -> Any:
    return Ridge(alpha=1.0) if task == "regression" else LogisticRegression(C=0.1, max_iter=1000)


def _boosting(task: Task, rows: int, seed: int) -> Any:
    stops_early = rows >= _EARLY_STOPPING_ROWS
    model = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    return model(
        learning_rate=0.08,
        max_iter=300 if stops_early else 100,
        max_leaf_nodes=15,
        min_samples_leaf=40 if stops_early else 10,
        l2_regularization=1.0,
        early_stopping=stops_early,
        n_iter_no_change=15,
        random_state=seed,
    )
