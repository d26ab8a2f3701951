"""Rows of one matchup with both sides and the features that they saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shadow_mlops.lake.queries import quoted
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX

_SIDED = """
CREATE OR REPLACE TEMP VIEW sided AS
WITH scored AS (
    SELECT * FROM spanned_results
    WHERE status = 'paired' AND version = {challenger} AND champion_version = {champion}
), truths AS (
    SELECT segment, row, outcome, target, p_outcome, champion_p_outcome FROM spanned_pairs
    WHERE version = {challenger} AND champion_version = {champion}
)
SELECT s.segment, s.row, s.time, s.task, s.schema, e.boot, e.monotonic_ns, e.request_id,
    coalesce(e.entity, e.request_id) AS entity, e.entity AS named_entity, coalesce(s.swapped, false) AS swapped,
    s.champion_score, s.score AS challenger_score, s.champion_label, s.label AS challenger_label,
    s.champion_scores, s.scores AS challenger_scores,
    t.champion_p_outcome, t.p_outcome AS challenger_p_outcome, t.outcome, t.target,
    coalesce(CASE s.task
        WHEN 'binary' THEN t.target IS NOT NULL AND isfinite(s.score) AND isfinite(s.champion_score)
        WHEN 'multiclass' THEN t.outcome IS NOT NULL AND t.p_outcome IS NOT NULL AND t.champion_p_outcome IS NOT NULL
        ELSE isfinite(t.target) AND isfinite(s.score) AND isfinite(s.champion_score)
    END, false) AS labelled{features}
FROM scored s
JOIN spanned_events e ON e.segment = s.segment AND e.row = s.row
LEFT JOIN truths t ON t.segment = s.segment AND t.row = s.row
"""
_FEATURES = """
SELECT column_name FROM duckdb_columns() WHERE table_name = 'events'
    AND (starts_with(column_name, 'n_') OR starts_with(column_name, 's_')) ORDER BY column_index
"""


@dataclass(frozen=True, slots=True)
class Features:
    """Columns of the events that hold features.

    Attributes
    ----------
    numbers, strings
        Names without their prefix.
    """

    numbers: tuple[str, ...]
    strings: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """As the lake calls them."""
        return tuple(NUMBER_PREFIX + name for name in self.numbers) + tuple(
            STRING_PREFIX + name for name in self.strings
        )


def features_of(connection: Any) -> Features:
    """Every feature that an event of the open lake has."""
    found = [name for (name,) in connection.execute(_FEATURES).fetchall()]
    return Features(
        tuple(name.removeprefix(NUMBER_PREFIX) for name in found if name.startswith(NUMBER_PREFIX)),
        tuple(name.removeprefix(STRING_PREFIX) for name in found if name.startswith(STRING_PREFIX)),
    )


def open_sided(connection: Any, champion: str, challenger: str, features: Features) -> None:
    """Make the view ``sided``.

    Parameters
    ----------
    connection
        DuckDB connection with the views of a :class:`~shadow_mlops.comparison.window.Window`.
    """
    columns = "".join(f", e.{quoted(name)}" for name in features.columns)
    connection.execute(_SIDED.format(champion=_text(champion), challenger=_text(challenger), features=columns))


def labelled_rows(connection: Any, columns: Sequence[str], most: int) -> pa.Table:
    """The newest labelled rows of the view, at most so many, in the order of the log."""
    names = ", ".join(quoted(name) for name in columns)
    query = f"""
    SELECT {names} FROM (
        SELECT * FROM sided WHERE labelled ORDER BY boot DESC, monotonic_ns DESC, segment DESC, row DESC LIMIT {most}
    ) ORDER BY boot, monotonic_ns, segment, row
    """  # noqa: S608 - names are quoted, the limit is a number
    return connection.sql(query).to_arrow_table()


def _text(value: str) -> str:
    # DuckDB takes no parameters in the definition of a view.
    return "'" + value.replace("'", "''") + "'"
