"""What every feature store is to the platform: two ways of reading."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeAlias

Value: TypeAlias = float | int | str | None
"""None: the store holds a missing value."""


class Held(IntEnum):
    """What a store has of one feature of one entity."""

    ABSENT = 0
    """Nothing."""
    FRESH = 1
    EXPIRED = 2
    """A value that is older than its feature may be; it is not given."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Features of n entities.

    Attributes
    ----------
    names
        The k features, in the order of the columns.
    values
        n rows of k values; None wherever ``held`` is not FRESH.
    held
        n rows of k :class:`Held`.
    times
        n rows of k event times, microseconds since 1970, UTC; 0 where nothing is held, or where the store does not say.
    """

    names: tuple[str, ...]
    values: list[list[Value]]
    held: list[bytes]
    times: list[list[int]]

    def __len__(self) -> int:
        return len(self.values)


class FeatureStore(Protocol):
    """Where features are kept. A feature that the store does not know is held by none of its entities."""

    @property
    def declared(self) -> AbstractSet[str]:
        """Features that there are."""
        ...

    def online(self, names: Sequence[str], keys: Sequence[str]) -> Vectors:
        """The newest values.

        Parameters
        ----------
        names
            Features.
        keys
            n entities; one may come more than once.

        Returns
        -------
        Vectors
            n rows, in the order of the keys.

        Raises
        ------
        UnavailableError
            If the store does not answer.
        """
        ...

    def history(self, names: Sequence[str], keys: Sequence[str], times: Sequence[int]) -> Vectors:
        """The values as they were known at a time: of each feature the newest whose event time is not after it.

        Parameters
        ----------
        names
            Features.
        keys
            n entities.
        times
            n moments, microseconds since 1970, UTC.

        Returns
        -------
        Vectors
            n rows, in the order of the keys, whatever the order of the times.

        Raises
        ------
        UnavailableError
            If the store does not answer.
        """
        ...
