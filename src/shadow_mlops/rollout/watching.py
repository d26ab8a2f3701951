"""What a canary step has shown so far: harm that ends it, or enough good values to go on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from sqlalchemy import Engine

from shadow_mlops.comparison.cohorts import Cohort, next_cohort
from shadow_mlops.comparison.units import differences, labelled, positives, score_sides, units_of
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect, reading
from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.evidence import matchup_of
from shadow_mlops.rollout.spec import GateSpec
from shadow_mlops.state import canarysteps
from shadow_mlops.statistics.harm import HarmDetector
from shadow_mlops.statistics.ranking import RankedPairs, Waiting

StepVerdict: TypeAlias = Literal["harm", "enough", "keep_watching"]


class StepState(msgspec.Struct, kw_only=True):
    """All that is remembered of a step."""

    next_cohort: int
    log_levels: list[float | None] = []
    """Of the harm detector; None stands for minus infinity, which JSON does not have. Empty: before the first value."""
    peak: float | None = None
    values: int = 0
    total: float = 0.0
    answered: int = 0
    """Labelled answers that clients got from the canary."""
    harmed: int = 0
    """Of them, those on which the champion would have done better."""
    spent: list[str] = []
    """Entities that have given their value to this step, hexadecimal."""
    waiting: tuple[Waiting, ...] = ()
    passed_over: int = 0


class StepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a step stands."""

    verdict: StepVerdict
    values: int
    values_needed: int
    mean: float | None
    """Mean difference per entity, positive where the canary is better."""
    level: float | None
    """Logarithm of the harm detector's level; an alarm is at ``alarm_level``."""
    alarm_level: float
    answered: int
    harmed: int


class CanaryWatch:
    """Follows the step in force through closed cohorts.

    Parameters
    ----------
    values_per_step
        n: values that a step needs, and for which the promise of few false alarms holds.
    """

    def __init__(
        self, lake: Path, state: Engine, spec: GateSpec, *, values_per_step: int, threads: int | None = 1
    ) -> None:
        self._lake = lake
        self._state = state
        self._spec = spec
        self._values = values_per_step
        self._threads = threads

    def look(self, champion: str, canary: CanaryStatus) -> StepStatus:
        """Take in the cohorts that have closed since the step began, and say how it stands.

        Raises
        ------
        LakeError, StateError, ConflictError
            Everything up to the cohort before stands.
        """
        state = self._kept(canary)
        manifest = read_manifest(self._lake)
        matchup = matchup_of(self._spec, champion, canary.version, canary.challenger)
        since = manifest.between(state.next_cohort * self._spec.cohort_us)
        with reading(self._lake), closing(connect(self._lake, since, threads=self._threads)) as connection:
            while self._verdict(state) != "harm":  # also beyond enough: a frozen step, or the last, may go on for days
                cohort = next_cohort(connection, matchup, state.next_cohort, matched_us=manifest.matched_us)
                if cohort is None:
                    break
                before = state.next_cohort
                state = watched(state, cohort, self._spec, manifest.schemas)
                canarysteps.save(
                    self._state,
                    canary.rollout,
                    canary.step,
                    before=before,
                    next_cohort=state.next_cohort,
                    state=msgspec.json.encode(state).decode(),
                )
        return self._told(state)

    def status(self, canary: CanaryStatus) -> StepStatus:
        """How the step stands after the cohorts that were taken in."""
        return self._told(self._kept(canary))

    def _kept(self, canary: CanaryStatus) -> StepState:
        kept = canarysteps.load(self._state, canary.rollout, canary.step)
        if kept is None:
            return StepState(next_cohort=canary.since_us // self._spec.cohort_us)
        return msgspec.json.decode(kept, type=StepState)

    def _told(self, state: StepState) -> StepStatus:
        detector = _detector(state, self._spec)
        return StepStatus(
            verdict=self._verdict(state),
            values=state.values,
            values_needed=max(0, self._values - state.values),
            mean=state.total / state.values if state.values else None,
            level=detector.log_level if np.isfinite(detector.log_level) else None,
            alarm_level=float(np.log(self._values / self._spec.alpha)),
            answered=state.answered,
            harmed=state.harmed,
        )

    def _verdict(self, state: StepState) -> StepVerdict:
        if _detector(state, self._spec).alarmed(values=self._values, alpha=self._spec.alpha):
            return "harm"
        return "enough" if state.values >= self._values else "keep_watching"


def watched(state: StepState, cohort: Cohort, spec: GateSpec, schemas: Mapping[str, EventSchema]) -> StepState:
    """A step's state after one more closed cohort."""
    spent = {bytes.fromhex(key) for key in state.spent}
    known = labelled(cohort)
    units = units_of(cohort.rows["entity"].to_pylist(), known, spent)
    after = msgspec.structs.replace(
        state, next_cohort=cohort.number + 1, spent=[*state.spent, *(key.hex() for key in units.keys)]
    )
    rows = cohort.rows.filter(pa.array(known))
    if not rows.num_rows:
        return after
    of_row = units.of_row[known]
    detector = _detector(state, spec)
    if spec.metric == "auc":
        pairs = RankedPairs(state.waiting, state.passed_over)
        used, firsts = np.unique(of_row, return_index=True)
        firsts = np.sort(firsts[used >= 0])
        ours, theirs = score_sides(rows)
        values = pairs.update(positives(rows)[firsts], ours[firsts], theirs[firsts])
        after.waiting, after.passed_over = pairs.waiting, pairs.passed_over
        each = np.zeros(rows.num_rows)
    else:
        each = differences(rows, spec.metric, task=spec.task, schemas=schemas, bound=spec.bound).values
        values = np.clip(type(units)(units.keys, of_row).means(each), -spec.bound, spec.bound)
    # what the gate allows is no harm here either: with a margin, harm is to be worse by more than that
    detector.update(values + spec.margin)
    after.log_levels = [level if np.isfinite(level) else None for level in detector.log_levels]
    after.peak = detector.peak if np.isfinite(detector.peak) else None
    after.values += len(values)
    after.total += float(values.sum())
    by_canary = rows["swapped"].to_numpy(zero_copy_only=False).astype(np.bool_)
    after.answered += int(by_canary.sum())
    after.harmed += int((by_canary & (each < 0)).sum())
    return after


def _detector(state: StepState, spec: GateSpec) -> HarmDetector:
    if not state.log_levels:
        return HarmDetector(bound=spec.bound + spec.margin)
    levels = [-np.inf if level is None else level for level in state.log_levels]
    return HarmDetector(
        bound=spec.bound + spec.margin, log_levels=levels, peak=-np.inf if state.peak is None else state.peak
    )
