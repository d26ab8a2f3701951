"""How a deployment's gates and its canary stand, as scripts read it and as a person would say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.gate import GateStatus
from shadow_mlops.rollout.spec import GateSpec
from shadow_mlops.rollout.watching import StepStatus


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    spec: GateSpec
    champion: str | None
    """Version; None before the first champion."""
    gates: tuple[GateStatus, ...]
    canary: CanaryStatus | None = None
    step: StepStatus | None = None

    @property
    def nothing(self) -> str:
        """Why there is no gate yet."""
        if self.champion is None:
            return "no champion serves yet"
        return (
            f"no gate has begun against champion {self.champion}: it begins with the first archived prediction that a"
            " challenger has shadowed live"
        )

    def as_json(self) -> dict[str, Any]:
        """The first challenger's gate at the top, as scripts read it, and all of them in ``challengers``."""
        told = [_told(gate) for gate in self.gates]
        first = told[0] if told else _unbegun(self.spec)
        return {
            **first,
            "challengers": told,
            "canary": msgspec.to_builtins(self.canary),
            "step": msgspec.to_builtins(self.step),
            "spec_hash": self.spec.hash,
        }

    def explained(self) -> Iterator[str]:
        """What is asked, what was seen, and what would change it, in sentences."""
        yield from _asked(self.spec)
        if not self.gates:
            yield self.nothing
        for gate in self.gates:
            yield ""
            yield from _seen(gate, self.spec)
        if self.canary is not None:
            yield ""
            yield from _on_trial(self.canary, self.step)


def _told(gate: GateStatus) -> dict[str, Any]:
    decision: dict[str, Any] = msgspec.to_builtins(gate.decision)
    of_gate: dict[str, Any] = msgspec.to_builtins(gate)
    del of_gate["decision"]
    return {**decision, **of_gate}


def _unbegun(spec: GateSpec) -> dict[str, Any]:
    return {
        "decision": "keep_watching",
        "metric": spec.metric,
        "estimate": None,
        "interval": None,
        "e_value": 1.0,
        "labelled": 0,
        "labels_needed": None,
        "guardrails": [],
        "evidence_id": None,
        "reasons": ["no gate has begun"],
    }


def _asked(spec: GateSpec) -> Iterator[str]:
    better = (
        f"better than the champion in {spec.metric}"
        if spec.kind == "superior"
        else f"at most {spec.margin:g} worse than the champion in {spec.metric}"
    )
    yield (
        f"The gate asks whether the challenger is {better}, and may be looked at after every label: where it is not,"
        f" the chance that it is ever promoted is {spec.alpha:g} at most."
    )
    yield (
        f"Requests are judged in cohorts of {_length(spec.cohort_us)}, in order, each once all of it is labelled or"
        f" {_length(spec.delay_us)} have passed; each entity counts once."
    )
    yield (
        f"At least {spec.min_labels:,} entities and {spec.min_days:g} days, at most {spec.max_labels:,} entities;"
        " promotion also needs labels for nine tenths of the pairs, whoever decided what."
    )
    for guard in spec.guardrails:
        where = "".join(f" where {name} is {value}" for name, value in guard.segment.items())
        rule = "must be shown to be" if guard.kind == "non_inferior" else "must not be shown to be worse"
        margin = f" at most {guard.margin:g} worse" if guard.margin is not None else ""
        slow = f" (slower than {guard.slo_ms:g} ms)" if guard.slo_ms is not None else ""
        yield f"Guardrail {guard.name}{slow}{where}: {rule}{margin}."


def _length(us: int) -> str:
    """A span of time in the largest unit that it has two of.

    >>> [_length(us) for us in (90 * 86_400_000_000, 86_400_000_000, 18_000_000_000, 500_000)]
    ['90 days', '24 hours', '5 hours', '0.5 seconds']
    """
    for name, unit in (("days", 86_400_000_000), ("hours", 3_600_000_000), ("minutes", 60_000_000)):
        if us >= 2 * unit:
            return f"{us / unit:g} {name}"
    return f"{us / 1e6:g} seconds"


def _seen(gate: GateStatus, spec: GateSpec) -> Iterator[str]:
    decision = gate.decision
    yield f"{gate.name}, version {gate.challenger}, against champion {gate.champion}: {decision.decision}."
    if decision.estimate is not None:
        which = "better" if decision.estimate > 0 else "worse"
        band = "" if decision.interval is None else " (between {:.4g} and {:.4g})".format(*decision.interval)
        yield f"On {decision.labelled:,} entities it is {abs(decision.estimate):.4g} {which} in {spec.metric}{band}."
    yield f"The evidence stands at {decision.e_value:.4g}, that for harm at {decision.e_value_harm:.4g}."
    for reason in decision.reasons:
        yield f"- {reason}"
    for guard in decision.guardrails:
        yield f"- guardrail {guard.words}"
    if gate.without_value or gate.late:
        yield (
            f"{gate.without_value:,} entities of closed cohorts gave no value (they had given theirs, or had no label);"
            f" {gate.late:,} requests came after their cohort had closed."
        )
    if gate.evidence_id is not None:
        yield f"It is decided; `shadow gate verify {gate.evidence_id}` makes the evidence again."


def _on_trial(canary: CanaryStatus, step: StepStatus | None) -> Iterator[str]:
    frozen = "; it is frozen" if canary.frozen else ""
    yield (
        f"Version {canary.version} answers {canary.share:.4g} of the entities, step {canary.step + 1} of"
        f" {canary.steps}{frozen}."
    )
    if step is not None:
        level = "no value yet" if step.level is None else f"the harm detector is at {step.level:.3g}"
        yield (
            f"{step.values:,} values, {step.values_needed:,} more until the next step; {level}, it ends the canary at"
            f" {step.alarm_level:.3g}. Of {step.answered:,} labelled answers {step.harmed:,} were worse than the"
            " champion's."
        )
