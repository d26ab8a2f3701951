"""Shadow results counted: who scored how many events with what fate, how often they agreed, how quick they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shadow_mlops.comparison.latency import BUCKET_SQL, quantile_ms
from shadow_mlops.comparison.report import ScoreDifference, finite
from shadow_mlops.domain.models import Task

_TALLIES = """
WITH rows AS (
    SELECT *, CASE WHEN isfinite(score) AND isfinite(champion_score) THEN score - champion_score END AS apart
    FROM spanned_results
)
SELECT r.version, r.champion_version, r.task, r.challenger, r.replayed, r.status, count(*) AS n,
    epoch_us(min(r.time)) AS first_us, epoch_us(max(r.time)) AS last_us,
    count(apart) AS scored, sum(apart) AS difference, sum(abs(apart)) AS absolute, max(abs(apart)) AS largest,
    count_if(apart IS NOT NULL AND (r.score >= s.threshold) = (r.champion_score >= s.threshold)) AS agreed
FROM rows r LEFT JOIN event_schemas s ON s.hash = r.schema
GROUP BY ALL
"""

# Classes are the same by name, or else by label: one model's 1 is another's 1.0.
_CLASS_TALLY = """
WITH paired AS (
    SELECT schema, outputs, label, scores, champion_label, champion_scores FROM spanned_results
    WHERE status = 'paired' AND version = $version AND champion_version = $champion_version
), kinds AS (
    SELECT DISTINCT p.schema, p.outputs, s.outputs AS named,
        list_transform(p.outputs, lambda name: plain_label(name)) AS plain
    FROM paired p JOIN event_schemas s ON s.hash = p.schema
), placed AS (
    SELECT schema, outputs, list_transform(named, lambda name:
        coalesce(list_position(outputs, name), list_position(plain, plain_label(name)))) AS places
    FROM kinds
), aligned AS (
    SELECT plain_label(p.label) = plain_label(p.champion_label) AS agreed, p.champion_scores AS champion,
        list_transform(k.places, lambda place: coalesce(p.scores[place], 0.0)) AS challenger,
        list_sum(p.scores) AS mass
    FROM paired p JOIN placed k ON k.schema = p.schema AND k.outputs = p.outputs
), apart AS (
    SELECT agreed, (list_sum(list_transform(list_zip(champion, challenger), lambda pair: abs(pair[1] - pair[2])))
        + greatest(mass - list_sum(challenger), 0)) / 2 AS distance
    FROM aligned
)
SELECT count(distance), sum(distance), max(distance), count_if(agreed) FROM apart
"""

_LATENCIES = """
SELECT latency_bucket(latency_us)::BIGINT AS bucket, count(*) AS n FROM spanned_results
WHERE status = 'paired' AND version = $version AND champion_version = $champion_version GROUP BY bucket
"""
_CHAMPION_LATENCIES = _LATENCIES.replace("latency_us", "champion_latency_us")
_QUANTILES = (0.5, 0.99)

_FIRST_SEEN = """
SELECT challenger, version, replayed, epoch_us(min(time)), epoch_us(max(time)) FROM results GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Tally:
    """Results that share version, champion version, task, challenger name, origin and status.

    Attributes
    ----------
    first_us, last_us
        Event times, microseconds since 1970.
    scored
        Rows with a score on both sides; ``difference``, ``absolute`` and ``largest`` are of these.
    agreed
        Of them, rows whose scores are on the same side of the threshold.
    """

    version: str
    champion_version: str
    task: Task
    challenger: str
    replayed: bool
    status: str
    n: int
    first_us: int
    last_us: int
    scored: int
    difference: float | None
    absolute: float | None
    largest: float | None
    agreed: int


@dataclass(slots=True)
class Group:
    """All tallies of one challenger version against one champion version."""

    version: str
    champion_version: str
    tallies: list[Tally] = field(default_factory=list)

    @property
    def key(self) -> dict[str, str]:
        """Parameters of the queries of one group."""
        return {"version": self.version, "champion_version": self.champion_version}

    @property
    def task(self) -> Task:
        """Task of its newest rows."""
        return max(self.tallies, key=lambda tally: tally.last_us).task

    @property
    def last_us(self) -> int:
        """Event time of its newest row, microseconds since 1970."""
        return max(tally.last_us for tally in self.tallies)

    @property
    def paired(self) -> list[Tally]:
        """Tallies of pairs: both sides have scored."""
        return [tally for tally in self.tallies if tally.status == "paired"]

    @property
    def only_replayed(self) -> bool:
        """Whether no challenger has written any of its rows."""
        return all(tally.replayed for tally in self.tallies)

    @property
    def pairs(self) -> int:
        """Rows that both sides have scored."""
        return sum(tally.n for tally in self.paired)


@dataclass(frozen=True, slots=True)
class Life:
    """When a challenger name wrote results of a version, over the whole lake; event times in microseconds."""

    challenger: str
    version: str
    replayed: bool
    first_us: int
    last_us: int


def groups(connection: Any) -> list[Group]:
    """Results of the span, by challenger version and champion version."""
    found: dict[tuple[str, str], Group] = {}
    for row in connection.execute(_TALLIES).fetchall():
        tally = Tally(*row)
        group = found.setdefault((tally.version, tally.champion_version), Group(tally.version, tally.champion_version))
        group.tallies.append(tally)
    return list(found.values())


def lives(connection: Any, known: Iterable[Group] | None) -> list[Life]:
    """Who ever wrote results; ``known`` saves the query where the span is the whole lake."""
    if known is None:
        return [Life(*row) for row in connection.execute(_FIRST_SEEN).fetchall()]
    ends: dict[tuple[str, str, bool], list[Tally]] = {}
    for group in known:
        for tally in group.tallies:
            ends.setdefault((tally.challenger, tally.version, tally.replayed), []).append(tally)
    return [
        Life(*who, min(tally.first_us for tally in tallies), max(tally.last_us for tally in tallies))
        for who, tallies in ends.items()
    ]


def agreement(connection: Any, group: Group) -> tuple[float | None, ScoreDifference]:
    """Share of a group's pairs with the same decision, and how far the scores are apart."""
    if group.task == "multiclass":
        connection.execute(_CLASS_TALLY, group.key)
        scored, absolute, largest, agreed = connection.fetchone()
        if not scored:
            return None, ScoreDifference()
        return agreed / group.pairs, ScoreDifference(mean_absolute=absolute / scored, largest=largest)
    tallies = [tally for tally in group.paired if tally.scored]
    scored = sum(tally.scored for tally in tallies)
    if not scored:
        return None, ScoreDifference()
    apart = ScoreDifference(
        mean=finite(sum(tally.difference or 0.0 for tally in tallies) / scored),
        mean_absolute=finite(sum(tally.absolute or 0.0 for tally in tallies) / scored),
        largest=finite(max(tally.largest or 0.0 for tally in tallies)),
    )
    same = sum(tally.agreed for tally in tallies) / scored
    return (same if group.task == "binary" else None), apart


def latencies(connection: Any, group: Group) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """p50 and p99 in milliseconds over a group's pairs: of the challenger, and of the champion."""
    connection.execute(BUCKET_SQL)
    found = []
    for query in (_LATENCIES, _CHAMPION_LATENCIES):
        columns = connection.execute(query, group.key).fetchnumpy()
        buckets, counts = (np.asarray(columns[name], dtype=np.int64) for name in ("bucket", "n"))
        found.append([quantile_ms(buckets, counts, share) for share in _QUANTILES])
    return found[0], found[1]
