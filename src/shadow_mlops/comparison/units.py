"""What a closed cohort gives to a gate: one value per entity, ever."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shadow_mlops.comparison.cohorts import Cohort
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import Task
from shadow_mlops.lake.labelnames import plain_label
from shadow_mlops.statistics import losses
from shadow_mlops.statistics.losses import Differences, Loss

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Service: TypeAlias = Literal["errors", "timeouts", "latency"]


def entity_key(entity: str) -> bytes:
    """16 bytes that stand for an entity in the table of spent ones.

    >>> len(entity_key("CUST-1"))
    16
    """
    return hashlib.blake2b(entity.encode("utf-8", "surrogatepass"), digest_size=16, person=b"shadow.spent").digest()


@dataclass(frozen=True, slots=True)
class Units:
    """Entities that a cohort has and that were not spent before, in the order of their first request.

    Attributes
    ----------
    keys
        :func:`entity_key` of each, length u.
    of_row
        int64 (n,): unit of each of the cohort's rows; −1 where it gives none (spent before, or no row that counts).
    """

    keys: tuple[bytes, ...]
    of_row: NDArray[np.int64]

    def means(self, values: Floats) -> Floats:
        """Mean of the rows' values in each unit, float64 (u,)."""
        use = self.of_row >= 0
        totals = np.bincount(self.of_row[use], weights=values[use], minlength=len(self.keys))
        counts = np.bincount(self.of_row[use], minlength=len(self.keys))
        means: Floats = totals / counts
        return means


def units_of(entities: list[str], counting: Bools, spent: Container[bytes]) -> Units:
    """Cut rows into units.

    Parameters
    ----------
    entities
        Of n rows, in the order of the log.
    counting
        bool (n,): rows that have a value.
    spent
        Keys of entities that have given their value already.

    Examples
    --------
    >>> units_of(["a", "b", "a"], np.array([True, False, True]), set()).of_row.tolist()
    [0, -1, 0]
    """
    places: dict[bytes, int] = {}
    of_row = np.full(len(entities), -1, dtype=np.int64)
    for row in np.flatnonzero(counting).tolist():
        key = entity_key(entities[row])
        if key in places:
            of_row[row] = places[key]
        elif key not in spent:
            of_row[row] = places[key] = len(places)
    return Units(tuple(places), of_row)


def labelled(cohort: Cohort) -> Bools:
    """Rows of a cohort whose shadow answered and whose label came in time, bool (n,)."""
    return np.asarray(cohort.rows["labelled"].to_numpy(zero_copy_only=False), dtype=np.bool_)


def differences(
    rows: pa.Table, loss: Loss, *, task: Task, schemas: Mapping[str, EventSchema], bound: float | None = None
) -> Differences:
    """loss(champion) − loss(challenger) of labelled rows.

    Parameters
    ----------
    rows
        As :class:`~shadow_mlops.comparison.cohorts.Cohort` has them, all labelled.
    loss
        One that the task has; areas are made by :class:`~shadow_mlops.statistics.ranking.RankedPairs`.
    schemas
        Hash -> schema of the events, for the decision's threshold and the names of classes.
    bound
        Declared bound of an unbounded loss.
    """
    ours, theirs = _sides(rows, "p_outcome")
    if loss == "accuracy":
        return losses.of_decisions(*_decisions(rows, task, schemas))
    if loss == "log_loss":
        return losses.of_log_loss(ours, theirs)
    if loss == "brier" and task == "binary":
        return losses.of_brier(*_sides(rows, "score"), _numbers(rows, "target"))
    if loss == "brier":
        matrices = [_matrix(rows, f"{side}_scores") for side in ("champion", "challenger")]
        return losses.of_multiclass_brier(matrices[0], ours, matrices[1], theirs)
    declared = losses.bound_of(loss, declared=bound)
    return losses.of_errors(
        *_sides(rows, "score"), _numbers(rows, "target"), bound=declared, squared=loss == "squared_error"
    )


def service(rows: pa.Table, kind: Service, *, slow_us: float | None = None) -> Floats:
    """What serving cost, champion minus challenger, in [−1, 1], of all rows whose fate is known.

    ``errors``: the challenger failed or was shed; ``timeouts``: it did not answer in time; ``latency``: a side took
    longer than ``slow_us``. The champion answered every row that is in the log.
    """
    status = rows["status"].to_pylist()
    if kind == "errors":
        return np.array([-1.0 if each in {"errored", "shed"} else 0.0 for each in status])
    if kind == "timeouts":
        return np.array([-1.0 if each == "timed_out" else 0.0 for each in status])
    swapped = rows["swapped"].to_numpy(zero_copy_only=False).astype(np.bool_)
    answer, shadow = _numbers(rows, "answer_us"), _numbers(rows, "shadow_us")
    slow = np.inf if slow_us is None else slow_us
    champion = np.where(swapped, shadow, answer) > slow
    challenger = np.where(swapped, answer, shadow) > slow
    values: Floats = champion.astype(np.float64) - challenger.astype(np.float64)
    return values


def positives(rows: pa.Table) -> Bools:
    """Whether the positive class came true, bool (n,); binary."""
    return np.asarray(_numbers(rows, "target") == 1.0, dtype=np.bool_)


def score_sides(rows: pa.Table) -> tuple[Floats, Floats]:
    """Champion's and challenger's scores, float64 (n,) each; binary and regression."""
    return _sides(rows, "score")


def _decisions(rows: pa.Table, task: Task, schemas: Mapping[str, EventSchema]) -> tuple[Bools, Bools]:
    if task == "binary":
        thresholds = np.array([schemas[key].threshold for key in rows["schema"].to_pylist()])
        came_true = positives(rows)
        ours, theirs = _sides(rows, "score")
        return (ours >= thresholds) == came_true, (theirs >= thresholds) == came_true
    truth = [plain_label(text) for text in rows["outcome"].to_pylist()]
    return (_named(rows, "champion_label", truth), _named(rows, "challenger_label", truth))


def _named(rows: pa.Table, column: str, truth: list[str]) -> Bools:
    return np.array(
        [
            name is not None and plain_label(name) == wanted
            for name, wanted in zip(rows[column].to_pylist(), truth, strict=True)
        ],
        dtype=np.bool_,
    )


def _sides(rows: pa.Table, what: str) -> tuple[Floats, Floats]:
    return _numbers(rows, f"champion_{what}"), _numbers(rows, f"challenger_{what}")


def _numbers(rows: pa.Table, column: str) -> Floats:
    values: Floats = rows[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _matrix(rows: pa.Table, column: str) -> Floats:
    return np.array(rows[column].to_pylist(), dtype=np.float64).reshape(rows.num_rows, -1)
