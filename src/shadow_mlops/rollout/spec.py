"""What a gate asks, resolved from the deployment file: metric, bounds, guardrails; and its hash, for evidence."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

from shadow_mlops.domain.deployment import (
    GATE_METRICS,
    SCORE_GUARDRAIL,
    SERVICE_GUARDRAILS,
    Deployment,
    Guardrail,
)
from shadow_mlops.domain.models import Task
from shadow_mlops.statistics.losses import Loss, bound_of

Kind: TypeAlias = Literal["superior", "non_inferior"]


class GateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A gate, with nothing left to look up elsewhere."""

    task: Task
    metric: Loss
    kind: Kind
    margin: float
    """0 for ``superior``."""
    bound: float
    """Largest absolute difference of the metric between two models on one row."""
    alpha: float
    min_labels: int
    max_labels: int
    min_days: float
    guardrails: tuple[Guardrail, ...]
    cohort_us: int
    delay_us: int
    final_labels: bool

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(canonical(self)).hexdigest()

    def guard_bound(self, guard: Guardrail) -> float:
        """Largest absolute value of a guardrail's differences."""
        if guard.name in SERVICE_GUARDRAILS:
            return 1.0
        if guard.name == SCORE_GUARDRAIL:
            return 1.0 + (guard.margin or 0.0)  # of the difference beyond the margin
        return self.bound if guard.name == self.metric else bound_of(guard.name, declared=guard.bound)  # type: ignore[arg-type]


def canonical(value: object) -> bytes:
    """JSON with sorted keys and the shortest digits that give each number back: the same value, the same bytes."""
    return msgspec.json.encode(value, order="sorted")


def spec_of(deployment: Deployment) -> GateSpec | None:
    """The gate of a deployment file; None where it has none: a regression whose file says nothing of one.

    The file has been checked (:mod:`~shadow_mlops.deployment.reader`).
    """
    gate = deployment.gate
    if gate.metric not in GATE_METRICS[deployment.task]:
        return None
    metric: Loss = gate.metric  # type: ignore[assignment]
    brier = 2 if deployment.task == "binary" else 3
    return GateSpec(
        task=deployment.task,
        metric=metric,
        kind=gate.kind,
        margin=gate.margin or 0.0,
        bound=bound_of(metric, classes=brier, declared=gate.bound),
        alpha=gate.alpha,
        min_labels=gate.min_labels,
        max_labels=gate.max_labels,
        min_days=gate.min_days,
        guardrails=gate.guardrails,
        cohort_us=round(deployment.labels.cohort * 1e6),
        delay_us=round(deployment.labels.max_delay * 1e6),
        final_labels=deployment.labels.policy != "first",
    )
