"""Metrics on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from shadow_mlops.domain.models import Task


def held_out_metrics(
    task: Task, truth: NDArray[Any], scores: NDArray[np.float64], labels: Sequence[Any], positive: Any
) -> dict[str, float]:
    """Metrics of a task.

    Parameters
    ----------
    truth
        Shape (rows,): labels or quantities.
    scores
        Shape (rows, classes): probabilities in the order of ``labels``; (rows, 1) for regression.
    labels
        The estimator's classes; unused for regression.
    positive
        The class whose probability a binary task predicts.

    Returns
    -------
    dict
        binary: accuracy, auc, log_loss, brier. multiclass: accuracy, auc (macro, one against the rest),
        log_loss.
        regression: rmse, mae, r2.
    """
    if task == "regression":
        found = {
            "rmse": metrics.root_mean_squared_error(truth, scores[:, 0]),
            "mae": metrics.mean_absolute_error(truth, scores[:, 0]),
            "r2": metrics.r2_score(truth, scores[:, 0]),
        }
    elif task == "binary":
        chance = scores[:, list(labels).index(positive)]
        happened = truth == positive
        found = {
            "accuracy": np.mean((chance >= 0.5) == happened),
            "auc": metrics.roc_auc_score(happened, chance),
            "log_loss": metrics.log_loss(happened, chance, labels=[False, True]),
            "brier": np.mean((chance - happened) ** 2),
        }
    else:
        found = {
            "accuracy": np.mean(np.asarray(labels)[scores.argmax(axis=1)] == truth),
            "auc": metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=labels),
            "log_loss": metrics.log_loss(truth, scores, labels=labels),
        }
    return {name: float(value) for name, value in found.items()}
