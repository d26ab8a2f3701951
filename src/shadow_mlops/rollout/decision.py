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
_MOST_CELLS = 12  # whose labels are looked at one by one; each pair of them is compared


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
        much = f" (more than {spec.margin:g} is not allowed)" if spec.margin else ""
        worse = f"{-primary.mean:.4g} in {_name(spec)} worse per entity{much}"
        reasons = (f"the challenger is worse: {worse}, e-value {harm.peak:.3g}",)
    elif not missing:
        verdict = "promote"
        evidence = f"e-value {primary.peak:.3g} (needed {1 / alpha:g})"
        reasons = (f"the challenger is {_better(primary, spec)} on {primary.count:,} entities, {evidence}",)
    elif primary.count >= spec.max_labels:
        verdict, reasons = "reject", (f"{spec.max_labels:,} values are used up", *missing)
    else:
        verdict, reasons = "keep_watching", missing
    return Decision(
        decision=verdict,
        metric=spec.metric,
        estimate=primary.mean if primary.count else None,
        interval=_interval(primary, alpha),
        e_value=primary.e_value,
        e_value_harm=harm.e_value,
        labelled=primary.count,
        labels_needed=primary.labels_needed(alpha),
        guardrails=guards,
        reasons=reasons,
        mcnemar_e_value=_shown(math.exp(min(mcnemar.log_e_value(state.wins, state.losses), 690.0)))
        if spec.metric == "accuracy"
        else None,
    )


def _interval(process: GridProcess, alpha: float) -> tuple[float, float] | None:
    found = mean_interval(process.mean, process.variance, process.count, process.nonzero, alpha)
    return None if found is None else (_shown(found[0]), _shown(found[1]))


def _shown(figure: float) -> float:
    """A figure for people, in ten digits: what logarithms and gamma functions give has its last ones from the machine.

    >>> _shown(0.1234567890123)
    0.123456789
    """
    return float(f"{figure:.10g}")


def _missing(
    state: GateState, spec: GateSpec, primary: GridProcess, guards: tuple[GuardrailStatus, ...], alpha: float
) -> tuple[str, ...]:
    """What still stands between the challenger and a promotion."""
    words = []
    if not primary.crossed(alpha):
        needed = primary.labels_needed(alpha)
        more = "the data do not point to the challenger so far" if needed is None else f"some {needed:,} more may do"
        words.append(
            f"the evidence is {primary.e_value:.3g} where {1 / alpha:g} is needed, from {primary.count:,} entities;"
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
    groups = [_most_frequent(decisions, "any rarer decision"), _most_frequent(disagreements, "any rarer disagreement")]
    if not decisions and whole.pairs:  # regression
        groups.append((Covered("any answer", whole.pairs, whole.labelled),))
    return objections(tuple(groups))


def _most_frequent(cells: list[Covered], others: str) -> tuple[Covered, ...]:
    """The largest cells, and all others as one: of a hundred classes some pair is rare, and lacks its only label."""
    cells = sorted(cells, key=lambda cell: (-cell.pairs, cell.name))
    rare = cells[_MOST_CELLS:]
    if not rare:
        return tuple(cells)
    together = Covered(others, sum(cell.pairs for cell in rare), sum(cell.labelled for cell in rare))
    return (*cells[:_MOST_CELLS], together)


def _guard(state: GuardState, guard: Guardrail, *, alpha: float, count: int) -> GuardrailStatus:
    process = GridProcess.resumed(state.up)
    name = guard.name + "".join(f", {feature} = {value}" for feature, value in sorted(guard.segment.items()))
    if guard.name == SCORE_GUARDRAIL:
        down = GridProcess.resumed(state.down or state.up)
        e_value = max(process.e_value, down.e_value) / 2
        blocked = e_value >= count / alpha
        words = f"{name}: the challenger's scores are shifted by more than {guard.margin:g}"
        return _status(
            name, guard, "blocked" if blocked else "passed", e_value=e_value, values=process.count, words=words
        )
    if guard.kind == "no_harm":
        blocked = process.e_value >= count / alpha
        words = f"{name}: the challenger does harm, {process.mean:.4g} worse, e-value {process.e_value:.3g}"
        return _status(
            name,
            guard,
            "blocked" if blocked else "passed",
            e_value=process.e_value,
            values=process.count,
            words=words,
        )
    passed = process.crossed(alpha)
    words = f"{name}: not yet shown to be at most {guard.margin:g} worse, e-value {process.e_value:.3g}"
    return _status(
        name, guard, "passed" if passed else "watching", e_value=process.e_value, values=process.count, words=words
    )


def _status(
    name: str, guard: Guardrail, state: GuardVerdict, *, e_value: float, values: int, words: str
) -> GuardrailStatus:
    shown = words if state != "passed" else f"{name}: fine"
    return GuardrailStatus(name=name, kind=guard.kind, state=state, e_value=e_value, values=values, words=shown)


def _better(primary: GridProcess, spec: GateSpec) -> str:
    if spec.kind == "non_inferior":
        return f"at most {spec.margin:g} worse in {_name(spec)} (mean difference {primary.mean:+.4g})"
    return f"better in {_name(spec)} by {primary.mean:.4g}"


def _name(spec: GateSpec) -> str:
    return {"auc": "AUC", "brier": "Brier score"}.get(spec.metric, spec.metric.replace("_", " "))
