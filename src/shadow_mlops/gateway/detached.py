"""Champions whose models are in another process or on another host: what becomes of their calls, and their end."""

from __future__ import annotations

from shadow_mlops.gateway.champion import Served
from shadow_mlops.models.runtimes import Detached
from shadow_mlops.telemetry.metrics import Metrics

_OPEN = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


class DetachedReport:
    """Brings the metrics of detached champions up to date, and ends those that were replaced."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.detached_calls
        self._open = metrics.detached_breaker
        self._retired: list[Detached] = []
        self.left_alone = False
        """Whether the champion's model failed so often that it is not asked for now."""

    def publish(self, served: Served | None) -> None:
        """Take over what a champion's runtime has counted; nothing for one whose model is in this process."""
        detached = served.loaded.detached if served is not None else None
        if served is None or detached is None:
            self.left_alone = False
            return
        tally = detached.tally()
        who = (served.schema.model, served.schema.version)
        for result, count in tally.calls.items():
            self._calls.labels(*who, result).inc(count)
        self._open.labels(*who).set(_OPEN[tally.state])
        self.left_alone = tally.state != "closed"

    def replace(self, old: Served | None, new: Served) -> None:
        """Remember that a champion's model is not needed once the rows that it has are answered."""
        self.publish(old)
        if old is not None and old.loaded.detached is not None and old.loaded is not new.loaded:
            self._retired.append(old.loaded.detached)

    def close_retired(self) -> None:
        """End what was replaced: its process, its connections."""
        while self._retired:
            self._retired.pop().close()
