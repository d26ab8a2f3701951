"""What the monitor tells: ``accounting.json`` for the other processes, gauges for Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.eventlog.retention import SegmentInfo
from shadow_mlops.lake.manifest import Manifest
from shadow_mlops.lake.matching import UNMATCHED, VERDICTS
from shadow_mlops.lake.tables import SCHEMAS
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.telemetry.metrics import Metrics

log = structlog.get_logger()


class ChallengerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One challenger in ``accounting.json``: sampled = paired + timed_out + shed + errored + pending."""

    version: str | None
    sampled: int
    paired: int
    timed_out: int
    shed: int
    errored: int
    pending: int
    lag_events: int
    lag_seconds: float


class Accounting(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``<data-dir>/run/accounting.json``."""

    at: str
    """RFC 3339, UTC."""
    events: int
    challengers: dict[str, ChallengerAccount]


def accounting(ledger: Ledger) -> Accounting:
    """The books as they are published."""
    challengers = {}
    for name, account in sorted(ledger.state.accounts.items()):
        totals, lag = ledger.totals(name), ledger.lag(name)
        challengers[name] = ChallengerAccount(
            version=account.version,
            sampled=totals.sampled,
            paired=totals.paired,
            timed_out=totals.timed_out,
            shed=totals.shed,
            errored=totals.errored,
            pending=totals.pending,
            lag_events=lag.events,
            lag_seconds=round(lag.seconds, 3),
        )
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Accounting(at=now, events=ledger.state.events, challengers=challengers)


class Publisher:
    """Writes the file and sets the gauges.

    Parameters
    ----------
    path
        Of ``accounting.json``.
    """

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._unwritten = ""

    def publish(self, ledger: Ledger, infos: Sequence[SegmentInfo]) -> None:
        """Tell how the books and the log stand."""
        books = accounting(ledger)
        self._set_accounts(ledger, books)
        self._set_log(ledger, infos)
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(books))
            temporary.replace(self._path)
        except OSError as error:  # a full disk: the file's own time tells that it is stale
            if str(error) != self._unwritten:
                log.warning("accounting cannot be published", problem=str(error))
            self._unwritten = str(error)
        else:
            self._unwritten = ""

    def publish_lake(self, manifest: Manifest, backlog: Mapping[str, int], *, failing: bool) -> None:
        """Tell how the lake stands, and what it does not have yet."""
        metrics = self._metrics
        for table in SCHEMAS:
            files = manifest.files.get(table, ())
            metrics.lake_rows.labels(table).set(sum(file.rows for file in files))
            metrics.lake_files.labels(table).set(len(files))
            metrics.lake_bytes.labels(table).set(sum(file.bytes for file in files))
            metrics.lake_archived_rows.labels(table).set(manifest.counts.get(table, 0))
        for verdict in (*VERDICTS, UNMATCHED):
            metrics.lake_outcomes.labels(verdict).set(manifest.counts.get(verdict, 0))
        for stream, rows in backlog.items():
            metrics.lake_lag_rows.labels(stream).set(rows)
        metrics.lake_failing.set(failing)

    def lost(self, stream: str, rows: int) -> None:
        """Count rows that were removed before they were archived."""
        self._metrics.lake_lost_rows.labels(stream).inc(rows)

    def removed(self, stream: str, reason: str) -> None:
        """Count a removed segment."""
        self._metrics.segments_removed.labels(stream, reason).inc()

    def set_aside(self, stream: str, size: int) -> None:
        """Count bytes of the log that were no frame."""
        self._metrics.frames_set_aside.labels(stream).inc(size)

    def _set_accounts(self, ledger: Ledger, books: Accounting) -> None:
        metrics = self._metrics
        for name, account in books.challengers.items():
            for state in ("sampled", "paired", "timed_out", "shed", "errored", "pending"):
                metrics.accounting.labels(name, state).set(getattr(account, state))
            metrics.accounting.labels(name, "imbalance").set(ledger.totals(name).imbalance)
            metrics.shadow_lag_events.labels(name).set(account.lag_events)
            metrics.shadow_lag_seconds.labels(name).set(account.lag_seconds)
        for version, count in ledger.state.versions.items():
            metrics.model_prediction_count.labels(version).set(count)
        metrics.repeated_request_ids.set(ledger.state.repeated)

    def _set_log(self, ledger: Ledger, infos: Sequence[SegmentInfo]) -> None:
        size: dict[str, int] = defaultdict(int)
        segments: dict[str, int] = defaultdict(int)
        for info in infos:
            size[info.stream] += info.bytes
            segments[info.stream] += info.state != "retired"
        for stream, used in size.items():
            self._metrics.log_bytes.labels(stream).set(used)
            self._metrics.log_segments.labels(stream).set(segments[stream])
        for stream, rows in ledger.state.rows.items():
            self._metrics.log_rows.labels(stream).set(rows)
