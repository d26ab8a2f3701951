"""Fields that a request lacks, from the store: asked only where the champion takes one, never waited for long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import structlog

from shadow_mlops.deployment.columns import Stored, fits
from shadow_mlops.deployment.fields import AcceptedFields
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.features import Kind
from shadow_mlops.features.client import FeatureClient, Result, Row
from shadow_mlops.features.seam import Held
from shadow_mlops.telemetry.metrics import Metrics, observe_many

log = structlog.get_logger()

_OPEN = {"closed": 0.0, "half-open": 0.5, "open": 1.0}
_COMPLAIN_SECONDS = 5.0
_US = 1_000_000


class StoredFeatures:
    """Completes decoded requests.

    Parameters
    ----------
    client
        Of the feature process.
    on_failure
        What a request gets when the store does not answer in time: ``default``, what the deployment declares for absent
        features, or ``refuse``, 503.
    """

    def __init__(self, client: FeatureClient, metrics: Metrics, *, on_failure: Literal["default", "refuse"]) -> None:
        self.client = client
        self._refuse = on_failure == "refuse"
        self._reads = metrics.feature_reads
        self._seconds = metrics.feature_read_seconds
        self._open = metrics.feature_breaker
        self._expired = metrics.feature_values_expired
        self._unusable = metrics.feature_values_unusable
        self._complained = 0.0

    def wanted(self, fields: AcceptedFields, values: tuple[Any, ...]) -> str | None:
        """The entity to ask for; None where the request has all that the champion takes, or names nobody."""
        if fields.entity is None or values[-1] is None:
            return None
        known = self.client.names
        for place in fields.absent(values):
            if place in fields.columns_of_champion and (known is None or fields.name_at(place) in known):
                return str(values[-1])
        return None

    async def read(self, fields: AcceptedFields, key: str) -> Row | Result:
        """What the store has of an entity; never an error, never later than the deployment's time-out."""
        return await self.client.read(key, fields.signature.numbers + fields.signature.strings)

    def fill(
        self, fields: AcceptedFields, values: tuple[Any, ...], found: Row | Result
    ) -> tuple[tuple[Any, ...], Stored]:
        """Decoded values with the stored ones where the request had none.

        Parameters
        ----------
        fields
            That decoded the values; it may be another than the one that asked, since the champion may have changed.

        Raises
        ------
        UnavailableError
            The store did not answer, and the deployment refuses then, or has no default for a feature that must be.
        """
        absent = fields.absent(values)
        if not isinstance(found, Row):
            return values, self._fallen_back(fields, absent, found)
        place_of = {name: place for place, name in enumerate(found.names)}
        full, columns, ages = list(values), [], []
        now = time.time_ns() // 1000
        for place in absent:
            at = place_of.get(fields.name_at(place))
            if at is None or found.held[at] == Held.ABSENT:
                continue
            if found.held[at] == Held.EXPIRED:
                self._expired.inc()
            elif fits(fields.kind_at(place), found.values[at]):
                full[place] = found.values[at]
                columns.append(place)
            else:
                self._complain(fields.name_at(place), fields.kind_at(place))
                continue
            if found.times[at]:
                ages.append((place, max(now - found.times[at], 0) // _US))
        return tuple(full), Stored(tuple(columns), tuple(ages))

    def publish(self) -> None:
        """Bring the metrics up to date."""
        results, self.client.results = self.client.results, type(self.client.results)()
        seconds, self.client.seconds = self.client.seconds, []
        for result, count in results.items():
            self._reads.labels(result).inc(count)
        if seconds:
            observe_many(self._seconds, np.array(seconds))
        self._open.set(_OPEN[self.client.state])

    def _fallen_back(self, fields: AcceptedFields, absent: Sequence[int], result: Result) -> Stored:
        reason = {
            "timeout": "did not answer in time",
            "error": "does not answer",
            "busy": "has too many requests waiting",
            "open": "has failed so often that it is not asked now",
        }[str(result)]
        if self._refuse:
            raise UnavailableError(f"the feature store {reason}, and this deployment refuses to answer without it")
        for place in absent:
            if fields.required_at(place):
                raise UnavailableError(
                    f"the feature store {reason}, and `{fields.name_at(place)}` has no default; send it, or try again"
                )
        known = self.client.names
        of_champion = (place for place in absent if place in fields.columns_of_champion)
        return Stored(fallen_back=tuple(p for p in of_champion if known is None or fields.name_at(p) in known))

    def _complain(self, name: str, kind: Kind) -> None:
        self._unusable.inc()
        if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            log.error("the store has a value that the model cannot take; it counts as absent", feature=name, kind=kind)
