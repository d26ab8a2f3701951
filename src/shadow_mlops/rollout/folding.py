"""A gate's state, and what a closed cohort makes of it: the same function advances a gate and verifies its evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shadow_mlops.comparison.cohorts import Cohort
from shadow_mlops.comparison.units import (
    Units,
    differences,
    labelled,
    positives,
    score_sides,
    service,
    units_of,
)
from shadow_mlops.domain.deployment import SCORE_GUARDRAIL, SERVICE_GUARDRAILS, Guardrail
from shadow_mlops.domain.events import EventSchema, event_id
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX
from shadow_mlops.rollout.spec import GateSpec
from shadow_mlops.statistics.eprocess import GridProcess, GridState
from shadow_mlops.statistics.ranking import RankedPairs, Waiting


class CohortRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What evidence keeps of a cohort."""

    number: int
    closed_at: tuple[int, int]
    reason: str
    rows: int
    labelled: int
    values: int
    digest: str
    """SHA-256 over its rows: event ids, fates, outcomes, and what both sides had said."""


class Cell(msgspec.Struct, kw_only=True):
    """Pairs of one kind, and how many of them have a label."""

    pairs: int = 0
    labelled: int = 0


class GuardState(msgspec.Struct, kw_only=True):
    """A guardrail's process; of the score distribution the one in each direction."""

    up: GridState
    down: GridState | None = None


class GateState(msgspec.Struct, kw_only=True):
    """All that a gate remembers but the entities that are spent."""

    next_cohort: int
    primary: GridState
    harm: GridState
    """The same differences with the other sign: is the challenger worse, by more than the margin where there is one?"""
    guards: list[GuardState]
    wins: int = 0
    losses: int = 0
    """Units in which the mean difference was above, or below, 0."""
    waiting: tuple[Waiting, ...] = ()
    passed_over: int = 0
    coverage: dict[str, Cell] = {}
    """``champion:DECISION`` and ``disagree:CHAMPION,CHALLENGER`` -> cell; binary and multiclass."""
    everything: Cell = msgspec.field(default_factory=Cell)
    first_us: int | None = None
    last_us: int | None = None
    late: int = 0
    """Requests that were appended behind the position at which their cohort closed, as known then."""
    without_value: int = 0
    """Entities of closed cohorts that gave no value: spent before, or without a labelled pair."""
    cohorts: list[CohortRecord] = []


@dataclass(frozen=True, slots=True)
class Folded:
    """A new state, and the entities that it spent."""

    state: GateState
    spent: tuple[bytes, ...]
    served: tuple[bytes, ...]
    """Spent for the guardrails on service, which count every request, labelled or not."""
    values: NDArray[np.float64]
    """Differences that the gate's metric got, in order."""


def opened(spec: GateSpec, first_cohort: int) -> GateState:
    """A gate before its first cohort."""
    return GateState(
        next_cohort=first_cohort,
        primary=GridState(bound=spec.bound, margin=spec.margin),
        harm=GridState(bound=spec.bound + spec.margin, margin=0.0),
        guards=[_guard(spec, guard) for guard in spec.guardrails],
    )


def feature_columns(spec: GateSpec) -> tuple[str, ...]:
    """Columns of the lake's events that the guardrails' segments need."""
    found = {
        (STRING_PREFIX if isinstance(value, str) else NUMBER_PREFIX) + name
        for guard in spec.guardrails
        for name, value in guard.segment.items()
    }
    return tuple(sorted(found))


def fold(
    state: GateState,
    cohort: Cohort,
    spec: GateSpec,
    *,
    schemas: Mapping[str, EventSchema],
    spent: Container[bytes],
    served: Container[bytes],
) -> Folded:
    """Take in one closed cohort.

    Parameters
    ----------
    spent, served
        Keys of the entities that have given their value to the metrics, and to the guardrails on service.

    Returns
    -------
    Folded
        The given state is left as it was.
    """
    entities = cohort.rows["entity"].to_pylist()
    known = labelled(cohort)
    units = units_of(entities, known, spent)
    asked = any(guard.name in SERVICE_GUARDRAILS for guard in spec.guardrails)
    all_units = units_of(entities, _settled(cohort.rows) & asked, served)
    after = msgspec.structs.replace(
        state,
        next_cohort=cohort.number + 1,
        late=state.late + cohort.late,
        without_value=state.without_value + len(set(entities)) - len(units.keys),
        coverage={name: Cell(pairs=cell.pairs, labelled=cell.labelled) for name, cell in state.coverage.items()},
    )
    _count_coverage(after, cohort.rows, known)
    values = _primary_values(after, cohort, spec, units, schemas)
    after.primary = _updated(state.primary, values)
    after.harm = _updated(state.harm, -values - spec.margin)
    after.wins += int(np.count_nonzero(values > 0))
    after.losses += int(np.count_nonzero(values < 0))
    after.guards = [
        _guarded(guard_state, guard, cohort, spec, units=units, all_units=all_units, schemas=schemas)
        for guard_state, guard in zip(state.guards, spec.guardrails, strict=True)
    ]
    first = cohort.number * spec.cohort_us
    after.first_us = first if state.first_us is None else state.first_us
    after.last_us = first + spec.cohort_us
    record = CohortRecord(
        number=cohort.number,
        closed_at=cohort.closed_at,
        reason=cohort.reason,
        rows=cohort.rows.num_rows,
        labelled=int(np.count_nonzero(known)),
        values=len(values),
        digest=digest(cohort.rows),
    )
    after.cohorts = [*state.cohorts, record]
    return Folded(after, units.keys, all_units.keys, values)


def digest(rows: pa.Table) -> str:
    """SHA-256 of a cohort's rows, in their order; the same rows give the same digest on every machine."""
    hashed = hashlib.sha256()
    columns = (
        "segment", "row", "status", "swapped", "outcome", "labelled",
        "champion_score", "challenger_score", "champion_p_outcome", "challenger_p_outcome",
        "champion_label", "challenger_label", "answer_us", "shadow_us",
    )  # fmt: skip
    for segment, row, *rest in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        line: list[Any] = [event_id(segment, row), *rest]
        hashed.update(msgspec.json.encode(line) + b"\n")
    return hashed.hexdigest()


def _primary_values(
    state: GateState, cohort: Cohort, spec: GateSpec, units: Units, schemas: Mapping[str, EventSchema]
) -> NDArray[np.float64]:
    chosen = units.of_row >= 0
    rows = cohort.rows.filter(pa.array(chosen))
    if not rows.num_rows:
        return np.zeros(0)
    if spec.metric == "auc":
        # one row per entity: its first
        _, firsts = np.unique(units.of_row[chosen], return_index=True)
        ours, theirs = score_sides(rows)
        pairs = RankedPairs(state.waiting, state.passed_over)
        values = pairs.update(positives(rows)[firsts], ours[firsts], theirs[firsts])
        state.waiting, state.passed_over = pairs.waiting, pairs.passed_over
        return values
    found = differences(rows, spec.metric, task=spec.task, schemas=schemas, bound=spec.bound)
    return _clipped(Units(units.keys, units.of_row[chosen]).means(found.values), spec.bound)


def _guarded(
    state: GuardState,
    guard: Guardrail,
    cohort: Cohort,
    spec: GateSpec,
    *,
    units: Units,
    all_units: Units,
    schemas: Mapping[str, EventSchema],
) -> GuardState:
    of_service = guard.name in SERVICE_GUARDRAILS
    of_row = (all_units if of_service else units).of_row
    chosen = (of_row >= 0) & _in_segment(cohort.rows, guard.segment)
    rows = cohort.rows.filter(pa.array(chosen))
    if not rows.num_rows:
        return state
    # Of the units only those with a row in the segment: renumbered, in the order of their first such row.
    _, firsts, places = np.unique(of_row[chosen], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(firsts))
    part = Units(tuple(b"" for _ in firsts), rank[places].astype(np.int64))
    if of_service:
        slow = None if guard.slo_ms is None else guard.slo_ms * 1000
        values = service(rows, guard.name, slow_us=slow)  # type: ignore[arg-type]
    elif guard.name == SCORE_GUARDRAIL:
        ours, theirs = score_sides(rows)
        values = theirs - ours
    else:
        values = differences(rows, guard.name, task=spec.task, schemas=schemas, bound=guard.bound).values  # type: ignore[arg-type]
    bound = 1.0 if guard.name == SCORE_GUARDRAIL else state.up.bound
    means = _clipped(part.means(values), bound)
    if guard.name == SCORE_GUARDRAIL:
        # moved by more than the margin, up or down: the mean of D − margin is above 0
        down = state.down or state.up
        margin = guard.margin or 0.0
        return GuardState(up=_updated(state.up, means - margin), down=_updated(down, -means - margin))
    return GuardState(up=_updated(state.up, means if guard.kind == "non_inferior" else -means))


def _guard(spec: GateSpec, guard: Guardrail) -> GuardState:
    bound = spec.guard_bound(guard)
    if guard.name == SCORE_GUARDRAIL:
        return GuardState(up=GridState(bound=bound, margin=0.0), down=GridState(bound=bound, margin=0.0))
    margin = guard.margin or 0.0
    return GuardState(up=GridState(bound=bound, margin=margin if guard.kind == "non_inferior" else 0.0))


def _updated(state: GridState, values: NDArray[np.float64]) -> GridState:
    process = GridProcess.resumed(state)
    process.update(values)
    return process.state()


def _clipped(values: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    # a mean of values within the bound may leave it by a rounding
    return np.clip(values, -bound, bound)


def _settled(rows: pa.Table) -> NDArray[np.bool_]:
    return np.array([status is not None for status in rows["status"].to_pylist()], dtype=np.bool_)


def _in_segment(rows: pa.Table, segment: Mapping[str, float | bool | str]) -> NDArray[np.bool_]:
    chosen = np.ones(rows.num_rows, dtype=np.bool_)
    for name, wanted in segment.items():
        text = isinstance(wanted, str)
        column = rows[(STRING_PREFIX if text else NUMBER_PREFIX) + name].to_pylist()
        value = wanted if text else float(wanted)
        chosen &= np.array([each == value for each in column], dtype=np.bool_)
    return chosen


def _count_coverage(state: GateState, rows: pa.Table, known: NDArray[np.bool_]) -> None:
    paired = [status == "paired" for status in rows["status"].to_pylist()]
    ours, theirs = rows["said_champion"].to_pylist(), rows["said_challenger"].to_pylist()
    everything = Cell(pairs=state.everything.pairs, labelled=state.everything.labelled)
    for is_pair, champion, challenger, has_label in zip(paired, ours, theirs, known.tolist(), strict=True):
        if not is_pair:
            continue
        names = [f"champion:{champion}"] if champion is not None else []
        if challenger is not None and champion is not None and champion != challenger:
            names.append(f"disagree:{champion},{challenger}")
        for cell in (everything, *(state.coverage.setdefault(name, Cell()) for name in names)):
            cell.pairs += 1
            cell.labelled += has_label
    state.everything = everything
