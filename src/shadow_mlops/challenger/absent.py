"""What events lack because nobody looked for it at the time: a challenger came later, or only challengers take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import EventSchema, Origin
from shadow_mlops.domain.features import Signature
from shadow_mlops.eventlog.records import EventBatch, Strings


@dataclass(frozen=True, slots=True)
class Absent:
    """The values that m rows lack, and what is needed to look for them.

    Attributes
    ----------
    cells
        bool (m, features of the signature, numbers first): nobody has looked for that value of that row yet.
    entities
        object (m,): text, or None. A row without an entity lacks nothing that could be looked for.
    times
        int64 (m,): when the events happened, microseconds since 1970, UTC.
    """

    cells: NDArray[np.bool_]
    entities: Strings
    times: NDArray[np.int64]

    def of(self, rows: NDArray[np.intp]) -> Absent:
        """The same of some rows, in their order."""
        return Absent(self.cells[rows], self.entities[rows], self.times[rows])


def absent_in(batches: Sequence[EventBatch], sampled: Sequence[NDArray[np.bool_]], signature: Signature) -> Absent:
    """What the sampled rows of event batches lack of a signature.

    Parameters
    ----------
    sampled
        For each batch bool (n,): which of its rows.
    """
    cells = [np.zeros((0, len(signature.numbers) + len(signature.strings)), dtype=np.bool_)]
    entities: list[str | None] = []
    times = [np.zeros(0, dtype=np.int64)]
    masks = iter(sampled)
    # Neighbours of one schema at once: a quiet day's frames have one row.
    for schema, neighbours in groupby(batches, key=lambda batch: batch.schema):
        run = list(neighbours)
        chosen = np.concatenate([next(masks) for _ in run])
        origins = _origins(run)
        cells.append(absent_cells(schema, signature, int(chosen.sum()), None if origins is None else origins[chosen]))
        entities += chain.from_iterable(batch.entities for batch in run)
        times += [batch.times for batch in run]
    mask = np.concatenate([np.zeros(0, dtype=np.bool_), *sampled])
    who = np.array(entities, dtype=np.object_)[mask]
    return Absent(without_unknown(np.concatenate(cells), who), who, np.concatenate(times)[mask])


def absent_cells(
    schema: EventSchema, signature: Signature, count: int, origins: NDArray[np.uint8] | None
) -> NDArray[np.bool_]:
    """Which values of rows of one schema nobody has looked for, bool (count, features of the signature).

    Parameters
    ----------
    origins
        uint8 (count, features of the schema); None: all from the request.
    """
    place = {name: at for at, name in enumerate((*schema.numbers, *schema.strings))}
    names = (*signature.numbers, *signature.strings)
    # What an event's schema lacks was not asked of anybody: the challenger came later.
    cells = np.tile(np.array([name not in place for name in names], dtype=np.bool_), (count, 1))
    if origins is not None and (origins == Origin.ABSENT).any():
        for column, name in enumerate(names):
            if name in place:
                cells[:, column] = origins[:, place[name]] == Origin.ABSENT
    return cells


def without_unknown(cells: NDArray[np.bool_], entities: Strings) -> NDArray[np.bool_]:
    """The same cells, in place, without those of rows that have no entity: there is nobody to look for."""
    if cells.any():
        cells[[entity is None for entity in entities.tolist()]] = False
    return cells


def _origins(run: Sequence[EventBatch]) -> NDArray[np.uint8] | None:
    if all(batch.origins is None for batch in run):
        return None
    width = len(run[0].schema.numbers) + len(run[0].schema.strings)
    sent = np.full((1, width), Origin.REQUEST, dtype=np.uint8)
    return np.concatenate([sent.repeat(len(b), axis=0) if b.origins is None else b.origins for b in run])
