"""Scores become answers: what a client reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.deployment import Decision, Deployment
from shadow_mlops.domain.errors import DeploymentError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.domain.positive import positive_class


class BinaryAnswer(msgspec.Struct, gc=False):
    """Answer of a binary deployment."""

    probability: float
    """Of the class that the deployment's ``positive`` names."""
    label: int
    confidence: float
    risk_tier: str
    model_version: str
    request_id: str


class MulticlassAnswer(msgspec.Struct, gc=False):
    """Answer of a multiclass deployment."""

    label: str
    probabilities: dict[str, float]
    confidence: float
    model_version: str
    request_id: str


class RegressionAnswer(msgspec.Struct, gc=False):
    """Answer of a regression deployment."""

    value: float
    model_version: str
    request_id: str


Answer: TypeAlias = BinaryAnswer | MulticlassAnswer | RegressionAnswer
ANSWERS: dict[str, type[Answer]] = {
    "binary": BinaryAnswer,
    "multiclass": MulticlassAnswer,
    "regression": RegressionAnswer,
}

Renderer: TypeAlias = Callable[[NDArray[np.float64], Sequence[str]], list[Answer]]
"""float64 (n, k) scores and n request ids to n answers."""


def renderer(deployment: Deployment, card: ModelCard) -> Renderer:
    """How the answers of this model look.

    Raises
    ------
    DeploymentError
        If model and deployment do not fit: another task, or no such positive class.
    """
    if card.task != deployment.task:
        raise DeploymentError(
            f"the deployment's task is {deployment.task}, {card.name} {card.version} is a {card.task} model"
        )
    if deployment.task == "binary":
        column = card.classes.index(positive_class(deployment, card))
        return _binary(deployment.decision, column, card.version)
    if deployment.task == "multiclass":
        return _multiclass(card.classes, card.version)
    return _regression(card.version)


def _binary(decision: Decision, column: int, version: str) -> Renderer:
    names, bounds = list(decision.tiers), list(decision.tiers.values())
    last, threshold = len(names) - 1, decision.threshold

    def render(scores: NDArray[np.float64], request_ids: Sequence[str]) -> list[Answer]:
        return [
            BinaryAnswer(
                p,
                1 if p >= threshold else 0,
                p if p >= 0.5 else 1.0 - p,
                names[min(bisect_left(bounds, p), last)],
                version,
                request_id,
            )
            for p, request_id in zip(scores[:, column].tolist(), request_ids, strict=True)
        ]

    return render


def _multiclass(classes: tuple[str, ...], version: str) -> Renderer:
    def render(scores: NDArray[np.float64], request_ids: Sequence[str]) -> list[Answer]:
        best = np.argmax(scores, axis=1)
        return [
            MulticlassAnswer(classes[b], dict(zip(classes, row, strict=True)), row[b], version, request_id)
            for row, b, request_id in zip(scores.tolist(), best.tolist(), request_ids, strict=True)
        ]

    return render


def _regression(version: str) -> Renderer:
    def render(scores: NDArray[np.float64], request_ids: Sequence[str]) -> list[Answer]:
        return [
            RegressionAnswer(value, version, request_id)
            for value, request_id in zip(scores[:, 0].tolist(), request_ids, strict=True)
        ]

    return render


def answer_schema(task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON Schema of the task's answer, and its component schemas."""
    (schema,), components = msgspec.json.schema_components([ANSWERS[task]], ref_template="#/components/schemas/{name}")
    return schema, components
