"""What a challenger tells about itself: a heart-beat file each second, and its metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import structlog

from shadow_mlops.domain.events import Status
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import ResultBatch
from shadow_mlops.telemetry.metrics import Metrics, observe_many

log = structlog.get_logger()

State: TypeAlias = Literal["idle", "loading", "ok", "degraded"]
_EVERY = 1.0


class Heartbeat(msgspec.Struct, frozen=True):
    """Contents of ``challenger-NAME.json``."""

    at: str
    """RFC 3339, UTC."""
    pid: int
    version: str | None
    """That scores now; None while none does."""
    lag_events: int
    """Events read or unread whose results are not in the log yet."""
    lag_seconds: float
    """Age of the oldest of them, as far as is known without reading it; 0 if there is none."""
    status: State
    """``idle``: no version has the alias. ``loading``: its scorer starts. ``degraded``: see ``detail``."""
    detail: str


class Reporter:
    """Counts results and beats.

    Parameters
    ----------
    path
        Of the heart-beat file.
    """

    def __init__(self, path: Path, metrics: Metrics, *, challenger: str) -> None:
        self._path = path
        self._metrics = metrics
        self._challenger = challenger
        self._next = 0.0
        self._started = time.monotonic()
        self._level_at: float | None = None
        self._refused = ""
        self._unwritten = ""

    def recorded(self, batch: ResultBatch) -> None:
        """Count a batch whose results are in the log."""
        schema, metrics = batch.schema, self._metrics
        for status, count in zip(*np.unique(batch.statuses, return_counts=True), strict=True):
            name = Status(status).name.lower()
            metrics.shadow_events.labels(self._challenger, schema.version, name).inc(int(count))
        missed = sum(span.sampled for span in batch.spans if span.shed)
        if missed:
            metrics.shadow_events.labels(self._challenger, schema.version, "shed").inc(missed)
        paired = batch.latencies[batch.statuses == Status.PAIRED]
        if len(paired):
            who = (schema.model, schema.version, "challenger")
            metrics.predictions.labels(*who).inc(len(paired))
            observe_many(metrics.latency.labels(*who), paired / 1e6)
        tried = batch.latencies[batch.statuses != Status.UNSAMPLED]
        if len(tried):
            metrics.shadow_batch_seconds.labels(self._challenger).observe(float(tried.sum()) / 1e6)

    def replaced(self, reason: str) -> None:
        """Count a replaced scorer."""
        self._metrics.shadow_restarts.labels(self._challenger, reason).inc()

    def refused(self, problem: str) -> None:
        """Note that the log takes no results (empty: that it takes them again)."""
        if problem != self._refused:
            if problem:
                log.error("results cannot be appended, they are kept", problem=problem)
            else:
                log.info("results are appended again")
        self._refused = problem

    def beat(
        self,
        *,
        card: ModelCard | None,
        wanted: ModelCard | None,
        trouble: str,
        backlog: Callable[[], int],
        reached: float,
    ) -> bool:
        """Write the heart-beat file if a second has passed; whether it has.

        Parameters
        ----------
        card, wanted
            Of the scorer that is ready, and of the version that the alias names.
        backlog
            Asked for the number of events that are not accounted for.
        reached
            When the newest event that was worked on happened, seconds since 1970; 0 before the first.
        """
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _EVERY
        lag = backlog()
        state, detail = self._state(card, wanted, trouble)
        self._write(
            Heartbeat(
                at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                pid=os.getpid(),
                version=card.version if card is not None else None,
                lag_events=lag,
                lag_seconds=round(self._age(lag, reached), 3),
                status=state,
                detail=detail,
            )
        )
        return True

    def _age(self, lag: int, reached: float) -> float:
        now = time.monotonic()
        if lag == 0:
            self._level_at = now
            return 0.0
        # What is unread came after what was read last, and after the last moment at which nothing was unread.
        bounds = [time.time() - reached] if reached else []
        bounds += [now - self._level_at] if self._level_at is not None else []
        return max(0.0, min(bounds, default=now - self._started))

    def _state(self, card: ModelCard | None, wanted: ModelCard | None, trouble: str) -> tuple[State, str]:
        if wanted is None:
            return "idle", "no version has its alias"
        problem = self._refused or trouble
        if problem:
            return "degraded", problem
        if card != wanted:
            return "loading", f"version {wanted.version} is being loaded"
        return "ok", ""

    def _write(self, heartbeat: Heartbeat) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(heartbeat))
            temporary.replace(self._path)
        except OSError as error:  # a full disk must not stop the scoring; the stale file tells the rest
            if str(error) != self._unwritten:
                log.warning("heart-beat cannot be written", problem=str(error))
            self._unwritten = str(error)
        else:
            self._unwritten = ""
