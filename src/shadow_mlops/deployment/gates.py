"""What no single key of ``gate`` shows: metric, task, margin and guardrails that do not fit each other."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NoReturn, Protocol

from shadow_mlops.domain.deployment import (
    GATE_METRICS,
    SCORE_GUARDRAIL,
    SERVICE_GUARDRAILS,
    UNBOUNDED_METRICS,
    Deployment,
    Gate,
    Guardrail,
)


class Refuse(Protocol):
    """Raises a DeploymentError with the line of the key."""

    def __call__(self, message: str, *steps: str) -> NoReturn:
        """Say what is wrong, and at which key."""


def check_gate(deployment: Deployment, refuse: Refuse) -> None:
    """Refuse a gate that could never decide, or would decide something else than it says."""
    gate = deployment.gate
    if deployment.task == "regression" and gate == Gate():
        return  # the default metric is for classes: a file that says nothing of a gate has none
    known = GATE_METRICS[deployment.task]
    metric = gate.metric
    if metric not in known:
        everything = sorted({name for names in GATE_METRICS.values() for name in names})
        hint = f"a {deployment.task} gate takes {', '.join(known)}"
        if metric not in everything and (close := get_close_matches(metric, known, n=1)):
            hint = f"did you mean `{close[0]}`?"
        refuse(f"`gate.metric`: {metric} is not for {deployment.task}: {hint}", "gate", "metric")
    if gate.kind == "superior" and gate.margin is not None:
        refuse("`gate.margin` belongs to `kind: non_inferior`; a superior challenger has none", "gate", "margin")
    if gate.kind == "non_inferior" and gate.margin is None:
        refuse("`gate.kind: non_inferior` needs `margin`: how much worse is allowed", "gate", "kind")
    _check_bound(gate, metric, refuse)
    if gate.min_labels > gate.max_labels:
        refuse("`gate.min_labels` is above `gate.max_labels`: the gate could only reject", "gate", "min_labels")
    for number, guard in enumerate(gate.guardrails):
        _check_guardrail(deployment, guard, number, refuse)
    names = [(guard.name, tuple(sorted(guard.segment.items()))) for guard in gate.guardrails]
    for number, name in enumerate(names):
        if name in names[:number]:
            refuse(f"`gate.guardrails`: {name[0]} stands twice", "gate", "guardrails", str(number))


def _check_bound(gate: Gate, metric: str, refuse: Refuse) -> None:
    unbounded = metric in UNBOUNDED_METRICS
    if unbounded and gate.bound is None:
        refuse(f"`gate.metric: {metric}` has no bound of its own: add `bound`, what larger losses count as", "gate")
    if not unbounded and gate.bound is not None:
        refuse(f"`gate.bound`: {metric} has a bound of its own", "gate", "bound")
    if gate.margin is not None and gate.bound is not None and gate.margin >= gate.bound:
        refuse("`gate.margin` is not below `gate.bound`: everything would pass", "gate", "margin")
    if gate.margin is not None and not unbounded and gate.margin >= 1:
        refuse("`gate.margin` of 1 or more lets everything pass", "gate", "margin")


def _check_guardrail(deployment: Deployment, guard: Guardrail, number: int, refuse: Refuse) -> None:
    at = ("gate", "guardrails", str(number))
    metrics = GATE_METRICS[deployment.task]
    known = (*SERVICE_GUARDRAILS, SCORE_GUARDRAIL, *metrics)
    if guard.name not in known:
        close = get_close_matches(guard.name, known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
        refuse(f"`gate.guardrails`: nothing measures `{guard.name}` here, {hint}", *at)
    if guard.name == "auc":
        refuse("`gate.guardrails`: auc is a metric of the whole gate only; use log_loss or brier here", *at)
    if guard.name == SCORE_GUARDRAIL and deployment.task != "binary":
        refuse(f"`gate.guardrails`: {SCORE_GUARDRAIL} is for binary deployments", *at)
    if guard.name == SCORE_GUARDRAIL and guard.kind != "no_harm":
        refuse(f"`gate.guardrails`: {SCORE_GUARDRAIL} can only be `kind: no_harm`", *at)
    if (guard.kind == "non_inferior" or guard.name == SCORE_GUARDRAIL) and guard.margin is None:
        refuse(f"`gate.guardrails`: {guard.name} needs `margin`: how much worse is allowed", *at)
    if guard.kind == "no_harm" and guard.name != SCORE_GUARDRAIL and guard.margin is not None:
        refuse(f"`gate.guardrails`: {guard.name} with `kind: no_harm` has no margin", *at)
    if (guard.name == "latency") != (guard.slo_ms is not None):
        what = "needs `slo_ms`" if guard.name == "latency" else "has no `slo_ms`: that is for latency"
        refuse(f"`gate.guardrails`: {guard.name} {what}", *at)
    if (guard.name in UNBOUNDED_METRICS) != (guard.bound is not None):
        what = "needs `bound`" if guard.bound is None else "has a bound of its own"
        refuse(f"`gate.guardrails`: {guard.name} {what}", *at)
    if guard.margin is not None and guard.margin >= (guard.bound or 1):
        refuse(f"`gate.guardrails`: a margin of {guard.margin:g} lets {guard.name} pass whatever happens", *at)
