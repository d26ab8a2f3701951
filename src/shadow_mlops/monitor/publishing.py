"""What the monitor tells: ``accounting.json`` for the other processes, gauges for Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.domain.events import RESULTS_PREFIX
from shadow_mlops.eventlog.retention import SegmentInfo
from shadow_mlops.lake.manifest import Manifest
from shadow_mlops.lake.matching import UNMATCHED, VERDICTS
from shadow_mlops.lake.tables import SCHEMAS
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.telemetry.metrics import Metrics
from shadow_mlops.telemetry.series import Left, Series

log = structlog.get_logger()

_STATES = ("sampled", "paired", "timed_out", "shed", "errored", "pending")


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
    left
        Series that an earlier monitor has left behind.
    """

    def __init__(self, path: Path, metrics: Metrics, left: Left | None = None) -> None:
        self._path = path
        self._metrics = metrics
        self._accounts = Series(metrics.accounting, left)
        self._lag_events = Series(metrics.shadow_lag_events, left)
        self._lag_seconds = Series(metrics.shadow_lag_seconds, left)
        self._versions = Series(metrics.model_prediction_count, left)
        self._log_bytes = Series(metrics.log_bytes, left)
        self._log_segments = Series(metrics.log_segments, left)
        self._log_rows = Series(metrics.log_rows, left)
        self._lake_lag = Series(metrics.lake_lag_rows, left)
        self._unwritten = ""

    def publish(self, ledger: Ledger, infos: Sequence[SegmentInfo], *, serving: Collection[str] | None = None) -> None:
        """Tell how the books and the log stand.

        Parameters
        ----------
        serving
            Names of the challengers that have a version; None: not known. One that has none and does not run is left
            out of the metrics. Its account stays, in case that it comes back.
        """
        books = accounting(ledger)
        self._set_accounts(ledger, _shown(books.challengers, infos, serving))
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

    def publish_lake(self, manifest: Manifest, *, failing: bool) -> None:
        """Tell how the lake stands."""
        metrics = self._metrics
        metrics.lake_failing.set(failing)
        if failing and not manifest.number:
            return  # it could not be read: nobody knows what it has
        for table in SCHEMAS:
            files = manifest.files.get(table, ())
            metrics.lake_rows.labels(table).set(sum(file.rows for file in files))
            metrics.lake_files.labels(table).set(len(files))
            metrics.lake_bytes.labels(table).set(sum(file.bytes for file in files))
            metrics.lake_archived_rows.labels(table).set(manifest.counts.get(table, 0))
        for verdict in (*VERDICTS, UNMATCHED):
            metrics.lake_outcomes.labels(verdict).set(manifest.counts.get(verdict, 0))

    def publish_lag(self, rows: Mapping[str, int]) -> None:
        """Tell how many rows of each stream the lake does not have yet."""
        self._lake_lag.replace({(stream,): count for stream, count in rows.items()})

    def lost(self, stream: str, rows: int) -> None:
        """Count rows that were removed before they were archived."""
        self._metrics.lake_lost_rows.labels(stream).inc(rows)

    def removed(self, stream: str, reason: str) -> None:
        """Count a removed segment."""
        self._metrics.segments_removed.labels(stream, reason).inc()

    def set_aside(self, stream: str, size: int) -> None:
        """Count bytes of the log that were no frame."""
        self._metrics.frames_set_aside.labels(stream).inc(size)

    def _set_accounts(self, ledger: Ledger, shown: Mapping[str, ChallengerAccount]) -> None:
        figures: dict[tuple[str, ...], float] = {}
        for name, account in shown.items():
            figures |= {(name, state): getattr(account, state) for state in _STATES}
            figures[name, "imbalance"] = ledger.totals(name).imbalance
        self._accounts.replace(figures)
        self._lag_events.replace({(name,): account.lag_events for name, account in shown.items()})
        self._lag_seconds.replace({(name,): account.lag_seconds for name, account in shown.items()})
        self._versions.replace({(version,): count for version, count in ledger.state.versions.items()})
        self._metrics.repeated_request_ids.set(ledger.state.repeated)

    def _set_log(self, ledger: Ledger, infos: Sequence[SegmentInfo]) -> None:
        size: dict[tuple[str, ...], float] = defaultdict(int)
        segments: dict[tuple[str, ...], float] = defaultdict(int)
        for info in infos:
            size[info.stream,] += info.bytes
            segments[info.stream,] += info.state != "retired"
        self._log_bytes.replace(size)
        self._log_segments.replace(segments)
        self._log_rows.replace({(stream,): rows for stream, rows in ledger.state.rows.items()})


def _shown(
    accounts: Mapping[str, ChallengerAccount], infos: Sequence[SegmentInfo], serving: Collection[str] | None
) -> Mapping[str, ChallengerAccount]:
    if serving is None:
        return accounts
    live = {info.stream for info in infos if info.state == "live"}
    return {name: account for name, account in accounts.items() if name in serving or RESULTS_PREFIX + name in live}
