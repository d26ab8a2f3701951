"""What a new version is trained on: recorded events and final labels, features as they were or should have been."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from shadow_mlops.deployment.columns import fits
from shadow_mlops.domain.errors import DataRefusedError
from shadow_mlops.domain.events import Origin
from shadow_mlops.domain.features import Kind, Signature
from shadow_mlops.domain.models import Task
from shadow_mlops.features.seam import FeatureStore
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.queries import connect, quoted, reading
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX

TARGET = "__label__"
ENTITY = "__entity__"
_JOINED = {Origin.STORE, Origin.DEFAULT, Origin.FALLBACK, Origin.ABSENT}
"""Origins of values that a client did not send: training takes what the store had, where it had something."""
_ROWS = 10_000  # in one historical read
_FINAL = """
SELECT segment, row, label AS truth FROM labels
WHERE verdict = 'joined' AND label IS NOT NULL AND (matures IS NULL OR matures <= $now)
"""  # a label counts from the moment that it is final
_NEWEST = f"""
SELECT quantile_disc(epoch_us(e.time), $place)
FROM ({_FINAL}) l JOIN events e ON e.segment = l.segment AND e.row = l.row
WHERE ($since IS NULL OR e.time >= $since) AND ($until IS NULL OR e.time < $until)
"""  # noqa: S608 - constants


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What data must have to be trained on."""

    rows: int = 1000
    rows_per_class: int = 50
    fallback_share: float = 0.1
    """Most rows whose features were defaults because the store could not be asked, and has no history of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Labelled rows, the oldest first.

    Attributes
    ----------
    table
        The features of the signature, :data:`TARGET`, and :data:`ENTITY` where events have one.
    joined
        Feature -> rows whose value the store's history gave.
    """

    table: pa.Table
    joined: dict[str, int]


def training_set(
    lake: Path,
    signature: Signature,
    *,
    task: Task,
    store: Callable[[], FeatureStore] | None,
    since: datetime | None = None,
    until: datetime | None = None,
    now: datetime | None = None,
    most_rows: int = 200_000,
    checks: Checks | None = None,
) -> TrainingSet:
    """The newest labelled events of a span, each with the features that it had, or should have had.

    A value that the client sent stays. One that came from the store, or stood in for it, is joined as of the event's
    time, so that training sees neither the store's outages nor its future.

    Parameters
    ----------
    signature
        Features to take, with their kinds.
    store
        Opens the feature store, called only where it is needed; None: there is none.
    since, until
        Event times, [since, until); None: all.
    now
        Labels that are final by then count; None: this moment.

    Raises
    ------
    DataRefusedError
        The data does not pass the checks; the message says which and what there is.
    LakeError
        The lake cannot be read.
    UnavailableError
        The offline store does not answer.
    """
    manifest = read_manifest(lake)
    if not manifest.schemas:
        raise DataRefusedError("no event is archived yet: `shadow up` archives, a few seconds after the first answer")
    with reading(lake), closing(connect(lake, manifest, tables=("events", "labels"))) as connection:
        query = _query(signature)
        bounds = {"now": now or datetime.now(UTC), "since": since, "until": until, "rows": most_rows}
        found = connection.sql(query, params=bounds).to_arrow_table()
    origins = _origins(found, manifest, signature)
    columns, joined = _joined(found, signature, origins, store)
    table = pa.table(
        {
            **{feature.name: _typed(columns[feature.name], feature.kind) for feature in signature.features},
            TARGET: _target(found["truth"], task),
            **({} if found["entity"].null_count else {ENTITY: found["entity"]}),
        }
    )
    _check(table, task, origins, checks or Checks())
    return TrainingSet(table=table, joined=joined)


def newest_share(
    lake: Path,
    share: float,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    now: datetime | None = None,
) -> datetime:
    """From when on the newest share of the labelled events of a span came.

    Parameters
    ----------
    share
        Between 0 and 1.
    since, until, now
        As :func:`training_set` takes them.

    Raises
    ------
    DataRefusedError
        If there is no labelled event.
    LakeError
        The lake cannot be read.
    """
    bounds = {"now": now or datetime.now(UTC), "since": since, "until": until, "place": 1 - share}
    with reading(lake), closing(connect(lake, tables=("events", "labels"))) as connection:
        ((moment,),) = connection.execute(_NEWEST, bounds).fetchall()
    if moment is None:
        raise DataRefusedError("no labelled event is archived yet: nothing can be trained on or left out")
    return datetime.fromtimestamp(moment / 1e6, UTC)


def _query(signature: Signature) -> str:
    columns = [NUMBER_PREFIX + name for name in signature.numbers] + [
        STRING_PREFIX + name for name in signature.strings
    ]
    return f"""
        SELECT * FROM (SELECT l.truth, e.* FROM ({_FINAL}) l JOIN (
            SELECT segment, row, entity, epoch_us(events.time) AS moment, schema, origins,
                {", ".join(quoted(column) for column in columns)}
            FROM events
            WHERE ($since IS NULL OR events.time >= $since) AND ($until IS NULL OR events.time < $until)
        ) e ON e.segment = l.segment AND e.row = l.row
        ORDER BY e.moment DESC, e.segment DESC, e.row DESC LIMIT $rows) ORDER BY moment, segment, row
    """  # noqa: S608 - names are quoted


def _origins(found: pa.Table, manifest: Manifest, signature: Signature) -> dict[str, list[int]]:
    """Feature -> origin of each row's value; a feature that a row's schema lacks was missing."""
    names = (*signature.numbers, *signature.strings)
    origins: dict[str, list[int]] = {name: [] for name in names}
    places: dict[str, list[int | None]] = {}
    for key, row in zip(found["schema"].to_pylist(), found["origins"].to_pylist(), strict=True):
        if key not in places:
            schema = manifest.schemas[key]
            given = {name: place for place, name in enumerate((*schema.numbers, *schema.strings))}
            places[key] = [given.get(name) for name in names]
        for name, place in zip(names, places[key], strict=True):
            if place is None:
                origins[name].append(int(Origin.MISSING))
            else:
                origins[name].append(int(Origin.REQUEST) if row is None else row[place])
    return origins


def _joined(
    found: pa.Table,
    signature: Signature,
    origins: dict[str, list[int]],
    store: Callable[[], FeatureStore] | None,
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    columns = {name: found[NUMBER_PREFIX + name].to_pylist() for name in signature.numbers}
    columns |= {name: found[STRING_PREFIX + name].to_pylist() for name in signature.strings}
    joined = dict.fromkeys(columns, 0)
    wanted = {name: [row for row, origin in enumerate(each) if origin in _JOINED] for name, each in origins.items()}
    rows = sorted({row for each in wanted.values() for row in each})
    if store is None or not rows:
        return columns, joined
    entities, moments = found["entity"].to_pylist(), found["moment"].to_pylist()
    rows = [row for row in rows if entities[row] is not None]
    names = tuple(name for name, each in wanted.items() if each)
    kinds = {feature.name: feature.kind for feature in signature.features}
    opened = store()
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        known = opened.history(names, [entities[row] for row in part], [moments[row] for row in part])
        for row, values in zip(part, known.values, strict=True):
            for name, value in zip(names, values, strict=True):
                if value is not None and origins[name][row] in _JOINED and fits(kinds[name], value):
                    columns[name][row] = value
                    joined[name] += 1
                    origins[name][row] = int(Origin.STORE)
    return columns, joined


def _typed(values: Sequence[Any], kind: Kind) -> pa.Array:
    if kind == "string":
        return pa.array(values, pa.string())
    if kind == "number":
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else int(value) for value in values], pa.int64())


def _target(labels: pa.ChunkedArray, task: Task) -> pa.ChunkedArray:
    if task == "regression":
        return labels.cast(pa.float64())
    try:
        return labels.cast(pa.int64())  # classes that are called 0 and 1
    except pa.ArrowInvalid:
        return labels


def _check(table: pa.Table, task: Task, origins: dict[str, list[int]], checks: Checks) -> None:
    if table.num_rows < checks.rows:
        raise DataRefusedError(
            f"{table.num_rows:,} labelled events are too few to train on, at least {checks.rows:,}: wait for labels, "
            "or take a longer span"
        )
    if task != "regression":
        counts = {str(each["values"]): each["counts"] for each in pc.value_counts(table[TARGET]).to_pylist()}
        if len(counts) < 2:
            raise DataRefusedError(f"every label is {next(iter(counts))}: there is nothing to learn")
        rarest = min(counts, key=counts.__getitem__)
        if counts[rarest] < checks.rows_per_class:
            raise DataRefusedError(
                f"class {rarest} has {counts[rarest]} labelled events, at least {checks.rows_per_class} are needed"
            )
    for name, each in origins.items():
        if table[name].null_count == table.num_rows:
            raise DataRefusedError(f"feature {name!r} is missing in every event")
        share = sum(origin == Origin.FALLBACK for origin in each) / table.num_rows
        if share > checks.fallback_share:
            raise DataRefusedError(
                f"feature {name!r} is a default in {share:.0%} of the events because the store could not be asked, and "
                "its history has nothing for them"
            )
