"""Matured labels meet shadow results: one row of ``pairs`` for each (event, challenger version)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from shadow_mlops.lake.tables import PAIRS

_TEMPORARY = ("ready", "settled")

_READY = """
CREATE OR REPLACE TEMP TABLE ready AS
WITH newly AS (
    SELECT true AS joined_now, segment, row, time FROM fresh
    WHERE verdict = 'joined' AND (matures IS NULL OR matures <= getvariable('now'))
    UNION ALL
    SELECT false, segment, row, time FROM labels
    WHERE verdict = 'joined' AND matures <= getvariable('now')
        AND matures > coalesce(getvariable('since'), '-infinity'::TIMESTAMPTZ)
), span AS (
    SELECT min(time) AS first, max(time) AS last FROM new_results
), earlier AS (
    SELECT l.segment, l.row, l.time
    FROM (
        SELECT segment, row, time FROM labels
        WHERE verdict = 'joined' AND (matures IS NULL OR matures <= getvariable('now'))
            AND time >= (SELECT first FROM span) AND time <= (SELECT last FROM span)
    ) l
    SEMI JOIN new_results r ON r.segment = l.segment AND r.row = l.row
    ANTI JOIN newly n ON n.segment = l.segment AND n.row = l.row
)
SELECT true AS newly, joined_now, segment, row, time FROM newly
UNION ALL
SELECT false, false, segment, row, time FROM earlier
"""

# Spans of event time, as constants: files and row groups outside them are not read. An event that was joined in this
# round has no label in the snapshot, hence no pair.
_SPANS = (
    "SET VARIABLE first_old = (SELECT min(time) FROM ready WHERE NOT joined_now)",
    "SET VARIABLE last_old = (SELECT max(time) FROM ready WHERE NOT joined_now)",
    "SET VARIABLE first_newly = (SELECT min(time) FROM ready WHERE newly)",
    "SET VARIABLE last_newly = (SELECT max(time) FROM ready WHERE newly)",
)

_SETTLED = """
CREATE OR REPLACE TEMP TABLE settled AS
WITH eligible AS (
    SELECT segment, row, received, label, verdict, matures, boot, monotonic_ns, outcome_segment, outcome_row
    FROM labels WHERE verdict IN ('joined', 'repeated', 'contradicting')
        AND time >= getvariable('first_old') AND time <= getvariable('last_old')
    UNION ALL
    SELECT segment, row, received, label, verdict, matures, boot, monotonic_ns, outcome_segment, outcome_row
    FROM fresh WHERE verdict IN ('joined', 'repeated', 'contradicting')
), events_with_labels AS (
    SELECT e.segment, e.row,
        any_value({'label': label, 'received': received, 'boot': boot, 'monotonic_ns': monotonic_ns})
            FILTER (verdict = 'joined') AS first_one,
        arg_max({'label': label, 'received': received, 'boot': boot, 'monotonic_ns': monotonic_ns},
            (boot, monotonic_ns, outcome_segment, outcome_row)) AS last_one,
        bool_or(verdict = 'contradicting') AS contradicted,
        bool_or(verdict = 'joined' AND matures IS NULL) AS at_once
    FROM eligible e SEMI JOIN ready r ON r.segment = e.segment AND r.row = e.row
    GROUP BY e.segment, e.row
)
SELECT segment, row, unnest(CASE WHEN at_once OR getvariable('policy') <> 'last' THEN first_one ELSE last_one END)
FROM events_with_labels
WHERE at_once OR getvariable('policy') <> 'reject' OR NOT contradicted
"""

_PAIRS = """
WITH scored AS (
    SELECT r.* FROM (
        SELECT * FROM results WHERE time >= getvariable('first_newly') AND time <= getvariable('last_newly')
    ) r
    SEMI JOIN (SELECT * FROM ready WHERE newly) e ON e.segment = r.segment AND e.row = r.row
    UNION ALL BY NAME
    SELECT r.* FROM new_results r
    SEMI JOIN (SELECT * FROM ready WHERE NOT newly) e ON e.segment = r.segment AND e.row = r.row
), paired AS (
    SELECT p.segment, p.row, p.version FROM (
        SELECT segment, row, version FROM pairs
        WHERE time >= getvariable('first_old') AND time <= getvariable('last_old')
    ) p
    SEMI JOIN ready e ON e.segment = p.segment AND e.row = p.row
), due AS (
    SELECT s.* FROM scored s
    ANTI JOIN paired p ON p.segment = s.segment AND p.row = s.row AND p.version = s.version
)
SELECT d.*, l.label AS outcome,
    CASE s.task WHEN 'binary' THEN (l.label = s.positive)::DOUBLE
                WHEN 'regression' THEN l.label::DOUBLE END AS target,
    CASE s.task
        WHEN 'binary' THEN CASE WHEN l.label = s.positive THEN d.score ELSE 1 - d.score END
        WHEN 'multiclass' THEN CASE WHEN d.scores IS NOT NULL THEN coalesce(d.scores[coalesce(
            list_position(d.outputs, l.label),
            list_position(list_transform(d.outputs, lambda name: plain_label(name)), plain_label(l.label))
        )], 0.0) END
    END AS p_outcome,
    CASE s.task
        WHEN 'binary' THEN CASE WHEN l.label = s.positive THEN d.champion_score ELSE 1 - d.champion_score END
        WHEN 'multiclass' THEN d.champion_scores[list_position(s.outputs, l.label)]
    END AS champion_p_outcome,
    l.received AS outcome_received
FROM due d
JOIN settled l ON l.segment = d.segment AND l.row = d.row
JOIN event_schemas s ON s.schema = d.schema
ORDER BY greatest((d.boot, d.monotonic_ns), (l.boot, l.monotonic_ns)),
    d.boot, d.monotonic_ns, d.result_segment, d.result_row, d.segment, d.row, d.version
"""


def mature(connection: Any) -> pa.Table:
    """Pairs that this round makes possible: newly final labels with all results, new results with all final labels.

    A label is final when its ``matures`` has come; an outcome that was received later never counts, so that it is the
    same whenever it is looked at. A challenger that does not know the class that came true gave it probability 0.

    Parameters
    ----------
    connection
        As :func:`~shadow_mlops.lake.matching.match` has prepared it: with ``fresh``, the labels of this round.
    """
    try:
        connection.execute(_READY)
        for step in (*_SPANS, _SETTLED):
            connection.execute(step)
        return connection.sql(_PAIRS).to_arrow_table().select(PAIRS.names).cast(PAIRS)
    finally:
        for name in _TEMPORARY:
            connection.execute(f"DROP TABLE IF EXISTS {name}")
