"""From the columns of an event frame to the columns that a model expects, by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.features import Signature
from shadow_mlops.eventlog.records import EventBatch, Floats, Strings


@dataclass(frozen=True, slots=True)
class Binding:
    """Where each feature of a signature stands in the events of one schema; -1 where the events lack it.

    Attributes
    ----------
    numbers, strings
        intp (features of that sort,): column of the event batch.
    """

    numbers: NDArray[np.intp]
    strings: NDArray[np.intp]

    def columns(self, batch: EventBatch, rows: NDArray[np.bool_]) -> tuple[Floats, Strings]:
        """The chosen rows as the model expects them; a feature that the events lack is missing."""
        return self.arranged(batch.numbers[rows], batch.strings[rows])

    def arranged(self, numbers: Floats, strings: Strings) -> tuple[Floats, Strings]:
        """Columns of the events' schema as the model expects them; a feature that the events lack is missing."""
        wanted_numbers = np.full((len(numbers), len(self.numbers)), np.nan)
        wanted_strings = np.full((len(numbers), len(self.strings)), None, dtype=np.object_)
        here = self.numbers >= 0
        wanted_numbers[:, here] = numbers[:, self.numbers[here]]
        here = self.strings >= 0
        wanted_strings[:, here] = strings[:, self.strings[here]]
        return wanted_numbers, wanted_strings


def bind(schema: EventSchema, signature: Signature) -> Binding:
    """Find the signature's features in the schema.

    A feature that the events carry in the other sort of column (a number where the model wants text)
    counts as absent.

    Examples
    --------
    >>> from shadow_mlops.domain.features import Feature
    >>> schema = EventSchema(deployment="d", task="binary", model="m", version="1", registry_version="1",
    ...                      numbers=("age", "tenure"), strings=(), outputs=("0", "1"))
    >>> bind(schema, Signature((Feature("tenure"), Feature("new")))).numbers.tolist()
    [1, -1]
    """
    return Binding(_places(schema.numbers, signature.numbers), _places(schema.strings, signature.strings))


def _places(offered: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.intp]:
    place = {name: index for index, name in enumerate(offered)}
    return np.array([place.get(name, -1) for name in wanted], dtype=np.intp)
