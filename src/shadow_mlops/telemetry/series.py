"""Gauges whose series come and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from prometheus_client import Gauge

from shadow_mlops.telemetry.metrics import forget

Left: TypeAlias = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""As :func:`~shadow_mlops.telemetry.metrics.merged_samples` gives it."""


class Series:
    """All series of a gauge that one process sets: each time all that there are, and those that are gone go.

    Parameters
    ----------
    gauge
        With labels.
    left
        What an earlier process of this role may have left behind; no other process sets the gauge.

    Examples
    --------
    >>> from shadow_mlops.telemetry.metrics import open_metrics
    >>> lag = open_metrics().shadow_lag_events
    >>> series = Series(lag)
    >>> series.replace({("a",): 1.0, ("b",): 2.0})
    >>> series.replace({("b",): 3.0})
    >>> {sample.labels["challenger"]: sample.value for sample in lag.collect()[0].samples}
    {'a': nan, 'b': 3.0}
    """

    def __init__(self, gauge: Gauge, left: Left | None = None) -> None:
        self._gauge = gauge
        name, names = gauge._name, gauge._labelnames  # noqa: SLF001 - the library tells them nobody else
        self._told = {
            tuple(dict(labels)[each] for each in names)
            for (sample, labels), _ in (left or {}).items()
            if sample == name
        }

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Set these series, and no others.

        Parameters
        ----------
        values
            Values of the labels, in the gauge's order -> value.
        """
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        for labels in self._told - values.keys():
            forget(self._gauge, *labels)
        self._told = set(values)
