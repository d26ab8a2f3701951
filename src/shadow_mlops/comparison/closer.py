"""A closer look at a challenger: its segments, and where it disagrees with the champion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from shadow_mlops.comparison.disagreements import disagreements
from shadow_mlops.comparison.report import Challenger
from shadow_mlops.comparison.segments import segments
from shadow_mlops.comparison.sided import features_of, open_sided
from shadow_mlops.domain.deployment import GATE_METRICS, UNBOUNDED_METRICS
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.statistics.losses import Loss

LISTED = 20
"""Disagreements of each list, as commands and routes show them."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is asked for.

    Attributes
    ----------
    segments
        Compare in each segment.
    disagreements
        How many of the largest, and of the most frequent, to list; 0: none.
    loss
        What segments are compared in; None, and what a single row of the task does not have: the task's first.
    bound
        Of an unbounded loss: larger ones count as this. Without it a regression has no segments.
    """

    segments: bool = False
    disagreements: int = 0
    loss: str | None = None
    bound: float | None = None

    def closer(
        self, connection: Any, champion: str, schemas: Mapping[str, EventSchema]
    ) -> Callable[[Challenger], Challenger]:
        """How a challenger of this champion is looked at.

        Parameters
        ----------
        connection
            DuckDB connection with the views of a window and the macro ``plain_label``.
        """
        features = features_of(connection)

        def looked_at(challenger: Challenger) -> Challenger:
            if not challenger.pairs or challenger.version is None or challenger.noise_floor:
                return challenger
            open_sided(connection, champion, challenger.version, features)
            found = None
            loss = self._loss(challenger)
            if self.segments and loss is not None:
                found = segments(
                    connection, features=features, task=challenger.task, loss=loss, bound=self.bound, schemas=schemas
                )
            apart = None
            if self.disagreements:
                apart = disagreements(connection, features=features, task=challenger.task, most=self.disagreements)
            return msgspec.structs.replace(challenger, segments=found, disagreements=apart)

        return looked_at

    def _loss(self, challenger: Challenger) -> Loss | None:
        known = [name for name in GATE_METRICS[challenger.task] if name != "auc"]
        wanted = self.loss if self.loss in known else known[0]
        return None if wanted in UNBOUNDED_METRICS and self.bound is None else cast("Loss", wanted)
