"""Requests as columns, and where each value came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import Problem
from shadow_mlops.domain.events import NO_AGE, Origin
from shadow_mlops.domain.features import Kind

MAX_TEXT = 1000  # characters; the longest category names in public tabular data sets stay below 300
LARGEST = float(np.finfo(np.float32).max)  # models compute in float32: beyond it a number would arrive as infinity


@dataclass(frozen=True, slots=True)
class Columns:
    """Requests as columns, ready for a model; rows with a problem are named beside.

    Attributes
    ----------
    numbers
        float64 (n, numbers), defaults filled in.
    strings
        object (n, strings), defaults filled in.
    origins
        uint8 (n, numbers + strings); None when every value came from its request.
    problems
        Row -> what is wrong with it; such a row must not be answered.
    """

    numbers: NDArray[np.float64]
    strings: NDArray[np.object_]
    origins: NDArray[np.uint8] | None
    problems: dict[int, list[Problem]]
    ages: NDArray[np.uint32] | None = None
    """Seconds (n, numbers + strings) between a stored value's event and its reading, NO_AGE where there is none; None:
    nothing was found in a feature store."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a feature store did for one request.

    Attributes
    ----------
    columns
        Places, among numbers and then strings, whose values are the store's.
    ages
        Place -> seconds since the value's event; of values too old to be used too.
    fallen_back
        Places left to their defaults because the store could not be asked.
    """

    columns: tuple[int, ...] = ()
    ages: tuple[tuple[int, int], ...] = ()
    fallen_back: tuple[int, ...] = ()


def with_stored(columns: Columns, origins: NDArray[np.uint8], stored: Sequence[Stored | None]) -> Columns:
    """Columns whose origins, and ages, tell of the store too."""
    ages = np.full(origins.shape, NO_AGE, dtype=np.uint32)
    for row, each in enumerate(stored):
        if each is None:
            continue
        origins[row, list(each.columns)] = Origin.STORE
        origins[row, list(each.fallen_back)] = Origin.FALLBACK
        for place, seconds in each.ages:
            ages[row, place] = min(seconds, NO_AGE - 1)
    return replace(columns, origins=origins, ages=ages if (ages != NO_AGE).any() else None)


def fits(kind: Kind, value: object) -> bool:
    """Whether a value from elsewhere is one that a request could have sent for a feature of that kind.

    >>> fits("integer", 2.0), fits("integer", 2.5), fits("number", "2"), fits("string", None)
    (True, False, False, True)
    """
    if value is None:
        return True
    if kind == "string":
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return False
    if kind == "boolean":
        return value in {0, 1}
    return kind != "integer" or float(value).is_integer()
