"""``GET /models``: who serves and who shadows, from the cards, the merged metrics and the accounting."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from shadow_mlops.domain.models import ModelCard
from shadow_mlops.gateway.champion import Served


def describe_models(served: Served, metrics_text: bytes, data_dir: Path) -> dict[str, Any]:
    """Champion and challengers as ``GET /models`` shows them.

    Parameters
    ----------
    metrics_text
        Prometheus text of all processes of this host.
    data_dir
        Where ``run/accounting.json`` has the challengers' lag.
    """
    measured = _measured(metrics_text)
    accounting = _accounting(data_dir / "run" / "accounting.json")
    challengers = []
    for name, card in served.challengers.items():
        lag = accounting.get(name, {})
        challengers.append(
            {
                "role": name,
                **_describe(card, measured, "challenger"),
                "pinned": name in served.serving.pinned,
                "lag_events": lag.get("lag_events"),
                "lag_seconds": lag.get("lag_seconds"),
            }
        )
    champion = {**_describe(served.card, measured, "champion"), "pinned": "champion" in served.serving.pinned}
    canary = served.serving.canary
    if canary is None:
        return {"champion": champion, "challengers": challengers}
    step = {"role": canary.challenger, "share": canary.share, "step": canary.step, "rollout": canary.rollout}
    trial = served.canary.served.card if served.canary is not None else None
    told = {**step, "answers": trial is not None, **(_describe(trial, measured, "canary") if trial is not None else {})}
    return {"champion": champion, "challengers": challengers, "canary": told}


def _describe(card: ModelCard, measured: _Measured, role: str) -> dict[str, Any]:
    buckets = measured.buckets.get((card.name, card.version, role), {})
    return {
        "name": card.name,
        "version": card.version,
        "registry_version": card.registry_version,
        "task": card.task,
        "runtime": card.runtime,
        "metrics": card.metrics,
        "predictions": int(measured.predictions.get((card.name, card.version, role), 0)),
        "latency_p50_ms": quantile(buckets, 0.5),
        "latency_p99_ms": quantile(buckets, 0.99),
    }


class _Measured(msgspec.Struct):
    predictions: dict[tuple[str, str, str], float]
    buckets: dict[tuple[str, str, str], dict[float, float]]


def _measured(text: bytes) -> _Measured:
    predictions: dict[tuple[str, str, str], float] = {}
    buckets: dict[tuple[str, str, str], dict[float, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text.decode()):
        if family.name not in {"predictions", "prediction_latency_seconds"}:
            continue
        for sample in family.samples:
            who = tuple(sample.labels.get(key, "") for key in ("model", "version", "role"))
            key = (who[0], who[1], who[2])
            if sample.name == "predictions_total":
                predictions[key] = sample.value
            elif sample.name == "prediction_latency_seconds_bucket":
                buckets[key][float(sample.labels["le"])] = sample.value
    return _Measured(predictions, buckets)


def quantile(cumulative: dict[float, float], q: float) -> float | None:
    """Quantile in milliseconds of a cumulative histogram in seconds, linear within a bucket; None without observations.

    >>> quantile({0.001: 50.0, 0.002: 100.0, float("inf"): 100.0}, 0.75)
    1.5
    """
    bounds = sorted(cumulative.items())
    total = bounds[-1][1] if bounds else 0.0
    if total <= 0:
        return None
    rank = q * total
    for (low, below), (high, count) in itertools.pairwise([(0.0, 0.0), *bounds]):
        if count >= rank:
            if high == float("inf"):
                return round(low * 1e3, 6)
            share = (rank - below) / (count - below) if count > below else 1.0
            return round((low + (high - low) * share) * 1e3, 6)
    return None


def _accounting(path: Path) -> dict[str, dict[str, Any]]:
    try:
        word: Any = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}  # the monitor has not spoken yet: the lag is unknown, and shown as null
    challengers: dict[str, dict[str, Any]] = word.get("challengers", {}) if isinstance(word, dict) else {}
    return challengers
