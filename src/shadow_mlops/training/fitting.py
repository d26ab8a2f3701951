"""Training: split, fit, measure."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import Task
from shadow_mlops.models.rows import as_frame, table_rows
from shadow_mlops.training.dataset import Dataset
from shadow_mlops.training.metrics import held_out_metrics
from shadow_mlops.training.pipelines import ModelKind, build

log = structlog.get_logger()

MAX_REFERENCE_ROWS = 100_000
# Threads of OpenMP wait by spinning: on busy cores 30,000 rows take 20 to 39 s with two threads and 3 s with one.
_ROWS_WORTH_THREADS = 200_000


@dataclass(frozen=True)
class Split:
    """A dataset and which of its rows are held out.

    Attributes
    ----------
    train, held_out
        Row numbers, int64, ascending, disjoint.
    """

    data: Dataset
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @cached_property
    def train_frame(self) -> pd.DataFrame:
        """Features of the training rows."""
        return frame(self.data.table.take(pa.array(self.train)), self.data.signature)

    @cached_property
    def held_out_frame(self) -> pd.DataFrame:
        """Features of the held-out rows."""
        return frame(self.data.table.take(pa.array(self.held_out)), self.data.signature)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of all the data, entity and target included."""
        return data_hash(self.data.table)

    def reference(self, seed: int) -> pa.Table:
        """Training rows, at most 100,000, in their order: entity, features and target."""
        chosen = self.train
        if len(chosen) > MAX_REFERENCE_ROWS:
            drawn = np.random.default_rng(seed).choice(chosen, MAX_REFERENCE_ROWS, replace=False)
            chosen = np.sort(drawn)
        return self.data.table.take(pa.array(chosen)).combine_chunks()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A fitted pipeline and what is to be registered with it.

    Attributes
    ----------
    estimator
        scikit-learn Pipeline that takes a DataFrame with the signature's columns in order.
    metrics
        On held-out rows.
    reference
        Sample of the training rows: entity, features, target.
    data_hash
        SHA-256 of the data, training and held-out rows together.
    params
        How it was trained.
    """

    estimator: Any
    signature: Signature
    task: Task
    classes: tuple[str, ...]
    metrics: dict[str, float]
    reference: pa.Table
    data_hash: str
    kind: ModelKind
    params: dict[str, str]


def split(data: Dataset, *, seed: int, held_out: float = 0.25) -> Split:
    """Hold rows out, each class in proportion.

    Parameters
    ----------
    held_out
        Share of the rows, or how many.

    Raises
    ------
    TrainingError
        If too few rows are left on either side.
    """
    everything = np.arange(len(data))
    strata = None if data.task == "regression" else data.target_values
    try:
        train, held = train_test_split(everything, test_size=held_out, random_state=seed, stratify=strata)
    except ValueError as error:
        raise TrainingError(f"{held_out} of {len(data)} rows cannot be held out: {error}") from error
    return Split(data, np.sort(train), np.sort(held))


def fit(rows: Split, *, kind: ModelKind, seed: int) -> TrainedModel:
    """Fit one model on the training rows and measure it on the held-out ones.

    Parameters
    ----------
    kind
        ``linear`` or ``boosting``.
    seed
        The same seed, data and library versions give the same model.
    """
    data = rows.data
    estimator = build(kind, data.signature, data.task, rows.train_frame, seed)
    threads = 1 if len(rows.train) < _ROWS_WORTH_THREADS else None
    with threadpool_limits(threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(rows.train_frame, data.target_values[rows.train])
    if any(issubclass(each.category, ConvergenceWarning) for each in caught):
        log.warning("the optimiser stopped before it converged", kind=kind)
    return TrainedModel(
        estimator=estimator,
        signature=data.signature,
        task=data.task,
        classes=data.classes,
        metrics=held_out_metrics(
            data.task,
            data.target_values[rows.held_out],
            scores(estimator, rows.held_out_frame, data.task),
            [] if data.task == "regression" else estimator.classes_.tolist(),
            data.positive,
        ),
        reference=rows.reference(seed),
        data_hash=rows.data_hash,
        kind=kind,
        params={
            "kind": kind,
            "estimator": type(estimator[-1]).__name__,
            "seed": str(seed),
            "target": data.target,
            "train_rows": str(len(rows.train)),
            "held_out_rows": str(len(rows.held_out)),
        },
    )


def scores(estimator: Any, features: pd.DataFrame, task: Task) -> NDArray[np.float64]:
    """Probabilities (rows, classes), or predictions (rows, 1) of a regression."""
    if task == "regression":
        return np.asarray(estimator.predict(features), dtype=np.float64).reshape(-1, 1)
    return np.asarray(estimator.predict_proba(features), dtype=np.float64)


def frame(table: pa.Table, signature: Signature) -> pd.DataFrame:
    """The features of a table as pipelines take them: exactly what a runtime makes of the same rows."""
    return as_frame(signature, table_rows(table, signature))


def data_hash(table: pa.Table) -> str:
    """SHA-256 of the names, types and values of a table, whatever its chunks and the version of Arrow.

    >>> data_hash(pa.table({"a": [1.0, None]})) == data_hash(pa.table({"a": [1.0, 0.0]}))
    False
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name]
        digest.update(f"{name}\0{column.type}\0{len(column)}\0".encode())
        digest.update(pc.is_null(column).cast(pa.uint8()).to_numpy().tobytes())
        if pa.types.is_string(column.type):
            digest.update(pc.binary_length(column).fill_null(0).to_numpy().astype("<i4").tobytes())
            digest.update("".join(text or "" for text in column.to_pylist()).encode())
        else:
            digest.update(column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy().astype("<f8").tobytes())
    return digest.hexdigest()
