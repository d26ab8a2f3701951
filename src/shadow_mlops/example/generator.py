"""The generator: customers, whether they left, when each was seen; drift and missing values on request."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.example.churn import churn_probability
from shadow_mlops.example.columns import ENTITY, FEATURES, NAMES, TARGET, Column
from shadow_mlops.example.customers import Columns, Floats, draw_customers

START = datetime(2026, 1, 1, tzinfo=UTC)
DRIFT_FEATURES = ("tenure", "monthly_charges", "num_support_tickets", "payment_method")
_MEAN_GAP_MICROSECONDS = 60e6  # a customer a minute: 1,440 a day, enough rows for the daily windows of drift checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Customers:
    """Drawn customers, column by column.

    Attributes
    ----------
    ids
        ``CUST-001`` and on, of length n.
    times
        int64 (n,): microseconds since 1970, UTC, ascending: when each was seen.
    features
        Feature -> float64 (n,) with NaN where missing, or object (n,) of str with None where missing, in the
        order of :data:`~shadow_mlops.example.columns.FEATURES`.
    probability
        float64 (n,): true probability of leaving.
    churned
        int64 (n,): 1 for those who left.
    """

    ids: list[str]
    times: NDArray[np.int64]
    features: Columns
    probability: Floats
    churned: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def signature(self) -> Signature:
        """The 25 features with their kinds."""
        return Signature(tuple(Feature(column.name, column.kind) for column in FEATURES))

    @property
    def bayes_accuracy(self) -> float:
        """Accuracy, in expectation, of the best decision that the features allow."""
        return float(np.maximum(self.probability, 1 - self.probability).mean())

    def requests(self) -> Iterator[dict[str, str | int | float | None]]:
        """Each customer as the body of a ``/predict`` request: entity, then features, None where missing."""
        columns = [_plain(column, self.features[column.name]) for column in FEATURES]
        for customer, *values in zip(self.ids, *columns, strict=True):
            yield {ENTITY: customer, **dict(zip(NAMES, values, strict=True))}

    def columns(self) -> dict[str, list[str] | list[str | int | float | None] | list[int]]:
        """Entity, features and target as plain lists, ready for a table or a file."""
        features = {column.name: _plain(column, self.features[column.name]) for column in FEATURES}
        return {ENTITY: self.ids, **features, TARGET: self.churned.tolist()}


def _plain(column: Column, values: NDArray[Any]) -> list[str | int | float | None]:
    if column.kind == "string":
        return values.tolist()
    kind = float if column.kind == "number" else int
    return [None if math.isnan(value) else kind(value) for value in values.tolist()]


def generate(
    rows: int,
    *,
    seed: int,
    drift: float = 0.0,
    drift_features: Sequence[str] | None = None,
    concept_drift: float = 0.0,
    missing: float = 0.0,
    start: datetime = START,
    first_id: int = 1,
) -> Customers:
    """Draw customers of a telecom and whether they left.

    Parameters
    ----------
    rows
        How many customers, at least 1.
    seed
        The same seed and arguments give the same customers.
    drift
        Covariate drift: 0 none, 1 moves each quantity by about one standard deviation and about 40 % of the
        rows of a category to one value. What leads to churn stays as it is.
    drift_features
        Which features drift, and no others; None takes :data:`DRIFT_FEATURES`.
    concept_drift
        0 none to 1: the reasons for leaving change, the customers do not.
    missing
        Chance of each value to be missing, in [0, 1).
    start
        Time of the first customer; the others follow a minute apart on average.
    first_id
        Number of the first customer's id, so that a second draw can go on where the first ended.

    Raises
    ------
    TrainingError
        If an argument is out of its range or a feature is unknown.

    Examples
    --------
    >>> customers = generate(1000, seed=7)
    >>> customers.ids[0], len(customers.features), 0.1 < customers.churned.mean() < 0.4
    ('CUST-001', 25, True)
    """
    drifting = DRIFT_FEATURES if drift_features is None else tuple(drift_features)
    _check(rows, drift, concept_drift, missing, drifting)
    # Streams of their own: switching drift or missing values on leaves every other draw as it was.
    base, label, shift, gaps, holes = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5))
    drawn = draw_customers(base, rows)
    features = {column.name: drawn[column.name] for column in FEATURES}
    for column in FEATURES:
        if drift > 0 and column.name in drifting:
            features[column.name] = _drifted(column, features[column.name], drift, shift)
    probability = churn_probability(features, concept_drift=concept_drift)
    churned = (label.random(rows) < probability).astype(np.int64)
    times = round(start.timestamp() * 1e6) + np.cumsum(gaps.exponential(_MEAN_GAP_MICROSECONDS, rows)).astype(np.int64)
    if missing > 0:
        features = {name: _with_holes(values, missing, holes) for name, values in features.items()}
    ids = [f"CUST-{number:03d}" for number in range(first_id, first_id + rows)]
    return Customers(ids=ids, times=times, features=features, probability=probability, churned=churned)


def _check(rows: int, drift: float, concept_drift: float, missing: float, drifting: Sequence[str]) -> None:
    if rows < 1:
        raise TrainingError(f"rows must be at least 1, not {rows}")
    if drift < 0 or not 0 <= concept_drift <= 1 or not 0 <= missing < 1:
        raise TrainingError("drift must be >= 0, concept_drift in [0, 1] and missing in [0, 1)")
    if unknown := sorted(set(drifting) - set(NAMES)):
        raise TrainingError(f"no such features: {', '.join(unknown)}; the features are {', '.join(NAMES)}")


def _drifted(column: Column, values: NDArray[Any], drift: float, rng: np.random.Generator) -> NDArray[Any]:
    if column.step == 0:
        moved = rng.random(len(values)) < 1 - np.exp(-drift / 2)
        return np.where(moved, column.towards, values).astype(values.dtype)
    shifted = np.clip(values + drift * column.step, column.low, column.high)
    if column.kind == "integer":
        # Rounding to nearest would swallow a small drift of a count whole.
        return np.clip(np.floor(shifted + rng.random(len(values))), column.low, column.high)
    return np.round(shifted, 2)


def _with_holes(values: NDArray[Any], rate: float, rng: np.random.Generator) -> NDArray[Any]:
    empty: Any = None if values.dtype == object else np.nan
    return np.where(rng.random(len(values)) < rate, empty, values).astype(values.dtype)
