"""How often the champion was wrong, as far as labels have come: a question to the lake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from shadow_mlops.domain.models import Task
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.livereport import ErrorRate
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect, reading

_MEMORY = "512MB"
# A label counts from the moment that it is final. Literals, not parameters: files outside of the span are not read.
_QUERY = """
SELECT count(*), {figure} FROM (
    SELECT segment, row, label AS truth FROM labels
    WHERE verdict = 'joined' AND (matures IS NULL OR matures <= {now})
        AND time >= {since} AND time < {until}
) l JOIN (
    SELECT segment, row, label, score FROM events
    WHERE registry_version = $version AND role = 'champion' AND time >= {since} AND time < {until}
) e ON e.segment = l.segment AND e.row = l.row
WHERE {scored}
"""
_WRONG = {"figure": "count_if(label <> truth)", "scored": "label IS NOT NULL AND truth IS NOT NULL"}
_SQUARES = {
    "figure": "sum(power(score - CAST(truth AS DOUBLE), 2))",
    "scored": "isfinite(score) AND isfinite(try_cast(truth AS DOUBLE))",
}


class Kept(NamedTuple):
    """What the model's card says."""

    metric: str
    value: float


def held_out(task: Task, metrics: Mapping[str, float]) -> Kept | None:
    """The error that was measured on held-out rows; None if the card has none.

    >>> held_out("binary", {"accuracy": 0.75, "auc": 0.9})
    Kept(metric='accuracy', value=0.25)
    """
    if task == "regression":
        return Kept("rmse", metrics["rmse"]) if "rmse" in metrics else None
    return Kept("accuracy", 1 - metrics["accuracy"]) if "accuracy" in metrics else None


def error_rate(
    lake: Path, *, task: Task, version: str, since_us: int, until_us: int, now_us: int, reference: Kept | None
) -> ErrorRate:
    """The champion's errors among the labelled events of a span of event time.

    Parameters
    ----------
    version
        Registry version of the champion.
    now_us
        Labels that are final by then count, microseconds since 1970.

    Raises
    ------
    LakeError
        If the lake cannot be read.
    """
    manifest = read_manifest(lake).between(since_us, until_us)
    moments = {"since": since_us, "until": until_us, "now": now_us}
    parts = _SQUARES if task == "regression" else _WRONG
    query = _QUERY.format(**parts, **{name: f"TIMESTAMPTZ '{rfc3339(moment)}'" for name, moment in moments.items()})
    with reading(lake):
        connection = connect(lake, manifest, memory_limit=_MEMORY, threads=1, tables=("events", "labels"))
        with connection:
            labelled, errors = connection.execute(query, {"version": version}).fetchone()
    value = None if not labelled else errors / labelled
    return ErrorRate(
        measure="rmse" if task == "regression" else "error_rate",
        value=value**0.5 if value is not None and task == "regression" else value,
        labelled=labelled,
        reference=None if reference is None else reference.value,
        reference_metric=None if reference is None else reference.metric,
        since=rfc3339(since_us),
        until=rfc3339(until_us),
    )
