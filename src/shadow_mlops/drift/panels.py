"""What is counted of live rows: the bins of one reference, laid out as one long vector of counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import EventSchema, Status
from shadow_mlops.domain.models import Task
from shadow_mlops.eventlog.records import EventBatch, Floats, ResultBatch, Strings
from shadow_mlops.models.reference import SCORE, score_of
from shadow_mlops.statistics.bins import FeatureBins, NumericBins
from shadow_mlops.statistics.profiles import Profile

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """What is counted of an event frame, or of some of its rows."""

    schema: EventSchema
    numbers: Floats
    strings: Strings
    scores: Floats

    @classmethod
    def of(cls, batch: EventBatch, places: Ints | None = None) -> Rows:
        """Rows of a batch: these, or all."""
        if places is None:
            return cls(batch.schema, batch.numbers, batch.strings, batch.scores)
        return cls(batch.schema, batch.numbers[places], batch.strings[places], batch.scores[places])


class Panel:
    """Features with their bins; a vector has the counts of all of them, one after the other.

    Parameters
    ----------
    bins
        Feature -> bins, ``__score__`` among them.
    version
        Registry version whose scores are counted as ``__score__``; those of others are not.
    """

    def __init__(self, bins: Mapping[str, FeatureBins], *, version: str) -> None:
        self.bins = dict(bins)
        self.version = version
        self._places: dict[str, slice] = {}
        start = 0
        for name, each in self.bins.items():
            size = len(_nothing(each))
            self._places[name] = slice(start, start + size)
            start += size
        self.size = start
        names = msgspec.json.encode([(name, place.stop) for name, place in self._places.items()])
        self.layout = hashlib.sha256(names).hexdigest()[:16]
        """Another one for other features or sizes."""

    def split(self, vector: Ints) -> dict[str, Ints]:
        """Feature -> its counts, views of the vector."""
        return {name: vector[place] for name, place in self._places.items()}

    def vector(self, profile: Profile) -> Ints:
        """The counts of a profile, where the panel has the feature."""
        vector = np.zeros(self.size, dtype=np.int64)
        for name, counts in zip(profile.features, profile.counts, strict=True):
            if name in self._places:
                vector[self._places[name]] = counts
        return vector

    def profile(self, vector: Ints, rows: int, names: Sequence[str]) -> Profile:
        """Some of the features as a profile."""
        return Profile(tuple(names), tuple(vector[self._places[name]] for name in names), rows)

    def present(self, vector: Ints) -> list[str]:
        """Features that have any row in the vector."""
        return [name for name, counts in self.split(vector).items() if counts.any()]

    def coarse(self, vector: Ints) -> list[Ints]:
        """For each feature the counts of its bins, as the e-detector takes them."""
        return [self.bins[name].coarse(counts) for name, counts in self.split(vector).items()]

    def add_events(self, vector: Ints, parts: Sequence[Rows]) -> None:
        """Count features of all rows, and the score of those that the panel's version has answered as champion."""
        runs: dict[int, list[Rows]] = {}
        for part in parts:  # by identity: each reader of a segment decodes a schema once, and comparing them costs more
            runs.setdefault(id(part.schema), []).append(part)
        for run in runs.values():
            schema = run[0].schema
            self._add(vector, schema.numbers, np.concatenate([part.numbers for part in run]), number=True)
            self._add(vector, schema.strings, np.concatenate([part.strings for part in run]), number=False)
            if schema.role == "champion" and schema.registry_version == self.version:
                self._add_scores(vector, schema.task, [part.scores for part in run])

    def add_results(self, vector: Ints, batches: Sequence[ResultBatch], task: Task) -> None:
        """Count the scores of a challenger's results, of the panel's version."""
        kept = [
            batch.scores[batch.statuses == Status.PAIRED]
            for batch in batches
            if batch.schema.registry_version == self.version
        ]
        if kept:
            self._add_scores(vector, task, kept)

    def _add_scores(self, vector: Ints, task: Task, scores: Sequence[Floats]) -> None:
        if SCORE in self._places:
            vector[self._places[SCORE]] += self.bins[SCORE].count(score_of(task, np.concatenate(scores)))

    def _add(self, vector: Ints, names: Sequence[str], columns: NDArray[np.generic], *, number: bool) -> None:
        for column, name in enumerate(names):
            bins = self.bins.get(name)
            if bins is not None and isinstance(bins, NumericBins) == number:
                vector[self._places[name]] += bins.count(np.ascontiguousarray(columns[:, column]))


def _nothing(bins: FeatureBins) -> Ints:
    return bins.count(np.zeros(0) if isinstance(bins, NumericBins) else np.zeros(0, dtype=object))
