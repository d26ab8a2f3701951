"""Both sides measured on the same labelled pairs: what the label says against what each of them said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.comparison.auc import BINS, Auc, auc_of_counts, exact_auc, macro
from shadow_mlops.comparison.report import Figures, finite
from shadow_mlops.comparison.tallies import Group
from shadow_mlops.domain.models import Task

Role: TypeAlias = Literal["challenger", "champion"]

# A probability of 0 for what came true costs 36.04, as in scikit-learn, not infinity: clipped by the double's epsilon.
_SURPRISE = f"""
CREATE OR REPLACE TEMP MACRO surprise(p) AS -ln(least(greatest(p, {2.0**-52}), 1 - {2.0**-52}))
"""
_CELL = f"""
CREATE OR REPLACE TEMP MACRO cell(score, happened) AS
least(greatest(floor(score * {BINS}), 0), {BINS - 1})::INTEGER * 2 + happened::INTEGER
"""

_PAIRED = "CREATE OR REPLACE TEMP VIEW compared AS SELECT * FROM spanned_pairs WHERE status = 'paired'"
_SCORED: dict[Task, str] = {
    "binary": " AND target IS NOT NULL AND isfinite(score) AND isfinite(champion_score)",
    "multiclass": " AND outcome IS NOT NULL AND p_outcome IS NOT NULL AND champion_p_outcome IS NOT NULL",
    "regression": " AND isfinite(target) AND isfinite(score) AND isfinite(champion_score)",
}
_SIDE: dict[Role, str] = {
    "challenger": """
CREATE OR REPLACE TEMP VIEW side AS
SELECT schema, outcome, target, score, label, p_outcome, scores, outputs FROM compared
""",
    "champion": """
CREATE OR REPLACE TEMP VIEW side AS
SELECT schema, outcome, target, champion_score AS score, champion_label AS label, champion_p_outcome AS p_outcome,
    champion_scores AS scores, NULL AS outputs
FROM compared
""",
}
_EACH_CLASS = """
CREATE OR REPLACE TEMP VIEW each_class AS
WITH classes AS (
    SELECT unnest(coalesce(side.outputs, s.outputs)) AS class, unnest(side.scores) AS score, side.outcome
    FROM side JOIN event_schemas s ON s.hash = side.schema
)
SELECT class, score, plain_label(class) = plain_label(outcome) AS happened FROM classes
"""

_SHARES = "SELECT outcome, count(*) FROM compared GROUP BY outcome ORDER BY outcome"
_PARTS: dict[Task, str] = {
    "binary": "count_if(({0}score >= threshold) = (target = 1)), sum(surprise({0}p_outcome)),"
    " sum(({0}score - target) * ({0}score - target))",
    "multiclass": "count_if(plain_label({0}label) = plain_label(outcome)), sum(surprise({0}p_outcome)),"
    " sum(list_inner_product({0}scores, {0}scores) - 2 * {0}p_outcome + 1)",
    "regression": "sum(pow({0}score / $unit - target / $unit, 2)), sum(abs({0}score / $unit - target / $unit))",
}
_OF_LABELS: dict[Task, str] = {"binary": "sum(target)", "multiclass": "NULL", "regression": "var_pop(target / $unit)"}
_LARGEST = "SELECT max(greatest(abs(target), abs(score), abs(champion_score))) FROM compared"
_THRESHOLDS = " JOIN (SELECT hash, threshold FROM event_schemas) s ON s.hash = schema"
_SUMS: dict[Task, str] = {
    task: f"SELECT count(*), {_OF_LABELS[task]}, {sums.format('')}, {sums.format('champion_')}"  # noqa: S608 - constants
    f" FROM compared{_THRESHOLDS if task == 'binary' else ''}"
    for task, sums in _PARTS.items()
}

_CELLS = "SELECT cell(score, target = 1) AS cell, count(*) AS n FROM side GROUP BY cell"
_SCORES = "SELECT score FROM side WHERE (target = 1) = $happened"
_CLASSES = "SELECT DISTINCT class FROM each_class ORDER BY class"
_CLASS_CELLS = """
SELECT cell(score, happened) AS cell, count(*) AS n FROM each_class WHERE class = $class GROUP BY cell
"""
_CLASS_SCORES = "SELECT score FROM each_class WHERE class = $class AND happened = $happened"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Figures of both sides on one set of labelled pairs.

    Attributes
    ----------
    count
        Labelled pairs that both sides have scored.
    prevalence
        As :class:`~shadow_mlops.comparison.report.Challenger` has it.
    """

    count: int
    prevalence: float | dict[str, float] | None
    challenger: Figures
    champion: Figures


_NOTHING = Labelled(0, None, Figures(), Figures())


def labelled(connection: Any, group: Group, *, exact: bool) -> Labelled:
    """Figures of both sides of a group on its labelled pairs.

    Parameters
    ----------
    connection
        DuckDB connection with the views of a :class:`~shadow_mlops.comparison.window.Window`, the table
        ``event_schemas`` and the macro ``plain_label``.
    exact
        Sort the scores for the areas, instead of counting them in bins.
    """
    of_group = f" AND version = {_quoted(group.version)} AND champion_version = {_quoted(group.champion_version)}"
    for statement in (_SURPRISE, _CELL, _PAIRED + of_group + _SCORED[group.task]):
        connection.execute(statement)
    unit = _unit(connection) if group.task == "regression" else 1.0
    parameters = {"unit": unit} if group.task == "regression" else {}
    count, of_labels, *sums = connection.execute(_SUMS[group.task], parameters).fetchone()
    if not count:
        return _NOTHING
    half = len(sums) // 2
    if group.task == "regression":
        sides = [_values(count, unit, of_labels, *part) for part in (sums[:half], sums[half:])]
        return Labelled(count, None, *sides)
    areas = [_area_of_side(connection, group.task, role, exact=exact) for role in _SIDE]
    sides = [_probabilistic(count, area, *part) for part, area in zip((sums[:half], sums[half:]), areas, strict=True)]
    if group.task == "binary":
        return Labelled(count, of_labels / count, *sides)
    shares = {name: rows / count for name, rows in connection.execute(_SHARES).fetchall()}
    return Labelled(count, shares, *sides)


def _unit(connection: Any) -> float:
    """A power of two near the largest value: in it squares neither overflow nor vanish, and nothing is rounded."""
    (largest,) = connection.execute(_LARGEST).fetchone()
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0


def _values(count: int, unit: float, variance: float, squares: float, absolute: float) -> Figures:
    return Figures(
        rmse=finite((squares / count) ** 0.5 * unit),
        mae=finite(absolute / count * unit),
        r2=finite(1 - squares / (count * variance)) if variance > 0 else None,
    )


def _probabilistic(count: int, area: Auc, right: int, surprise: float, squares: float) -> Figures:
    return Figures(
        accuracy=right / count,
        auc=area.value,
        auc_error=area.error,
        log_loss=surprise / count,
        brier=squares / count,
    )


def _area_of_side(connection: Any, task: Task, role: Role, *, exact: bool) -> Auc:
    connection.execute(_SIDE[role])
    if task == "binary":
        return _area(connection, _SCORES if exact else _CELLS, {}, exact=exact)
    connection.execute(_EACH_CLASS)
    query = _CLASS_SCORES if exact else _CLASS_CELLS
    names = [name for (name,) in connection.execute(_CLASSES).fetchall()]
    return macro([_area(connection, query, {"class": name}, exact=exact) for name in names])


def _area(connection: Any, query: str, parameters: dict[str, object], *, exact: bool) -> Auc:
    if exact:
        return exact_auc(*(_scores(connection, query, parameters | {"happened": which}) for which in (True, False)))
    columns = connection.execute(query, parameters).fetchnumpy()
    counts = np.zeros(2 * BINS, dtype=np.int64)
    counts[columns["cell"]] = columns["n"]
    return auc_of_counts(counts[1::2], counts[0::2])


def _scores(connection: Any, query: str, parameters: dict[str, object]) -> NDArray[np.float64]:
    return np.array(connection.execute(query, parameters).fetchnumpy()["score"], dtype=np.float64)


def _quoted(text: str) -> str:
    # DuckDB takes no parameters in the definition of a view.
    return "'" + text.replace("'", "''") + "'"
