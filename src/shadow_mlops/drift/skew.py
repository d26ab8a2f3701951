"""Training-serving skew: what the online store gave to requests, and what training would join for these moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.domain.events import EventSchema, Origin
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.features.seam import FeatureStore, Value
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect, quoted, reading
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX

MOST_ROWS = 100_000
"""Newest rows that are compared."""
_ROWS = 10_000  # in one historical read
_RELATIVE = 1e-6  # a store may keep float32


class FeatureSkew(msgspec.Struct, frozen=True, kw_only=True):
    """One feature, in the rows whose value came from the store."""

    feature: str
    rows: int
    different: int
    """Rows in which the offline join gives another value, or none."""
    absent_offline: int
    """Those of them in which it gives none."""
    share: float
    skewed: bool


class SkewReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shadow features skew --format json`` prints. No value of anybody is in it."""

    rows: int
    since: str
    until: str
    threshold: float
    features: tuple[FeatureSkew, ...]
    """The most skewed first."""

    @property
    def skewed(self) -> tuple[str, ...]:
        """Features beyond the threshold."""
        return tuple(each.feature for each in self.features if each.skewed)


def skew(
    lake: Path,
    store: Callable[[], FeatureStore],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    threshold: float = 0.01,
    most_rows: int = MOST_ROWS,
) -> SkewReport:
    """Compare recorded vectors with the offline store's, feature by feature.

    Parameters
    ----------
    lake
        Folder of the lake.
    store
        Opens the feature store; called only if there is something to compare.
    since, until
        Event times, [since, until); None: all.
    threshold
        Share of rows that may differ: a store is filled now and then, and between it is behind what training sees.

    Raises
    ------
    DriftError
        No recorded row has a value from the store.
    LakeError
        The lake cannot be read.
    UnavailableError
        The offline store does not answer.
    """
    rows = list(_recorded(lake, since, until, most_rows))
    if not rows:
        raise DriftError(
            "no recorded event of this span has a value from the feature store: send requests with the entity alone, "
            "wait until they are archived, or ask for a longer span"
        )
    tally: dict[str, list[int]] = {}
    opened = store()
    names = tuple(dict.fromkeys(name for _, _, values in rows for name in values))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        joined = opened.history(names, [key for key, _, _ in part], [moment for _, moment, _ in part])
        for (_, _, values), row in zip(part, joined.values, strict=True):
            offline = dict(zip(names, row, strict=True))
            for name, online in values.items():
                counts = tally.setdefault(name, [0, 0, 0])
                counts[0] += 1
                if not _same(online, offline[name]):
                    counts[1] += 1
                    counts[2] += offline[name] is None
    found = [
        FeatureSkew(
            feature=name,
            rows=count,
            different=different,
            absent_offline=absent,
            share=different / count,
            skewed=different / count > threshold,
        )
        for name, (count, different, absent) in tally.items()
    ]
    moments = [moment for _, moment, _ in rows]
    return SkewReport(
        rows=len(rows),
        since=rfc3339(min(moments)),
        until=rfc3339(max(moments)),
        threshold=threshold,
        features=tuple(sorted(found, key=lambda each: (-each.share, each.feature))),
    )


def _recorded(
    lake: Path, since: datetime | None, until: datetime | None, most_rows: int
) -> Iterator[tuple[str, int, dict[str, Value]]]:
    """Entity, event time in µs, and the values that came from the store; the newest rows first."""
    manifest = read_manifest(lake)
    with reading(lake), closing(connect(lake, manifest, tables=("events",))) as connection:
        left = most_rows
        for key, schema in reversed(manifest.schemas.items()):
            if left <= 0:
                return
            names, columns = _columns(schema)
            query = f"""
                SELECT entity, epoch_us(events.time), origins, {columns} FROM events
                WHERE schema = $schema AND entity IS NOT NULL AND list_contains(origins, {int(Origin.STORE)})
                  AND ($since IS NULL OR epoch_us(events.time) >= $since)
                  AND ($until IS NULL OR epoch_us(events.time) < $until)
                ORDER BY events.time DESC LIMIT $rows
            """  # noqa: S608 - names are quoted
            span = {"since": _microseconds(since), "until": _microseconds(until)}
            fetched = connection.execute(query, {"schema": key, "rows": left, **span}).fetchall()
            left -= len(fetched)
            for entity, moment, origins, *values in fetched:
                given: list[Any] = values
                yield (
                    entity,
                    moment,
                    {
                        name: value
                        for name, origin, value in zip(names, origins, given, strict=True)
                        if origin == Origin.STORE
                    },
                )


def _columns(schema: EventSchema) -> tuple[Sequence[str], str]:
    columns = [NUMBER_PREFIX + name for name in schema.numbers] + [STRING_PREFIX + name for name in schema.strings]
    return (*schema.numbers, *schema.strings), ", ".join(quoted(column) for column in columns)


def _same(online: Value, offline: Value) -> bool:
    if online is None or offline is None or isinstance(online, str) or isinstance(offline, str):
        return online == offline
    return math.isclose(online, offline, rel_tol=_RELATIVE, abs_tol=1e-12)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1e6)
