"""Where a challenger is better and where it does harm: each value of a feature, with false discoveries bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shadow_mlops.comparison.sided import Features, labelled_rows
from shadow_mlops.comparison.units import differences
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import Task
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX
from shadow_mlops.statistics.bins import quantile_bins
from shadow_mlops.statistics.discoveries import e_benjamini_hochberg
from shadow_mlops.statistics.eprocess import GridProcess
from shadow_mlops.statistics.losses import Loss
from shadow_mlops.statistics.sequences import mean_interval

MOST_ROWS = 500_000
MOST_VALUES = 50
"""A feature with more distinct values is cut at its quartiles, or left out if it is text."""
FALSE_DISCOVERIES = 0.1
_QUARTILES = 4
_LEAST_ENTITIES = 20  # of fewer nothing can be shown, and naming them would only add to the number of questions
_ROWS = (
    "entity", "task", "schema", "swapped", "outcome", "target", "champion_score", "challenger_score", "champion_label",
    "challenger_label", "champion_scores", "challenger_scores", "champion_p_outcome", "challenger_p_outcome",
)  # fmt: skip
SegmentVerdict: TypeAlias = Literal["worse", "better", "undecided"]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs in which a feature has one value, or lies in one quarter of its range."""

    feature: str
    value: str
    pairs: int
    entities: int
    difference: float
    """Mean over entities of loss(champion) − loss(challenger): positive where the challenger is better."""
    interval: tuple[float, float] | None
    e_value_better: float
    e_value_worse: float
    verdict: SegmentVerdict
    """Named only where false discoveries among all segments are at most a tenth."""
    words: str


class Segments(msgspec.Struct, frozen=True, kw_only=True):
    """All segments, the most harmed first."""

    loss: Loss
    pairs: int
    """Labelled pairs that were looked at: the newest."""
    left_out: tuple[str, ...]
    """Features with too many texts to look at each."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class _Cut:
    feature: str
    values: tuple[str, ...]
    codes: NDArray[np.int64]
    """Place in ``values`` of each row, −1 for none."""


def segments(
    connection: Any,
    *,
    features: Features,
    task: Task,
    loss: Loss,
    bound: float | None,
    schemas: Mapping[str, EventSchema],
) -> Segments:
    """Compare the two sides of the view ``sided`` in each segment.

    Parameters
    ----------
    loss
        A loss of the task that each row has; not the AUC.
    bound
        Of an unbounded loss.
    """
    rows = labelled_rows(connection, (*_ROWS, *features.columns), MOST_ROWS)
    if not rows.num_rows:
        return Segments(loss=loss, pairs=0, left_out=(), segments=())
    found = differences(rows, loss, task=task, schemas=schemas, bound=bound)
    entities = pc.dictionary_encode(rows["entity"].combine_chunks()).indices.to_numpy(zero_copy_only=False)
    left_out: list[str] = []
    measured = [
        part
        for cut in _cuts(rows, features, left_out)
        for part in _measured(cut, entities.astype(np.int64), found.values, found.bound)
    ]
    worse = e_benjamini_hochberg(np.array([each.worse.log_e_value for each in measured]), FALSE_DISCOVERIES)
    better = e_benjamini_hochberg(np.array([each.better.log_e_value for each in measured]), FALSE_DISCOVERIES)
    told = [_told(*each, loss) for each in zip(measured, worse.tolist(), better.tolist(), strict=True)]
    told.sort(key=lambda segment: (segment.verdict != "worse", -segment.e_value_worse, segment.feature, segment.value))
    return Segments(loss=loss, pairs=rows.num_rows, left_out=tuple(left_out), segments=tuple(told))


@dataclass(frozen=True, slots=True)
class _Measured:
    feature: str
    value: str
    pairs: int
    better: GridProcess
    worse: GridProcess


def _cuts(rows: pa.Table, features: Features, left_out: list[str]) -> Iterator[_Cut]:
    for name in features.strings:
        encoded = pc.dictionary_encode(rows[STRING_PREFIX + name].combine_chunks(), null_encoding="encode")
        values = ["missing" if value is None else value for value in encoded.dictionary.to_pylist()]
        if len(values) > MOST_VALUES:
            left_out.append(name)
        elif len(values) > 1:
            yield _Cut(name, tuple(values), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))
    for name in features.numbers:
        column = rows[NUMBER_PREFIX + name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        distinct = np.unique(column[~np.isnan(column)])
        if len(distinct) <= MOST_VALUES:
            codes, words = np.searchsorted(distinct, column), [f"{value:g}" for value in distinct]
        else:
            bins = quantile_bins(column, _QUARTILES)
            codes, words = np.searchsorted(bins.edges, column, side="left"), list(bins.labels()[:-1])
        missing = np.isnan(column)
        codes = np.where(missing, len(words), codes).astype(np.int64)
        if len(words) + bool(missing.any()) > 1:
            yield _Cut(name, (*words, "missing"), codes)


def _measured(cut: _Cut, entities: NDArray[np.int64], values: NDArray[np.float64], bound: float) -> Iterator[_Measured]:
    order = np.argsort(cut.codes, kind="stable")
    borders = np.searchsorted(cut.codes[order], np.arange(len(cut.values) + 1))
    for place, name in enumerate(cut.values):
        chosen = order[borders[place] : borders[place + 1]]
        known, firsts, units = np.unique(entities[chosen], return_index=True, return_inverse=True)
        if len(known) < _LEAST_ENTITIES:
            continue
        means = np.bincount(units, weights=values[chosen]) / np.bincount(units)
        means = np.clip(means[np.argsort(firsts)], -bound, bound)  # one value per entity, by its first request
        better, worse = GridProcess(bound=bound), GridProcess(bound=bound)
        better.update(means)
        worse.update(-means)
        yield _Measured(cut.feature, name, len(chosen), better, worse)


def _told(measured: _Measured, harmed: bool, improved: bool, loss: Loss) -> Segment:
    process = measured.better
    verdict: SegmentVerdict = "worse" if harmed else "better" if improved else "undecided"
    metric = loss.replace("_", " ")
    where = f"where {measured.feature} is {measured.value}"
    sentences = {
        "worse": f"{where} the challenger is worse by {-process.mean:.4g} in {metric}",
        "better": f"{where} the challenger is better by {process.mean:.4g} in {metric}",
        "undecided": f"{where} {process.count:,} entities show no difference that holds",
    }
    return Segment(
        feature=measured.feature,
        value=measured.value,
        pairs=measured.pairs,
        entities=process.count,
        difference=process.mean,
        interval=mean_interval(process.mean, process.variance, process.count, process.nonzero, 0.05),
        e_value_better=process.e_value,
        e_value_worse=measured.worse.e_value,
        verdict=verdict,
        words=sentences[verdict],
    )
