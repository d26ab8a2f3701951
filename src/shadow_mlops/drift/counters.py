"""The rows of the two kinds of streams: events, with their features and the champion's score, and shadow results."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import Task
from shadow_mlops.drift.livestate import ChampionState, Identity
from shadow_mlops.drift.panels import Panel, Rows
from shadow_mlops.eventlog.records import EventBatch, ResultBatch
from shadow_mlops.eventlog.seam import Frame
from shadow_mlops.models.reference import SCORE, ReferenceProfile

Ints = NDArray[np.int64]
MOST_ENTITIES = 100_000
"""Entities of a bucket that are remembered; rows of more are left out and counted."""


class EventCounter:
    """Events: features of all rows, the score of those that the version in force has answered.

    Parameters
    ----------
    unchecked
        Features that are left out.
    once
        Count only the first row of an entity in a bucket; rows without an entity count.
    """

    def __init__(self, state: ChampionState, *, unchecked: Collection[str], once: bool) -> None:
        self._state = state
        self._unchecked = frozenset(unchecked)
        self._once = once
        self._kept: list[Rows] = []
        self._entities: set[str] = set()
        self._capped = 0
        self._schema: EventSchema | None = None
        self._identity: Identity | None = None

    def identity(self, frame: Frame) -> Identity | None:
        """The champion that answered; None in a canary step, where a challenger did."""
        schema = _events(frame).schema
        if schema is not self._schema:  # a reader decodes it once for many frames
            self._schema, self._identity = schema, _champion(schema)
        return self._identity

    def panel(self, profile: ReferenceProfile, identity: Identity) -> Panel:
        """All features of the reference that are to be checked."""
        bins = {name: each for name, each in profile.bins.items() if name not in self._unchecked}
        return Panel(bins, version=identity.registry_version)

    def collect(self, frame: Frame) -> int:
        """Keep the rows of a frame, or the first ones of their entities."""
        batch = _events(frame)
        if not self._once:
            self._kept.append(Rows.of(batch))
            return len(batch)
        places = self._first_rows(batch.entities)
        self._kept.append(Rows.of(batch, places))
        return len(places)

    def count(self, panel: Panel, vector: Ints) -> None:
        """Count what was kept."""
        panel.add_events(vector, self._kept)
        self._kept = []

    def discard(self) -> None:
        """Drop what was kept."""
        self._kept = []

    def begin(self) -> None:
        """A new bucket, with all entities new."""
        self._state.capped += self._capped
        self._kept, self._entities, self._capped = [], set(), 0

    def _first_rows(self, entities: list[str | None]) -> Ints:
        places = []
        for place, entity in enumerate(entities):
            if entity is None:
                places.append(place)
            elif entity not in self._entities:
                if len(self._entities) >= MOST_ENTITIES:
                    self._capped += 1
                    continue
                self._entities.add(entity)
                places.append(place)
        return np.array(places, dtype=np.int64)


class ResultCounter:
    """Results of one challenger: its scores.

    Parameters
    ----------
    task
        Of the deployment.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kept: list[ResultBatch] = []

    def identity(self, frame: Frame) -> Identity | None:
        """The version that scored."""
        schema = _results(frame).schema
        return Identity(
            model=schema.model, version=schema.version, registry_version=schema.registry_version, task=self._task
        )

    def panel(self, profile: ReferenceProfile, identity: Identity) -> Panel:
        """The score alone: the rows are the champion's rows."""
        bins = {SCORE: profile.bins[SCORE]} if SCORE in profile.bins else {}
        return Panel(bins, version=identity.registry_version)

    def collect(self, frame: Frame) -> int:
        """Keep the results of a frame; those of shed spans are none."""
        batch = _results(frame)
        self._kept.append(batch)
        return len(batch)

    def count(self, panel: Panel, vector: Ints) -> None:
        """Count what was kept."""
        panel.add_results(vector, self._kept, self._task)
        self._kept = []

    def discard(self) -> None:
        """Drop what was kept."""
        self._kept = []

    def begin(self) -> None:
        """A new bucket."""
        self._kept = []


def _champion(schema: EventSchema) -> Identity | None:
    if schema.role != "champion":
        return None
    return Identity(
        model=schema.model, version=schema.version, registry_version=schema.registry_version, task=schema.task
    )


def _events(frame: Frame) -> EventBatch:
    assert isinstance(frame.batch, EventBatch)  # noqa: S101 - the stream has no others
    return frame.batch


def _results(frame: Frame) -> ResultBatch:
    assert isinstance(frame.batch, ResultBatch)  # noqa: S101 - the stream has no others
    return frame.batch
