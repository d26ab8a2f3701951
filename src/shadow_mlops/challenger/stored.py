"""Features that only a challenger takes: no client waited for them, so who scores reads them, as of each event.

It opens the store itself, in its own process: a challenger then pays for a historical read at idle priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.breaker import Breaker
from shadow_mlops.challenger.absent import Absent
from shadow_mlops.deployment.columns import fits
from shadow_mlops.domain.errors import FeatureStoreError, UnavailableError
from shadow_mlops.domain.features import Signature
from shadow_mlops.eventlog.records import Floats, Strings
from shadow_mlops.features.seam import FeatureStore, Value

log = structlog.get_logger()

_AGAIN_SECONDS = 1.0


class StoredFeatures:
    """Completes events from the history of a feature store.

    A store that does not answer is asked a few times, a second apart; then, until it answers, the rows that need it
    count as errored: a challenger that waited for ever would shed what it could have scored.

    Parameters
    ----------
    open_store
        Called when a row needs it for the first time.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        open_store: Callable[[], FeatureStore],
        *,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store = open_store
        self._store: FeatureStore | None = None
        self._breaker = breaker or Breaker(failures=3, pause=5.0, longest=60.0)
        self._clock = clock
        self._not_before = 0.0

    def fill(self, absent: Absent, signature: Signature, numbers: Floats, strings: Strings) -> NDArray[np.bool_] | None:
        """See :data:`~shadow_mlops.challenger.scoring.Fill`."""
        rows = np.flatnonzero(absent.cells.any(axis=1))
        incomplete = np.zeros(len(numbers), dtype=np.bool_)
        if not rows.size:
            return incomplete
        if self._clock() < self._not_before:
            return None
        incomplete[rows] = True
        if not self._breaker.allows():
            return incomplete
        names = (*signature.numbers, *signature.strings)
        try:
            found = self._history(names, absent, rows)
        except (UnavailableError, FeatureStoreError) as error:
            self._breaker.failed()
            log.warning("features as of events cannot be read", reason=str(error), rows=len(rows))
            if self._breaker.state == "closed":
                self._not_before = self._clock() + _AGAIN_SECONDS
                return None
            return incomplete
        self._breaker.succeeded()
        kinds = {feature.name: feature.kind for feature in signature.features}
        wide = len(signature.numbers)
        for place, values in found.items():
            column = numbers[:, place] if place < wide else strings[:, place - wide]
            for row, value in zip(rows.tolist(), values, strict=True):
                if value is not None and bool(absent.cells[row, place]) and fits(kinds[names[place]], value):
                    column[row] = value
        incomplete[:] = False
        return incomplete

    def _history(self, names: Sequence[str], absent: Absent, rows: NDArray[np.intp]) -> dict[int, list[Value]]:
        """Place in the signature -> values of the rows."""
        if self._store is None:
            self._store = self._open_store()
        declared = self._store.declared
        columns: list[bool] = np.asarray(absent.cells.any(axis=0)).tolist()
        places = [place for place, name in enumerate(names) if columns[place] and name in declared]
        if not places:
            return {}
        keys = absent.entities[rows].tolist()
        vectors = self._store.history([names[p] for p in places], keys, absent.times[rows].tolist())
        return {place: [row[at] for row in vectors.values] for at, place in enumerate(places)}
