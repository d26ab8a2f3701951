"""A feature store in this process: for tests, and for who has few entities."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence

from shadow_mlops.features.seam import Held, Value, Vectors

_HIGHEST = 2**63 - 1


class MemoryFeatures:
    """Keeps every value that was written, with its event time and the order of writing.

    Parameters
    ----------
    ttl
        Feature -> microseconds after which a value of it has expired; also the list of features that there are.
    clock
        Microseconds since 1970, UTC.

    Examples
    --------
    >>> store = MemoryFeatures({"tenure": 100}, clock=lambda: 150)
    >>> store.write("CUST-001", time=60, values={"tenure": 24})
    >>> store.online(["tenure"], ["CUST-001", "CUST-002"]).values
    [[24], [None]]
    >>> store.history(["tenure"], ["CUST-001"], [59]).held[0] == bytes([Held.ABSENT])
    True
    """

    def __init__(self, ttl: Mapping[str, int], *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._ttl = dict(ttl)
        self._clock = clock
        self._kept: dict[tuple[str, str], list[tuple[int, int, Value]]] = {}
        self._written = 0

    @property
    def declared(self) -> frozenset[str]:
        """Features that there are."""
        return frozenset(self._ttl)

    def write(self, key: str, *, time: int, values: Mapping[str, Value]) -> None:
        """Add values of an entity; of two with the same event time the later written one counts.

        Parameters
        ----------
        time
            When the values came to be, microseconds since 1970, UTC; any order.

        Raises
        ------
        KeyError
            A feature that was not declared.
        """
        self._written += 1
        for name, value in values.items():
            if name not in self._ttl:
                raise KeyError(name)
            insort(self._kept.setdefault((key, name), []), (time, self._written, value), key=lambda each: each[:2])

    def online(self, names: Sequence[str], keys: Sequence[str]) -> Vectors:
        """The newest values, see :meth:`~shadow_mlops.features.seam.FeatureStore.online`."""
        now = self._clock()
        return self._read(names, [(key, _HIGHEST, now) for key in keys])

    def history(self, names: Sequence[str], keys: Sequence[str], times: Sequence[int]) -> Vectors:
        """Values as of a time, see :meth:`~shadow_mlops.features.seam.FeatureStore.history`."""
        return self._read(names, [(key, moment, moment) for key, moment in zip(keys, times, strict=True)])

    def _read(self, names: Sequence[str], wanted: Sequence[tuple[str, int, int]]) -> Vectors:
        vectors = Vectors(tuple(names), [], [], [])
        for key, until, now in wanted:
            row = [self._cell(key, name, until, now) for name in names]
            vectors.values.append([value for value, _, _ in row])
            vectors.held.append(bytes(held for _, held, _ in row))
            vectors.times.append([moment for _, _, moment in row])
        return vectors

    def _cell(self, key: str, name: str, until: int, now: int) -> tuple[Value, Held, int]:
        newest = next((each for each in reversed(self._kept.get((key, name), ())) if each[0] <= until), None)
        if newest is None:
            return None, Held.ABSENT, 0
        moment, _, value = newest
        if now - moment > self._ttl[name]:
            return None, Held.EXPIRED, moment
        return value, Held.FRESH, moment
