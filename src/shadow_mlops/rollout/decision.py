"""From a gate's state to what may be done, with the reasons that a person would give."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec

from shadow_mlops.domain.deployment import SCORE_GUARDRAIL, Guardrail
from shadow_mlops.rollout.folding import Cell, GateState, GuardState
from shadow_mlops.rollout.spec import GateSpec
from shadow_mlops.statistics import mcnemar
from shadow_mlops.statistics.coverage import Covered, objections
from shadow_mlops.statistics.eprocess import GridProcess
from shadow_mlops.statistics.sequences import mean_interval

Verdict: TypeAlias = Literal["promote", "reject", "keep_watching"]
GuardVerdict: TypeAlias = Literal["passed", "watching", "blocked"]
_DAY_US = 86_400_000_000


class GuardrailStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a guardrail stands."""

    name: str
    """With its segment, where it has one."""
    kind: str
    state: GuardVerdict
    e_value: float
    values: int
    words: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate says now."""

    decision: Verdict
    metric: str
    estimate: float | None
    """Mean difference per entity, positive where the challenger is better."""
    interval: tuple[float, float] | None
    """Displayed, valid at all times at once; it decides nothing. None until there is enough."""
    e_value: float
    e_value_harm: float
    labelled: int
    """Values so far: one for each entity."""
    labels_needed: int | None
    """How many more it may take if the data go on as they are; None: they do not point that way."""
    guardrails: tuple[GuardrailStatus, ...]
    reasons: tuple[str, ...]
    mcnemar_e_value: float | None
    """Second opinion for accuracy."""


def decide(state: GateState, spec: GateSpec, *, challengers: int) -> Decision:
    """What a gate says after its closed cohorts.

    Parameters
    ----------
    challengers
        M: how many challengers are compared at the same time; each has α / M.
    """
    alpha = spec.alpha / challengers
    primary, harm = GridProcess.resumed(state.primary), GridProcess.resumed(state.harm)
    guards = tuple(
        _guard(guard_state, guard, alpha=alpha, count=len(spec.guardrails))
        for guard_state, guard in zip(state.guards, spec.guardrails, strict=True)
    )
    missing = _missing(state, spec, primary, guards, alpha)
    verdict: Verdict
    reasons: tuple[str, ...]
    if harm.crossed(alpha):
        verdict = "reject"
        reasons = (f"the challenger is worse: {_words(harm.mean, spec)} worse per entity, e-value {_e(harm.peak)}",)
    elif not missing:
        verdict = "promote"
        evidence = f"e-value {_e(primary.peak)} (needed {1 / alpha:g})"
        reasons = (f"the challenger is {_better(primary, spec)} on {primary.count:,} entities, {evidence}",)
    elif primary.count >= spec.max_labels:
        verdict, reasons = "reject", (f"{spec.max_labels:,} values are used up", *missing)
    else:
        verdict, reasons = "keep_watching", missing
    return Decision(
        decision=verdict,
        metric=spec.metric,
        estimate=primary.mean if primary.count else None,
        interval=mean_interval(primary.mean, primary.variance, primary.count, primary.nonzero, alpha),
        e_value=primary.e_value,
        e_value_harm=harm.e_value,
        labelled=primary.count,
        labels_needed=primary.labels_needed(alpha),
        guardrails=guards,
        reasons=reasons,
        mcnemar_e_value=math.exp(min(mcnemar.log_e_value(state.wins, state.losses), 700.0))
        if spec.metric == "accuracy"
        else None,
    )


def _missing(
    state: GateState, spec: GateSpec, primary: GridProcess, guards: tuple[GuardrailStatus, ...], alpha: float
) -> tuple[str, ...]:
    """What still stands between the challenger and a promotion."""
    words = []
    if not primary.crossed(alpha):
        needed = primary.labels_needed(alpha)
        more = "the data do not point to the challenger so far" if needed is None else f"some {needed:,} more may do"
        words.append(
            f"the evidence is {_e(primary.log_e_value)} where {1 / alpha:g} is needed, from {primary.count:,} entities;"
            f" {more}"
        )
    if primary.count < spec.min_labels:
        words.append(f"{primary.count:,} of at least {spec.min_labels:,} values")
    days = 0.0 if state.first_us is None or state.last_us is None else (state.last_us - state.first_us) / _DAY_US
    if days < spec.min_days:
        words.append(f"{days:.3g} of at least {spec.min_days:g} days")
    words += [guard.words for guard in guards if guard.state == "blocked"]
    words += [guard.words for guard in guards if guard.kind == "non_inferior" and guard.state == "watching"]
    return (*words, *_uncovered(state))


def _uncovered(state: GateState) -> tuple[str, ...]:
    decisions, disagreements = [], []
    for name, cell in sorted(state.coverage.items()):
        kind, _, what = name.partition(":")
        if kind == "champion":
            decisions.append(Covered(f"the champion's decision {what}", cell.pairs, cell.labelled))
        else:
            ours, theirs = what.rsplit(",", 1)
            disagreements.append(Covered(f"champion {ours}, challenger {theirs}", cell.pairs, cell.labelled))
    whole: Cell = state.everything
    groups = [tuple(decisions), tuple(disagreements)]
    if not decisions and whole.pairs:  # regression
        groups.append((Covered("any answer", whole.pairs, whole.labelled),))
    return objections(tuple(groups))


def _guard(state: GuardState, guard: Guardrail, *, alpha: float, count: int) -> GuardrailStatus:
    process = GridProcess.resumed(state.up)
    name = guard.name + "".join(f", {feature} = {value}" for feature, value in sorted(guard.segment.items()))
    if guard.name == SCORE_GUARDRAIL:
        down = GridProcess.resumed(state.down or state.up)
        log_e = max(process.log_e_value, down.log_e_value) - math.log(2)
        blocked = log_e >= math.log(count / alpha)
        words = f"{name}: the challenger's scores are shifted by more than {guard.margin:g}"
        return _status(name, guard, "blocked" if blocked else "passed", log_e=log_e, values=process.count, words=words)
    if guard.kind == "no_harm":
        blocked = process.log_e_value >= math.log(count / alpha)
        words = f"{name}: the challenger does harm, {process.mean:.4g} worse, e-value {_e(process.log_e_value)}"
        return _status(
            name,
            guard,
            "blocked" if blocked else "passed",
            log_e=process.log_e_value,
            values=process.count,
            words=words,
        )
    passed = process.crossed(alpha)
    words = f"{name}: not yet shown to be at most {guard.margin:g} worse, e-value {_e(process.log_e_value)}"
    return _status(
        name, guard, "passed" if passed else "watching", log_e=process.log_e_value, values=process.count, words=words
    )


def _status(
    name: str, guard: Guardrail, state: GuardVerdict, *, log_e: float, values: int, words: str
) -> GuardrailStatus:
    shown = words if state != "passed" else f"{name}: fine"
    e_value = math.exp(min(log_e, 700.0))
    return GuardrailStatus(name=name, kind=guard.kind, state=state, e_value=e_value, values=values, words=shown)


def _better(primary: GridProcess, spec: GateSpec) -> str:
    if spec.kind == "non_inferior":
        return f"at most {spec.margin:g} worse in {_name(spec)} (mean difference {primary.mean:+.4g})"
    return f"better in {_name(spec)} by {primary.mean:.4g}"


def _words(difference: float, spec: GateSpec) -> str:
    return f"{difference:.4g} in {_name(spec)}"


def _name(spec: GateSpec) -> str:
    return {"auc": "AUC", "brier": "Brier score"}.get(spec.metric, spec.metric.replace("_", " "))


def _e(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700.0)):.3g}"
