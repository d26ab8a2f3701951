"""Cohorts of requests that close in order, at a place in the log that nobody's timing can move.

A cohort is the sampled requests of one span of time. It closes at the first position of the log at which time has
passed its end and every one of them has its shadow's fate and, where the shadow has answered, its label; or, whatever
is still open, at the first position at which the longest delay of labels has passed as well. Time is what the log
itself says: the receipt of each outcome, never the reader's clock, and never the time of an event, which whoever
reports it may choose. What is appended behind that position, requests, fates and labels, is never taken: the same log
gives the same cohorts, whenever and however often it is read. Requests that another version of the challenger shadowed
are none of this one's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shadow_mlops.lake.queries import quoted

Position: TypeAlias = tuple[int, int]
"""Boot and monotonic time of an append: the order of the log."""
Closing: TypeAlias = Literal["complete", "deadline", "looked_at"]
"""``looked_at``: by nothing in the log, but by whoever asked (:func:`recorded`)."""
Ints: TypeAlias = NDArray[np.int64]

# The first event of the first frame of results: all that came before it in the log and had no result by then was
# answered before this challenger was there, and nobody will ever shadow it.
_STARTED = """
WITH live AS (
    SELECT segment, row, boot, monotonic_ns FROM results
    WHERE version = $challenger AND champion_version = $champion AND NOT replayed
), began AS (SELECT boot, monotonic_ns FROM live ORDER BY boot, monotonic_ns LIMIT 1)
SELECT epoch_us(e.time), e.boot, e.monotonic_ns, b.boot, b.monotonic_ns
FROM live l JOIN began b ON (l.boot, l.monotonic_ns) = (b.boot, b.monotonic_ns)
JOIN events e ON (e.segment, e.row) = (l.segment, l.row)
ORDER BY e.boot, e.monotonic_ns, e.segment, e.row LIMIT 1
"""
_NEVER_SHADOWED = """
SELECT count(*) FROM events e
WHERE e.time >= $since AND e.time < $until AND e.sampled AND e.version = $champion AND e.role = 'champion'
    AND (e.boot, e.monotonic_ns) < ($boot, $ns)
    AND NOT EXISTS (
        FROM results r WHERE (r.segment, r.row) = (e.segment, e.row)
            AND (r.version = $challenger OR r.challenger = $name) AND NOT r.replayed
            AND (r.boot, r.monotonic_ns) <= ($began_boot, $began_ns)
    )
"""
_NEXT = """
SELECT epoch_us(min(time)) FROM events
WHERE time >= $since AND sampled
    AND (version = $champion AND role = 'champion' OR version = $challenger AND role = 'challenger')
"""
_PASSED = """
SELECT boot, monotonic_ns FROM outcomes WHERE received >= $moment ORDER BY boot, monotonic_ns LIMIT 1
"""
# In a canary step the challenger answers and the champion shadows: the two sides change places.
_ROWS = """
WITH asked AS (
    SELECT segment, row, boot, monotonic_ns, coalesce(entity, request_id) AS entity, schema,
        role = 'challenger' AS swapped, latency_us AS answer_us, label AS decision, {features}
    FROM events
    WHERE time >= $since AND time < $until AND sampled
        AND (version = $champion AND role = 'champion' OR version = $challenger AND role = 'challenger')
), fates AS (
    SELECT segment, row, version, status, latency_us, label, boot, monotonic_ns, challenger, replayed FROM results
    WHERE time >= $since AND time < $until
), others AS (
    SELECT a.segment, a.row, min((f.boot, f.monotonic_ns)) AS first
    FROM asked a JOIN fates f ON f.segment = a.segment AND f.row = a.row
    WHERE f.challenger = $name AND NOT f.replayed
        AND f.version <> $challenger AND NOT (a.swapped AND f.version = $champion)
    GROUP BY a.segment, a.row
), truths AS (
    SELECT segment, row, boot, monotonic_ns, received FROM labels
    WHERE time >= $since AND time < $until AND verdict = 'joined'
), matured AS (
    SELECT * FROM pairs WHERE time >= $since AND time < $until AND status = 'paired'
)
SELECT a.* EXCLUDE (decision),
    CASE WHEN a.swapped THEN f.label ELSE a.decision END AS said_champion,
    CASE WHEN a.swapped THEN a.decision ELSE f.label END AS said_challenger,
    f.status, f.latency_us AS shadow_us, f.boot AS fate_boot, f.monotonic_ns AS fate_ns,
    o.first[1] AS other_boot, o.first[2] AS other_ns,
    t.boot AS label_boot, t.monotonic_ns AS label_ns, epoch_us(t.received) AS received_us,
    p.outcome, p.target, p.outputs,
    coalesce(CASE p.task
        WHEN 'binary' THEN p.target IS NOT NULL AND isfinite(p.score) AND isfinite(p.champion_score)
        WHEN 'multiclass' THEN p.outcome IS NOT NULL AND p.p_outcome IS NOT NULL AND p.champion_p_outcome IS NOT NULL
        ELSE isfinite(p.target) AND isfinite(p.score) AND isfinite(p.champion_score)
    END, false) AS is_pair,
    CASE WHEN a.swapped THEN p.score ELSE p.champion_score END AS champion_score,
    CASE WHEN a.swapped THEN p.champion_score ELSE p.score END AS challenger_score,
    CASE WHEN a.swapped THEN p.label ELSE p.champion_label END AS champion_label,
    CASE WHEN a.swapped THEN p.champion_label ELSE p.label END AS challenger_label,
    CASE WHEN a.swapped THEN p.p_outcome ELSE p.champion_p_outcome END AS champion_p_outcome,
    CASE WHEN a.swapped THEN p.champion_p_outcome ELSE p.p_outcome END AS challenger_p_outcome,
    CASE WHEN a.swapped THEN p.scores ELSE p.champion_scores END AS champion_scores,
    CASE WHEN a.swapped THEN p.champion_scores ELSE p.scores END AS challenger_scores
FROM asked a
LEFT JOIN fates f ON f.segment = a.segment AND f.row = a.row
    AND (f.version = CASE WHEN a.swapped THEN $champion ELSE $challenger END
        OR f.status = 'shed' AND f.version = $challenger)  -- who was to shadow what was shed, nobody has looked at
LEFT JOIN others o ON o.segment = a.segment AND o.row = a.row
LEFT JOIN truths t ON t.segment = a.segment AND t.row = a.row
LEFT JOIN matured p ON p.segment = a.segment AND p.row = a.row AND p.version = f.version
ORDER BY a.boot, a.monotonic_ns, a.segment, a.row
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matchup:
    """Two versions that are compared, and how their requests are cut into cohorts.

    Attributes
    ----------
    champion, challenger
        Human versions.
    name
        Of the challenger: its stream of results tells which requests another version of it shadowed.
    cohort_us, delay_us
        Length of a cohort, and the longest delay of a label, microseconds.
    final_labels
        Labels count only once no other can replace them (policies ``last`` and ``reject``): a cohort then closes at its
        deadline.
    """

    champion: str
    challenger: str
    cohort_us: int
    delay_us: int
    final_labels: bool = False
    name: str = "challenger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A closed cohort.

    Attributes
    ----------
    number
        k: requests with k·h ≤ time < (k + 1)·h.
    closed_at
        Position of the log.
    reason
        Why it closed there.
    rows
        Its requests that were appended by then, in the order of the log; columns as the query names them, null where
        the log did not know by then, and ``labelled``, bool: the shadow answered, and a label came by then, in time.
    late
        Requests of this span, and of spans before it that had none by their closing, that were appended behind that
        position: as far as the lake knows by now.
    """

    number: int
    closed_at: Position
    reason: Closing
    rows: pa.Table
    late: int


def first_cohort(connection: Any, matchup: Matchup) -> int | None:
    """Cohort in which the challenger began to shadow live, or the next if it missed a part of that one; None: none yet.

    A cohort with requests that nobody will ever shadow would only close at its deadline, and hold up all after it.
    """
    found = connection.execute(_STARTED, _versions(matchup)).fetchall()
    if not found:
        return None
    ((us, boot, ns, began_boot, began_ns),) = found
    number = int(us) // matchup.cohort_us
    places = {"boot": boot, "ns": ns, "began_boot": began_boot, "began_ns": began_ns, "name": matchup.name}
    ((missed,),) = connection.execute(_NEVER_SHADOWED, _versions(matchup) | _span(matchup, number) | places).fetchall()
    return number + 1 if missed else number


def next_cohort(
    connection: Any, matchup: Matchup, number: int, *, matched_us: int, features: Sequence[str] = ()
) -> Cohort | None:
    """The first cohort from ``number`` on that has requests, if the log has reached the position at which it closes.

    Parameters
    ----------
    connection
        DuckDB connection, time zone UTC, with the lake's views of everything from that cohort's first moment on.
    matched_us
        As the lake's manifest has it: labels that were final by then are in ``pairs``.
    features
        Columns of ``events`` that the rows are to have as well.

    Returns
    -------
    Cohort or None
        None while it is open, and while there are no requests.
    """
    late = 0
    while True:
        parameters = _versions(matchup) | {"since": _moment(number * matchup.cohort_us)}
        ((first_us,),) = connection.execute(_NEXT, parameters).fetchall()
        if first_us is None:
            return None
        number = max(number, int(first_us) // matchup.cohort_us)
        cohort = _cohort(connection, matchup, number, matched_us, features)
        if cohort is None or cohort.rows.num_rows:
            return None if cohort is None else replace(cohort, late=cohort.late + late)
        late += cohort.late  # empty when it closed: who reads earlier does not even know that it is there
        number += 1


def recorded(
    connection: Any, matchup: Matchup, since_us: int, until_us: int, *, features: Sequence[str] = ()
) -> Iterator[Cohort]:
    """Every sampled request of a span, cohort by cohort, with what is known of it by now; replays count.

    For one look at the past. No gate may take them: what they hold depends on when somebody looks.

    Parameters
    ----------
    since_us, until_us
        Microseconds since 1970; the second one is excluded. The first and the last cohort may be cut by them.
    """
    chosen = ", ".join(quoted(name) for name in features) or "NULL AS no_feature"
    while True:
        parameters = _versions(matchup) | {"since": _moment(since_us)}
        ((first_us,),) = connection.execute(_NEXT, parameters).fetchall()
        if first_us is None or first_us >= until_us:
            return
        number = int(first_us) // matchup.cohort_us
        after_us = min((number + 1) * matchup.cohort_us, until_us)
        span = {"since": _moment(since_us), "until": _moment(after_us), "name": matchup.name}
        rows = connection.sql(_ROWS.format(features=chosen), params=_versions(matchup) | span).to_arrow_table()
        ends = _positions(rows, "boot", "monotonic_ns")
        yield Cohort(
            number=number,
            closed_at=ends[-1] or (0, 0),
            reason="looked_at",
            rows=rows.append_column("labelled", rows["is_pair"]).drop_columns(_WORKINGS),
            late=0,
        )
        since_us = after_us


def _cohort(connection: Any, matchup: Matchup, number: int, matched_us: int, features: Sequence[str]) -> Cohort | None:
    end_us = (number + 1) * matchup.cohort_us
    ended = _passed(connection, end_us)
    if ended is None:
        return None
    deadline_us = end_us + matchup.delay_us
    deadline = _passed(connection, deadline_us + 1)
    if deadline is not None and matchup.final_labels and matched_us < deadline_us:
        return None  # the pairs are on their way
    chosen = ", ".join(quoted(name) for name in features) or "NULL AS no_feature"
    parameters = _versions(matchup) | _span(matchup, number) | {"name": matchup.name}
    rows = connection.sql(_ROWS.format(features=chosen), params=parameters).to_arrow_table()
    return _closed(rows, number, ended, deadline, deadline_us=deadline_us, final_labels=matchup.final_labels)


def _closed(
    rows: pa.Table,
    number: int,
    ended: Position,
    deadline: Position | None,
    *,
    deadline_us: int,
    final_labels: bool,
) -> Cohort | None:
    appended, others = _positions(rows, "boot", "monotonic_ns"), _positions(rows, "other_boot", "other_ns")
    fates, labels = _positions(rows, "fate_boot", "fate_ns"), _positions(rows, "label_boot", "label_ns")
    completed = _completions(fates, others, labels, rows["status"].to_pylist())
    order = _Order([*appended, *fates, *others, *labels, ended, *([deadline] if deadline else [])])
    appended_at, fate_at, other_at = order.of(appended), order.of(fates), order.of(others)
    complete = None if final_labels else _first_complete(appended_at, order.of(completed), order.of([ended])[0])
    at, reason = complete, "complete"
    if deadline is not None and (at is None or order.of([deadline])[0] < at):
        at, reason = int(order.of([deadline])[0]), "deadline"
    if at is None:
        return None
    within = appended_at <= at
    mine = within & ~((other_at <= at) & (other_at < fate_at))
    has_fate = fate_at <= at
    in_time = np.array([us is not None and us <= deadline_us for us in rows["received_us"].to_pylist()], dtype=np.bool_)
    has_label = in_time & ((order.of(labels) <= at) | np.array(final_labels))
    labelled = rows["is_pair"].to_numpy(zero_copy_only=False).astype(np.bool_) & has_fate & has_label
    known = _without(_without(rows, _OF_FATE, has_fate), _OF_PAIR, labelled)
    return Cohort(
        number=number,
        closed_at=order.position(at),
        reason="complete" if reason == "complete" else "deadline",
        rows=known.append_column("labelled", pa.array(labelled)).filter(pa.array(mine)).drop_columns(_WORKINGS),
        late=int(np.count_nonzero(~within)),
    )


_OF_FATE = ("status", "shadow_us", "said_champion", "said_challenger")
_OF_PAIR = (
    "outcome", "target", "outputs", "champion_score", "challenger_score", "champion_label", "challenger_label",
    "champion_p_outcome", "challenger_p_outcome", "champion_scores", "challenger_scores",
)  # fmt: skip
_WORKINGS = [
    "fate_boot", "fate_ns", "other_boot", "other_ns", "label_boot", "label_ns", "received_us", "is_pair",
]  # fmt: skip


def _without(rows: pa.Table, columns: Sequence[str], known: NDArray[np.bool_]) -> pa.Table:
    """Null in some columns where the log did not know yet."""
    places = pa.array(np.arange(rows.num_rows), mask=~known)
    for name in columns:
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].take(places))
    return rows


def _completions(
    fates: list[Position | None], others: list[Position | None], labels: list[Position | None], statuses: list[str]
) -> list[Position | None]:
    """Where each request had all that it needs: a fate and, if the shadow answered, a label; or another's shadow."""
    done: list[Position | None] = []
    for fate, other, label, status in zip(fates, others, labels, statuses, strict=True):
        if other is not None and (fate is None or other < fate):
            done.append(other)
        elif fate is None or status != "paired":
            done.append(fate)
        else:
            done.append(None if label is None else max(fate, label))
    return done


def _first_complete(appended: Ints, completed: Ints, ended: int) -> int | None:
    """First place, not before ``ended``, by which nothing is open; None if there is none yet."""
    places = np.unique(np.concatenate([appended, completed, [ended]]))
    places = places[(places >= ended) & (places < _NEVER)]
    opened = np.searchsorted(np.sort(appended), places, side="right")
    closed = np.searchsorted(np.sort(completed), places, side="right")
    free = np.flatnonzero(opened == closed)
    return int(places[free[0]]) if free.size else None


_NEVER = np.iinfo(np.int64).max


class _Order:
    """Positions as places: the smallest is 0, equal ones share one."""

    def __init__(self, positions: list[Position | None]) -> None:
        self._sorted = sorted({position for position in positions if position is not None})
        self._place = {position: place for place, position in enumerate(self._sorted)}

    def of(self, positions: list[Position | None]) -> Ints:
        return np.array([_NEVER if each is None else self._place[each] for each in positions], dtype=np.int64)

    def position(self, place: int) -> Position:
        return self._sorted[place]


def _positions(rows: pa.Table, boot: str, monotonic: str) -> list[Position | None]:
    return [
        None if b is None else (b, m) for b, m in zip(rows[boot].to_pylist(), rows[monotonic].to_pylist(), strict=True)
    ]


def _passed(connection: Any, us: int) -> Position | None:
    """Where the time of the log reached a moment; None if it has not yet."""
    found = connection.execute(_PASSED, {"moment": _moment(us)}).fetchall()
    return (int(found[0][0]), int(found[0][1])) if found else None


def _span(matchup: Matchup, number: int) -> dict[str, object]:
    first = number * matchup.cohort_us
    return {"since": _moment(first), "until": _moment(first + matchup.cohort_us)}


def _versions(matchup: Matchup) -> dict[str, object]:
    return {"champion": matchup.champion, "challenger": matchup.challenger}


def _moment(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
