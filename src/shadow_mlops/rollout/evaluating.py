"""What a gate's rule says of a version on recorded pairs, replayed ones included: one look, which leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.comparison.cohorts import Cohort, recorded
from shadow_mlops.comparison.comparing import measure
from shadow_mlops.comparison.report import Side
from shadow_mlops.comparison.window import Window, rfc3339
from shadow_mlops.domain.errors import ConflictError
from shadow_mlops.domain.models import Task
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.queries import connect, reading
from shadow_mlops.rollout.decision import Decision, decide
from shadow_mlops.rollout.evidence import matchup_of
from shadow_mlops.rollout.folding import GateState, feature_columns, fold, opened
from shadow_mlops.rollout.spec import GateSpec

HONEST_ON = (
    "This holds only on rows that the version was not trained on, and nothing here can see on which it was;"
    " `shadow retrain train --replay SPAN` leaves some out and replays the version on them."
)
_EVENTS = """
SELECT count(*), epoch_us(min(time)), epoch_us(max(time)) FROM spanned_events
WHERE sampled AND (version = $champion AND role = 'champion' OR version = $challenger AND role = 'challenger')
"""
_OTHERS = """
SELECT champion_version, count(*) FROM spanned_results
WHERE version = $challenger AND status = 'paired' AND champion_version <> $champion
GROUP BY champion_version ORDER BY count(*) DESC LIMIT 1
"""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shadow gate evaluate`` found."""

    version: str
    champion_version: str
    task: Task
    since: str
    """RFC 3339, event time, inclusive."""
    until: str
    """Exclusive."""
    decision: Decision
    alpha: float
    min_labels: int
    requests: int
    """Sampled requests of the span that one of the two answered."""
    pairs: int
    labelled_pairs: int
    label_coverage: float
    """Labelled over all pairs."""
    replayed: int
    """Pairs that ``shadow replay`` made."""
    champion: Side
    """On the labelled pairs, latencies on all pairs."""
    challenger: Side
    """On the very rows of ``champion``."""


def evaluate(
    lake: Path,
    spec: GateSpec,
    *,
    model: str,
    champion: str,
    version: str,
    since: datetime,
    until: datetime,
    threads: int | None = 1,
) -> Evaluation:
    """Judge a version on the recorded pairs of a span by the rule of a gate that has α for itself.

    Entities give one value each, in the cohort that they come in first, as in a live gate. Nothing is written.

    Parameters
    ----------
    model
        Registered model, for what is told.
    since, until
        Event times, aware; inclusive and exclusive.
    threads
        Of DuckDB.

    Raises
    ------
    ConflictError
        If there are no pairs of the two in the span.
    LakeError
        If the lake cannot be read.
    """
    window, manifest = Window(since, until), read_manifest(lake)
    first_us, last_us = (round(end.timestamp() * 1e6) for end in (since, until))
    with (
        reading(lake),
        closing(connect(lake, manifest.between(first_us, last_us), threads=threads)) as connection,
    ):
        window.open(connection)
        versions = {"champion": champion, "challenger": version}
        ((requests, *ends),) = connection.execute(_EVENTS, versions).fetchall()
        cohorts = recorded(
            connection, matchup_of(spec, champion, version, model), first_us, last_us, features=feature_columns(spec)
        )
        state = _folded(cohorts, manifest, spec)
        if not state.everything.pairs:
            raise ConflictError(_no_pairs(connection, model, versions, window))
        sides = measure(connection, manifest.schemas, champion=champion, version=version, window=window)
    state = msgspec.structs.replace(state, first_us=ends[0], last_us=ends[1])  # min_days: of the rows, not of cohorts
    return Evaluation(
        version=version,
        champion_version=champion,
        task=spec.task,
        since=rfc3339(since) or "",
        until=rfc3339(until) or "",
        decision=decide(state, spec, challengers=1),
        alpha=spec.alpha,
        min_labels=spec.min_labels,
        requests=requests,
        pairs=state.everything.pairs,
        labelled_pairs=state.everything.labelled,
        label_coverage=state.everything.labelled / state.everything.pairs,
        replayed=sides.replayed,
        champion=sides.champion,
        challenger=sides.challenger,
    )


def _folded(cohorts: Iterable[Cohort], manifest: Manifest, spec: GateSpec) -> GateState:
    state = opened(spec, 0)
    spent: set[bytes] = set()
    served: set[bytes] = set()
    for cohort in cohorts:
        folded = fold(state, cohort, spec, schemas=manifest.schemas, spent=spent, served=served)
        state = folded.state
        spent.update(folded.spent)
        served.update(folded.served)
    return state


def _no_pairs(connection: Any, model: str, versions: dict[str, str], window: Window) -> str:
    champion, version = versions["champion"], versions["challenger"]
    span = f"between {rfc3339(window.since)} and {rfc3339(window.until)}"
    others = connection.execute(_OTHERS, versions).fetchall()
    if others:
        ((other, count),) = others
        return (
            f"version {version} has no pairs with champion {champion} {span}, but {count:,} with champion {other},"
            " which answered then: choose a span that the champion of now answered"
        )
    return (
        f"version {version} has no pairs with champion {champion} {span}: score what was recorded with"
        f" `shadow replay --model models:/{model}/{version} --since T`"
    )
