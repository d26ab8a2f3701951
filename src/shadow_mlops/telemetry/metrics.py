"""The metrics of one process, and the merged text of all processes of the host.

Each process owns memory-mapped files named after its *identity* (``gateway-0``, ``challenger-NAME``, ``monitor``), not
after its process id: a restarted process goes on with its counters, and a crash loop leaves one set of files, not
thousands.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_KINDS = ("counter", "histogram", "gauge_mostrecent")
_FILE_BYTES = 1 << 20  # 1 MiB holds about 8,000 series; prometheus_client grows a file sparsely beyond that


@dataclass(frozen=True, slots=True)
class Metrics:
    """Every metric of the platform; a process touches those that it knows about."""

    registry: CollectorRegistry
    predictions: Counter
    latency: Histogram
    requests: Counter
    rows_per_flush: Histogram
    append_seconds: Histogram
    events_lost: Counter
    rate_limited: Counter
    outcomes_accepted: Counter
    events_accepted: Counter
    unpaired_halves: Counter
    model_swaps: Counter
    canary_failures: Counter
    canary_share: Gauge
    canary_harmed: Gauge
    gate_estimate: Gauge
    gate_interval: Gauge
    gate_e_value: Gauge
    gate_labels: Gauge
    gate_labels_needed: Gauge
    gate_state: Gauge
    gate_failing: Gauge
    serving_generation: Gauge
    shadow_events: Counter
    shadow_batch_seconds: Histogram
    shadow_restarts: Counter
    shadow_lag_events: Gauge
    shadow_lag_seconds: Gauge
    accounting: Gauge
    log_bytes: Gauge
    log_rows: Gauge
    log_segments: Gauge
    segments_removed: Counter
    frames_set_aside: Counter
    repeated_request_ids: Gauge
    lake_rows: Gauge
    lake_files: Gauge
    lake_bytes: Gauge
    lake_archived_rows: Gauge
    lake_outcomes: Gauge
    lake_lag_rows: Gauge
    lake_failing: Gauge
    lake_lost_rows: Counter
    drift_score: Gauge
    drift_level: Gauge
    drift_alarms: Counter
    drift_episodes_open: Gauge
    drift_window_rows: Gauge
    drift_failing: Gauge
    drift_read_at: Gauge
    drift_lost_rows: Gauge
    alert_deliveries: Counter
    alerts_waiting: Gauge
    retrain_triggers: Counter
    retrain_runs: Counter
    retrain_running: Gauge
    retrain_failing: Gauge
    champion_error_rate: Gauge
    champion_error_reference: Gauge
    champion_labelled_rows: Gauge
    model_prediction_count: Gauge
    process_restarts: Counter
    detached_calls: Counter
    detached_breaker: Gauge
    feature_reads: Counter
    feature_read_seconds: Histogram
    feature_breaker: Gauge
    feature_values_expired: Counter
    feature_values_unusable: Counter


def _reserve(directory: Path, identity: str) -> None:
    # A sparse file on a full disk kills the process that touches a new page of it (SIGBUS): take the blocks now, or
    # fail here with a message.
    directory.mkdir(parents=True, exist_ok=True)
    for kind in _KINDS:
        with (directory / f"{kind}_{identity}.db").open("a+b") as file:
            if os.fstat(file.fileno()).st_size < _FILE_BYTES:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
                else:
                    file.write(bytes(_FILE_BYTES - os.fstat(file.fileno()).st_size))


def open_metrics(directory: Path | None = None, identity: str = "") -> Metrics:
    """Create the metrics of this process.

    Parameters
    ----------
    directory
        Folder shared by the processes of the host; None keeps the metrics in this process (tests, one-off commands).
    identity
        Name of this process among them; no two live processes may share it.
    """
    if directory is None:
        values.ValueClass = values.MutexValue
    else:
        _reserve(directory, identity)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: identity)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    who = ("model", "version", "role")

    def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=registry)

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=registry, multiprocess_mode="mostrecent")

    def histogram(
        name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = LATENCY_BUCKETS
    ) -> Histogram:
        return Histogram(name, text, labels, registry=registry, buckets=buckets)

    return Metrics(
        registry=registry,
        predictions=counter("predictions_total", "Predictions made.", who),
        latency=histogram(
            "prediction_latency_seconds",
            "Champion: receipt to answer. Challenger: its micro-batch, per row.",
            who,
        ),
        requests=counter("shadow_http_requests_total", "Responses by route and status.", ("route", "status")),
        rows_per_flush=histogram(
            "shadow_rows_per_flush",
            "Predictions answered by one model run.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        ),
        append_seconds=histogram(
            "shadow_log_append_seconds",
            "One append to the event log.",
            buckets=(
                5e-6,
                1e-5,
                2.5e-5,
                5e-5,
                1e-4,
                2.5e-4,
                5e-4,
                1e-3,
                2.5e-3,
                5e-3,
                1e-2,
                2.5e-2,
                0.1,
                1.0,
            ),
        ),
        events_lost=counter(
            "shadow_events_lost_total", "Answered predictions not known to be in the log.", ("stream",)
        ),
        rate_limited=counter("shadow_rate_limited_total", "Requests refused by the rate limit."),
        outcomes_accepted=counter("shadow_outcomes_accepted_total", "Outcomes accepted; matching comes later."),
        events_accepted=counter(
            "shadow_events_accepted_total", "Predictions answered elsewhere that were accepted, by form.", ("form",)
        ),
        unpaired_halves=counter(
            "shadow_unpaired_halves_total",
            "Requests and responses in CloudEvents that were given up, by reason.",
            ("half", "reason"),
        ),
        model_swaps=counter("shadow_model_swaps_total", "Champion changes in this process.", ("result",)),
        canary_failures=counter(
            "shadow_canary_failures_total", "Rows that the canary could not answer, answered by the champion."
        ),
        canary_share=gauge("shadow_canary_share", "Part of the entities that a canary answers; 0 without one."),
        canary_harmed=gauge(
            "shadow_canary_harmed_answers", "Labelled answers of the canary step that the champion would have beaten."
        ),
        gate_estimate=gauge(
            "shadow_gate_estimate",
            "Mean difference per entity, positive where the challenger is better.",
            ("challenger",),
        ),
        gate_interval=gauge("shadow_gate_interval", "Its confidence sequence, for display.", ("challenger", "bound")),
        gate_e_value=gauge("shadow_gate_e_value", "Evidence that the challenger is better.", ("challenger",)),
        gate_labels=gauge("shadow_gate_labels", "Values that the gate has had, one for each entity.", ("challenger",)),
        gate_labels_needed=gauge(
            "shadow_gate_labels_needed",
            "Values that it may still take; NaN: the data do not point that way.",
            ("challenger",),
        ),
        gate_state=gauge("shadow_gate_state", "1 for what the gate says.", ("challenger", "state")),
        gate_failing=gauge("shadow_gate_failing", "1 while the gates cannot be advanced."),
        serving_generation=gauge("shadow_serving_generation", "Generation of serving.json in force.", ("process",)),
        shadow_events=counter(
            "shadow_results_total",
            "Events by what became of them at the challenger.",
            ("challenger", "version", "status"),
        ),
        shadow_batch_seconds=histogram("shadow_batch_seconds", "One micro-batch of a challenger.", ("challenger",)),
        shadow_restarts=counter(
            "shadow_scorer_restarts_total", "Scorer processes replaced, by reason.", ("challenger", "reason")
        ),
        shadow_lag_events=gauge(
            "shadow_lag_events", "Sampled events the challenger has not accounted for.", ("challenger",)
        ),
        shadow_lag_seconds=gauge("shadow_lag_seconds", "Age of the oldest of them.", ("challenger",)),
        accounting=gauge(
            "shadow_accounting_events",
            "sampled = paired + timed_out + shed + errored + pending.",
            ("challenger", "state"),
        ),
        log_bytes=gauge("shadow_log_bytes", "Bytes of the event log.", ("stream",)),
        log_rows=gauge("shadow_log_rows", "Rows ever appended.", ("stream",)),
        log_segments=gauge("shadow_log_segments", "Segment files.", ("stream",)),
        segments_removed=counter(
            "shadow_log_segments_removed_total", "Segments removed, by reason.", ("stream", "reason")
        ),
        frames_set_aside=counter("shadow_log_set_aside_bytes_total", "Bytes that were no valid frame.", ("stream",)),
        repeated_request_ids=gauge("shadow_repeated_request_ids", "Predictions whose request id had been seen before."),
        lake_rows=gauge("shadow_lake_rows", "Rows of the lake.", ("table",)),
        lake_files=gauge("shadow_lake_files", "Files of the lake.", ("table",)),
        lake_bytes=gauge("shadow_lake_bytes", "Bytes of the lake.", ("table",)),
        lake_archived_rows=gauge("shadow_lake_archived_rows", "Rows ever written to the lake.", ("table",)),
        lake_outcomes=gauge("shadow_lake_outcomes", "Archived outcomes by what became of them.", ("verdict",)),
        lake_lag_rows=gauge("shadow_lake_lag_rows", "Rows of the log that are not archived yet.", ("stream",)),
        lake_failing=gauge("shadow_lake_failing", "1 while the log cannot be archived."),
        lake_lost_rows=counter(
            "shadow_lake_lost_rows_total", "Rows removed from the log before they were archived.", ("stream",)
        ),
        drift_score=gauge(
            "drift_score", "Distance of the newest window from its reference, by method.", ("feature", "method")
        ),
        drift_level=gauge(
            "shadow_drift_level", "Level of the drift detector, over the one on which it alarms.", ("feature",)
        ),
        drift_alarms=counter("shadow_drift_alarms_total", "Alarms of the drift detector.", ("feature",)),
        drift_episodes_open=gauge("shadow_drift_episodes_open", "Features that are drifting."),
        drift_window_rows=gauge("shadow_drift_window_rows", "Rows in the newest window."),
        drift_failing=gauge("shadow_drift_failing", "1 while drift is not watched or not recorded."),
        drift_read_at=gauge(
            "shadow_drift_read_timestamp_seconds", "When the log was last read for drift, seconds since 1970."
        ),
        drift_lost_rows=gauge("shadow_drift_lost_rows", "Rows removed from the log before drift had counted them."),
        alert_deliveries=counter(
            "shadow_alert_deliveries_total", "Attempts to deliver an alert, by what came of them.", ("kind", "result")
        ),
        alerts_waiting=gauge("shadow_alerts_waiting", "Alerts that have not been delivered yet.", ("kind",)),
        retrain_triggers=counter(
            "shadow_retrain_triggers_total", "Triggers of retraining by cause, and those held back at first.", ("kind",)
        ),
        retrain_runs=counter("shadow_retrain_runs_total", "Attempts to retrain, by what came of them.", ("result",)),
        retrain_running=gauge("shadow_retrain_running", "1 while retraining runs."),
        retrain_failing=gauge("shadow_retrain_failing", "1 while the trigger of retraining cannot be looked at."),
        champion_error_rate=gauge(
            "shadow_champion_error_rate",
            "Errors of the champion among labelled events of the window (regression: their root mean square).",
            ("version",),
        ),
        champion_error_reference=gauge(
            "shadow_champion_error_reference", "The same, measured on held-out rows before it served.", ("version",)
        ),
        champion_labelled_rows=gauge(
            "shadow_champion_labelled_rows", "Labelled events of the champion in the window.", ("version",)
        ),
        model_prediction_count=gauge(
            "model_prediction_count", "Predictions by model version, champion or challenger.", ("version",)
        ),
        process_restarts=counter("shadow_process_restarts_total", "Processes restarted by their parent.", ("process",)),
        detached_calls=counter(
            "shadow_detached_calls_total",
            "Calls of a champion that runs elsewhere (http, pyfunc), by what became of them.",
            ("model", "version", "result"),
        ),
        detached_breaker=gauge(
            "shadow_detached_breaker_open", "1 while such calls are not even tried, 0.5 on trial.", ("model", "version")
        ),
        feature_reads=counter(
            "shadow_feature_reads_total",
            "Reads of the feature store for requests: ok, timeout, error, busy, open (not even tried).",
            ("result",),
        ),
        feature_read_seconds=histogram(
            "shadow_feature_read_seconds", "What such a read added to its request.", (), LATENCY_BUCKETS
        ),
        feature_breaker=gauge("shadow_feature_breaker_open", "1 while the store is not even asked, 0.5 on trial."),
        feature_values_expired=counter(
            "shadow_feature_values_expired_total", "Stored values that were older than their TTL, and not used."
        ),
        feature_values_unusable=counter(
            "shadow_feature_values_unusable_total", "Stored values of a type or size that the model cannot take."
        ),
    )


def observe_many(histogram: Histogram, seconds: NDArray[np.float64]) -> None:
    """Observe n values at the cost of a few.

    One :meth:`Histogram.observe` takes 1.5 µs in a shared file, and a flush falls into one or two buckets:
    observing them one by one was 16 % of a prediction.

    Parameters
    ----------
    histogram
        With its labels set.
    seconds
        float64 (n,).
    """
    # The library has no call for many values; a test holds this to observe().
    buckets = histogram._buckets  # noqa: SLF001
    histogram._sum.inc(float(seconds.sum()))  # noqa: SLF001
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, seconds)).tolist()  # noqa: SLF001
    for bucket, count in zip(buckets, counts, strict=False):
        if count:
            bucket.inc(count)


def count_up_to(counter: Counter, total: float) -> None:
    """Bring a counter to a total that is kept elsewhere, exactly, across restarts; it never goes back.

    Parameters
    ----------
    counter
        With its labels set.
    """
    # The library keeps the value of an earlier process and does not tell it.
    counter.inc(max(total - counter._value.get(), 0.0))  # noqa: SLF001


def forget(gauge: Gauge, *labels: str) -> None:
    """Take a series out of the published text until it is set again: files of shared metrics cannot lose one."""
    gauge.labels(*labels).set(math.nan)


def merged_text(directory: Path) -> bytes:
    """Prometheus text of all processes that keep their metrics in the folder."""
    registry = CollectorRegistry()
    registry.register(_Merged(directory))
    return generate_latest(registry)


def merged_samples(directory: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample name and sorted labels -> value, over all processes that keep their metrics in the folder."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in _Merged(directory).collect()
        for sample in family.samples
    }


class _Merged(Collector):
    """All processes' metrics, without series that are forgotten."""

    def __init__(self, directory: Path) -> None:
        self._collector = MultiProcessCollector(None, path=str(directory))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for family in self._collector.collect():  # type: ignore[no-untyped-call]
            if family.type == "gauge":
                family.samples = [sample for sample in family.samples if not math.isnan(sample.value)]
            yield family
