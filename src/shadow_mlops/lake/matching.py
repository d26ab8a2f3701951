"""Outcomes meet their predictions: joins over whole rounds, never row by row.

What an outcome is matched with depends on the log alone, not on how it was cut into rounds, as long as the events that
were appended before an outcome are archived no later than it:

- by request id: the first event with that id;
- by entity and time: among the entity's events not after that time, the latest of those appended before the outcome; if
  there is none, the first that is appended after it.

No outcome belongs to an event that is more than a day later than its own receipt, so that one that waits for its event
is looked at again for a day, not for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.labelnames import PLAIN_MACRO, class_table, schema_table
from shadow_mlops.lake.maturing import mature
from shadow_mlops.lake.tables import LABELS

Policy: TypeAlias = Literal["first", "last", "reject"]
VERDICTS = ("joined", "repeated", "contradicting", "late", "invalid")
"""Of outcomes that were matched with an event; each such outcome has one row in ``labels``."""
UNMATCHED = "unmatched"
"""With the verdicts, the names of the counts: their sum is the number of outcomes ever archived."""

_TEMPORARY = ("unmatched", "matched", "judged", "fresh")

_UNMATCHED = """
CREATE OR REPLACE TEMP TABLE unmatched AS
WITH earlier AS (
    SELECT o.* FROM (SELECT * FROM outcomes WHERE received >= getvariable('first_event') - INTERVAL 1 DAY) o
    ANTI JOIN new_outcomes n ON n.segment = o.segment AND n.row = o.row
    ANTI JOIN (SELECT * FROM labels WHERE received >= getvariable('first_event') - INTERVAL 1 DAY) l
        ON l.outcome_segment = o.segment AND l.outcome_row = o.row
), known AS (
    SELECT l.outcome_segment, l.outcome_row FROM labels l
    SEMI JOIN new_outcomes o ON l.outcome_segment = o.segment AND l.outcome_row = o.row
), both_kinds AS (
    SELECT true AS new, segment, row, boot, monotonic_ns, received, time, label, request_id, entity
    FROM new_outcomes o ANTI JOIN known l ON l.outcome_segment = o.segment AND l.outcome_row = o.row
    UNION ALL
    SELECT false, segment, row, boot, monotonic_ns, received, time, label, request_id, entity FROM earlier
)
SELECT *, CASE WHEN request_id IS NULL THEN least(time, received + INTERVAL 1 DAY)
          ELSE received + INTERVAL 1 DAY END AS until
FROM both_kinds
"""

_BY_REQUEST = """
CREATE OR REPLACE TEMP TABLE matched AS
WITH found AS (
    SELECT o.segment AS outcome_segment, o.row AS outcome_row,
        e.segment, e.row, e.time, e.schema, e.boot, e.monotonic_ns
    FROM (SELECT * FROM unmatched WHERE new) o JOIN events e ON e.request_id = o.request_id AND e.time <= o.until
    UNION ALL
    SELECT o.segment, o.row, e.segment, e.row, e.time, e.schema, e.boot, e.monotonic_ns
    FROM (SELECT * FROM unmatched WHERE NOT new) o
    JOIN new_events e ON e.request_id = o.request_id AND e.time <= o.until
), firsts AS (
    SELECT outcome_segment, outcome_row, arg_min(
        {'segment': segment, 'row': row, 'time': time, 'schema': schema, 'boot': boot, 'monotonic_ns': monotonic_ns},
        (boot, monotonic_ns, segment, row)
    ) AS event
    FROM found GROUP BY outcome_segment, outcome_row
)
SELECT outcome_segment, outcome_row, unnest(event) FROM firsts
"""

_BY_ENTITY = """
INSERT INTO matched
WITH asked AS (
    SELECT new, segment, row, boot, monotonic_ns, entity, until
    FROM unmatched WHERE request_id IS NULL AND entity IS NOT NULL AND time IS NOT NULL
), moments AS (
    SELECT e.entity, e.time, arg_max(
        {'segment': segment, 'row': row, 'time': time, 'schema': schema, 'boot': boot, 'monotonic_ns': monotonic_ns},
        (boot, monotonic_ns, segment, row)
    ) AS event
    FROM events e SEMI JOIN (SELECT entity FROM asked WHERE new) o ON o.entity = e.entity
    GROUP BY e.entity, e.time
), latest AS MATERIALIZED (
    SELECT o.*, m.event, (m.event.boot, m.event.monotonic_ns) <= (o.boot, o.monotonic_ns) AS appended_before
    FROM (SELECT * FROM asked WHERE new) o ASOF JOIN moments m ON o.entity = m.entity AND o.until >= m.time
), found AS (
    SELECT o.segment AS outcome_segment, o.row AS outcome_row, o.boot AS outcome_boot, o.monotonic_ns AS outcome_ns,
        e.segment, e.row, e.time, e.schema, e.boot, e.monotonic_ns
    FROM (SELECT * FROM latest WHERE NOT appended_before) o
    JOIN events e ON e.entity = o.entity AND e.time <= o.until
    UNION ALL
    SELECT o.segment, o.row, o.boot, o.monotonic_ns, e.segment, e.row, e.time, e.schema, e.boot, e.monotonic_ns
    FROM (SELECT * FROM asked WHERE NOT new) o
    JOIN new_events e ON e.entity = o.entity AND e.time <= o.until
), ranked AS (
    SELECT *, (boot, monotonic_ns) > (outcome_boot, outcome_ns) AS ahead, CASE WHEN ahead THEN 1 ELSE -1 END AS sign
    FROM found
), chosen AS (
    SELECT outcome_segment, outcome_row, arg_min(
        {'segment': segment, 'row': row, 'time': time, 'schema': schema, 'boot': boot, 'monotonic_ns': monotonic_ns},
        (ahead, CASE WHEN ahead THEN 0 ELSE -epoch_us(time) END,
         sign * boot, sign * monotonic_ns, sign * segment, sign * row)
    ) AS event
    FROM ranked GROUP BY outcome_segment, outcome_row
)
SELECT segment AS outcome_segment, row AS outcome_row, unnest(event) FROM latest WHERE appended_before
UNION ALL
SELECT outcome_segment, outcome_row, unnest(event) FROM chosen
"""

_UNKNOWN_SCHEMA = "SELECT schema FROM matched m ANTI JOIN event_schemas s ON s.schema = m.schema LIMIT 1"

_JUDGED = """
CREATE OR REPLACE TEMP TABLE judged AS
SELECT m.outcome_segment, m.outcome_row, m.segment, m.row, m.time, o.received, o.boot, o.monotonic_ns,
    m.boot AS event_boot, m.monotonic_ns AS event_ns, o.label AS given,
    CASE WHEN s.task <> 'regression' THEN coalesce(exact.class, plain.class)
         WHEN isfinite(try_cast(o.label AS DOUBLE)) THEN CAST(try_cast(o.label AS DOUBLE) + 0 AS VARCHAR) END AS label,
    epoch_us(m.time) + getvariable('max_delay_us') AS deadline_us,
    epoch_us(coalesce(o.time, o.received)) > deadline_us AS late
FROM matched m
JOIN unmatched o ON o.segment = m.outcome_segment AND o.row = m.outcome_row
JOIN event_schemas s ON s.schema = m.schema
LEFT JOIN class_names exact ON exact.schema = m.schema AND exact.given = o.label
LEFT JOIN class_names plain ON plain.schema = m.schema AND plain.given = plain_label(o.label)
"""

# As constants: files and row groups outside of the span are not read.
_JUDGED_SPAN = (
    "SET VARIABLE first_judged = (SELECT min(time) FROM judged)",
    "SET VARIABLE last_judged = (SELECT max(time) FROM judged)",
)

_FRESH = """
CREATE OR REPLACE TEMP TABLE fresh AS
WITH standing AS (
    SELECT l.* FROM labels l SEMI JOIN judged j ON l.segment = j.segment AND l.row = j.row
    WHERE l.verdict IN ('joined', 'repeated', 'contradicting')
        AND l.time >= getvariable('first_judged') AND l.time <= getvariable('last_judged')
), eligible AS (
    SELECT false AS new, outcome_segment, outcome_row, segment, row, boot, monotonic_ns, received, label, matures
    FROM standing
    UNION ALL
    SELECT true, outcome_segment, outcome_row, segment, row, boot, monotonic_ns, received, label,
        CASE WHEN getvariable('policy') <> 'first'
        THEN greatest(make_timestamp(deadline_us)::TIMESTAMPTZ, received) END
    FROM judged WHERE label IS NOT NULL AND NOT late
), opened AS (
    SELECT *, row_number() OVER log_order = 1 AND new AS joined,
        first_value(label) OVER log_order AS first_label, first_value(matures) OVER log_order AS final_at
    FROM eligible
    WINDOW log_order AS (
        PARTITION BY segment, row ORDER BY boot, monotonic_ns, outcome_segment, outcome_row
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
), compared AS (
    SELECT *, coalesce(new AND received > final_at, false) AS after_end,
        CASE WHEN getvariable('policy') <> 'last' THEN first_label
        ELSE last_value(CASE WHEN new AND received > final_at THEN NULL ELSE label END IGNORE NULLS) OVER (
            PARTITION BY segment, row ORDER BY boot, monotonic_ns, outcome_segment, outcome_row
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) END AS reference
    FROM opened
), verdicts AS (
    SELECT outcome_segment, outcome_row, CASE WHEN joined THEN final_at END AS matures,
        CASE WHEN joined THEN 'joined' WHEN after_end THEN 'late'
             WHEN label = reference THEN 'repeated' ELSE 'contradicting' END AS verdict
    FROM compared WHERE new
)
SELECT j.outcome_segment, j.outcome_row, j.segment, j.row, j.time, j.received, coalesce(j.label, j.given) AS label,
    coalesce(v.verdict, CASE WHEN j.label IS NULL THEN 'invalid' ELSE 'late' END) AS verdict,
    v.matures, j.boot, j.monotonic_ns, j.event_boot, j.event_ns
FROM judged j LEFT JOIN verdicts v ON v.outcome_segment = j.outcome_segment AND v.outcome_row = j.outcome_row
"""

_LABELS = """
SELECT * EXCLUDE (event_boot, event_ns) FROM fresh
ORDER BY greatest((boot, monotonic_ns), (event_boot, event_ns)), boot, monotonic_ns, outcome_segment, outcome_row
"""

_COUNTS = "SELECT verdict, count(*) FROM fresh GROUP BY verdict"
_NEWLY_UNMATCHED = """
SELECT (SELECT count(*) FROM unmatched WHERE new) - (SELECT count(*) FROM matched)
"""


@dataclass(frozen=True, slots=True)
class Matched:
    """What a round adds to the lake.

    Attributes
    ----------
    labels
        Rows of ``labels``: one for each outcome that was matched, in the order in which the log made it possible.
    pairs
        Rows of ``pairs``, ordered alike.
    counts
        Verdict, or ``unmatched``, to the number of outcomes that it has more (``unmatched``: or fewer) than before.
    """

    labels: pa.Table
    pairs: pa.Table
    counts: dict[str, int]


def match(
    connection: Any,
    *,
    policy: Policy,
    max_delay_seconds: float,
    now_us: int,
    positives: Mapping[str, EventSchema],
    since_us: int | None = None,
) -> Matched:
    """Match outcomes with events, and matured labels with shadow results.

    Parameters
    ----------
    connection
        DuckDB connection, time zone UTC, with the views ``events``, ``results`` and ``outcomes`` (this round's rows
        included), ``labels`` and ``pairs`` (of the last snapshot), and the tables ``new_events``, ``new_results`` and
        ``new_outcomes`` of this round's rows.
    policy
        Which of several labels of one event holds.
    max_delay_seconds
        An outcome that is this much later than its event is late. With ``last`` and ``reject`` a label is final then.
    now_us
        Microseconds since 1970. Every outcome received until then is archived, or is among this round's.
    positives
        Schema hash to schema, of every event there is.
    since_us
        ``now_us`` of the last round that is in the snapshot: labels that were final by then have their pairs. None:
        not known, all final labels are looked at again.

    Raises
    ------
    LakeError
        If the schema of an event is not known.
    """
    with _names(connection, positives):
        _set(connection, "policy", f"'{policy}'")
        _set(connection, "max_delay_us", f"{round(max_delay_seconds * 1e6)}::BIGINT")
        _set(connection, "now", _timestamp(now_us))
        _set(connection, "since", "NULL::TIMESTAMPTZ" if since_us is None else _timestamp(since_us))
        _set(connection, "first_event", "(SELECT min(time) FROM new_events)")
        for step in (_UNMATCHED, _BY_REQUEST, _BY_ENTITY):
            connection.execute(step)
        for (unknown,) in connection.execute(_UNKNOWN_SCHEMA).fetchall():
            raise LakeError(f"the manifest does not know the schema {unknown} of events that have outcomes")
        for step in (_JUDGED, *_JUDGED_SPAN, _FRESH):
            connection.execute(step)
        counts = dict.fromkeys(VERDICTS, 0) | dict(connection.execute(_COUNTS).fetchall())
        ((counts[UNMATCHED],),) = connection.execute(_NEWLY_UNMATCHED).fetchall()
        labels = connection.sql(_LABELS).to_arrow_table().select(LABELS.names).cast(LABELS)
        return Matched(labels=labels, pairs=mature(connection), counts=counts)


@contextmanager
def _names(connection: Any, schemas: Mapping[str, EventSchema]) -> Iterator[None]:
    """The tables that the steps need, for as long as the block runs."""
    connection.execute(PLAIN_MACRO)
    connection.register("class_names", class_table(schemas))
    connection.register("event_schemas", schema_table(schemas))
    try:
        yield
    finally:
        for name in _TEMPORARY:
            connection.execute(f"DROP TABLE IF EXISTS {name}")
        connection.unregister("class_names")
        connection.unregister("event_schemas")


def _set(connection: Any, name: str, expression: str) -> None:
    connection.execute(f"SET VARIABLE {name} = {expression}")


def _timestamp(us: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    return f"TIMESTAMPTZ '{moment.isoformat()}'"
