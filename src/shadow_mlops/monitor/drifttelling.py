"""Drift as Prometheus sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import Gauge

from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.telemetry.metrics import Metrics, count_up_to, forget, merged_samples


class DriftGauges:
    """Sets the metrics of drift, and takes away series that nothing stands behind any more.

    Parameters
    ----------
    directory
        Of the metrics of this host: an earlier process may have left series there. None: there was none.
    """

    def __init__(self, metrics: Metrics, directory: Path | None = None) -> None:
        self._metrics = metrics
        families: tuple[tuple[str, Gauge, tuple[str, ...]], ...] = (
            ("drift_score", metrics.drift_score, ("feature", "method")),
            ("shadow_drift_level", metrics.drift_level, ("feature",)),
            ("shadow_champion_error_rate", metrics.champion_error_rate, ("version",)),
            ("shadow_champion_error_reference", metrics.champion_error_reference, ("version",)),
            ("shadow_champion_labelled_rows", metrics.champion_labelled_rows, ("version",)),
        )
        self._series: dict[str, set[tuple[str, ...]]] = {name: set() for name, _, _ in families}
        self._gauges = {name: gauge for name, gauge, _ in families}
        left = merged_samples(directory) if directory is not None else {}
        labels = {name: order for name, _, order in families}
        for name, found in left:
            if name in labels:
                values = dict(found)
                self._series[name].add(tuple(values[label] for label in labels[name]))

    def well(self, now: float) -> None:
        """The log has been read."""
        self._metrics.drift_failing.set(0)
        self._metrics.drift_read_at.set(now)

    def ill(self) -> None:
        """It could not be."""
        self._metrics.drift_failing.set(1)

    def delivered(self, kind: str, result: str) -> None:
        """Count an attempt to deliver an alert."""
        self._metrics.alert_deliveries.labels(kind, result).inc()

    def publish(self, report: LiveDrift, *, kinds: Iterable[str]) -> None:
        """Set everything to what a report says."""
        metrics, detector = self._metrics, report.detector
        scores = [*report.scores, *(score for each in report.challengers for score in each.scores)]
        self._replace("drift_score", {(score.feature, score.method): score.score for score in scores})
        bar = detector.alarm_level
        self._replace("shadow_drift_level", {(name,): level / bar for name, level in detector.levels.items() if bar})
        for name, alarms in detector.alarms.items():
            count_up_to(metrics.drift_alarms.labels(name), alarms)
        metrics.drift_episodes_open.set(sum(each.closed_bucket is None for each in report.episodes))
        metrics.drift_window_rows.set(report.window.rows if report.window is not None else 0)
        metrics.drift_lost_rows.set(report.lost_rows)
        waiting = {each.kind: each.pending for each in report.alerts}
        for kind in {*kinds, *waiting}:
            metrics.alerts_waiting.labels(kind).set(waiting.get(kind, 0))
        self._publish_errors(report)

    def _publish_errors(self, report: LiveDrift) -> None:
        errors, version = report.error_rate, (report.version or "",)
        figures: dict[str, float | None] = {
            "shadow_champion_error_rate": errors.value if errors is not None else None,
            "shadow_champion_error_reference": errors.reference if errors is not None else None,
            "shadow_champion_labelled_rows": errors.labelled if errors is not None else None,
        }
        for name, value in figures.items():
            self._replace(name, {} if value is None else {version: value})

    def _replace(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        gauge = self._gauges[name]
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        for labels in self._series[name] - values.keys():
            forget(gauge, *labels)
        self._series[name] = set(values)
