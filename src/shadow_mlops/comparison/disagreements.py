"""Where the two models disagree most, and most often: the rows to look at before a promotion. No label is needed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from shadow_mlops.comparison.sided import Features
from shadow_mlops.domain.events import event_id
from shadow_mlops.domain.models import Task
from shadow_mlops.lake.queries import quoted
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX
from shadow_mlops.statistics import distances
from shadow_mlops.statistics.bins import quantile_bins

_MOST_SCORES = 1_000_000
_CELLS = """
SELECT champion_label, challenger_label, count(*), count_if(labelled),
    count_if(labelled AND plain_label(outcome) = plain_label(champion_label)),
    count_if(labelled AND plain_label(outcome) = plain_label(challenger_label))
FROM sided WHERE champion_label IS DISTINCT FROM challenger_label
GROUP BY ALL ORDER BY count(*) DESC, champion_label, challenger_label LIMIT $most
"""
_SCORES = """
SELECT champion_score, challenger_score FROM sided
WHERE isfinite(champion_score) AND isfinite(challenger_score)
ORDER BY boot DESC, monotonic_ns DESC, segment DESC, row DESC LIMIT $most
"""
_TURNS = {
    "multiclass": "champion_label IS DISTINCT FROM challenger_label",
    "binary": "isfinite(champion_score) AND isfinite(challenger_score)",
    "regression": "isfinite(champion_score) AND isfinite(challenger_score)",
}
_APART = {
    "multiclass": "(list_max(champion_scores) + list_max(challenger_scores)) / 2",
    "binary": "abs(challenger_score - champion_score)",
    "regression": "abs(challenger_score - champion_score)",
}


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What one side made of a row."""

    score: float | None
    label: str | None


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    event_id: str
    request_id: str
    time: str
    entity: str | None
    champion: Said
    challenger: Said
    apart: float
    """Difference of the scores; for multiclass how sure both were of different classes."""
    outcome: str | None
    features: dict[str, float | str | None]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions that differ in the same way."""

    champion: str | None
    challenger: str | None
    pairs: int
    labelled: int
    champion_right: int
    challenger_right: int
    words: str


class ScoreDistance(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart the two distributions of scores are, in ten bins of the champion's."""

    psi: float
    ks: float
    js: float
    pairs: int
    words: str


class Disagreements(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to look at."""

    largest: tuple[Disagreement, ...]
    frequent: tuple[Cell, ...]
    scores: ScoreDistance | None
    """None for multiclass, and where there are no pairs."""


def disagreements(connection: Any, *, features: Features, task: Task, most: int = 20) -> Disagreements:
    """Largest and most frequent disagreements of the view ``sided``.

    Parameters
    ----------
    connection
        With the macro ``plain_label`` too.
    most
        Rows of each list.
    """
    cells = [] if task == "regression" else connection.execute(_CELLS, {"most": most}).fetchall()
    return Disagreements(
        largest=_largest(connection, features, task, most),
        frequent=tuple(_cell(row) for row in cells),
        scores=None if task == "multiclass" else _score_distance(connection),
    )


def _largest(connection: Any, features: Features, task: Task, most: int) -> tuple[Disagreement, ...]:
    columns = "".join(f", {quoted(name)}" for name in features.columns)
    query = f"""
    SELECT segment, row, request_id, strftime(time, '%Y-%m-%dT%H:%M:%S.%fZ') AS time, named_entity, champion_score,
        challenger_score, champion_label, challenger_label, {_APART[task]} AS apart, outcome{columns}
    FROM sided WHERE {_TURNS[task]} ORDER BY apart DESC, boot, monotonic_ns, segment, row LIMIT {most}
    """  # noqa: S608 - constants, quoted names and a number
    rows = connection.sql(query).to_arrow_table().to_pylist()
    return tuple(
        Disagreement(
            event_id=event_id(row["segment"], row["row"]),
            request_id=row["request_id"],
            time=row["time"],
            entity=row["named_entity"],
            champion=Said(score=row["champion_score"], label=row["champion_label"]),
            challenger=Said(score=row["challenger_score"], label=row["challenger_label"]),
            apart=row["apart"],
            outcome=row["outcome"],
            features={
                **{name: row[NUMBER_PREFIX + name] for name in features.numbers},
                **{name: row[STRING_PREFIX + name] for name in features.strings},
            },
        )
        for row in rows
    )


def _cell(row: tuple[str | None, str | None, int, int, int, int]) -> Cell:
    champion, challenger, pairs, labelled, ours, theirs = row
    words = f"champion {champion}, challenger {challenger}: {pairs:,} pairs"
    if labelled:
        words += f"; of {labelled:,} labelled the champion was right on {ours:,}, the challenger on {theirs:,}"
    return Cell(
        champion=champion,
        challenger=challenger,
        pairs=pairs,
        labelled=labelled,
        champion_right=ours,
        challenger_right=theirs,
        words=words,
    )


def _score_distance(connection: Any) -> ScoreDistance | None:
    columns = connection.execute(_SCORES, {"most": _MOST_SCORES}).fetchnumpy()
    ours, theirs = (np.asarray(columns[f"{side}_score"], dtype=np.float64) for side in ("champion", "challenger"))
    if not len(ours):
        return None
    bins = quantile_bins(ours)
    reference, current = bins.count(ours), bins.count(theirs)
    coarse = bins.coarse(reference), bins.coarse(current)
    psi, js = float(distances.psi(*coarse)), float(distances.js(*coarse))
    ks = float(distances.ks_of_counts(reference[:-1], current[:-1]))
    far = "alike" if psi < 0.1 else "a little apart" if psi < 0.3 else "far apart"
    return ScoreDistance(
        psi=psi, ks=ks, js=js, pairs=len(ours), words=f"the two distributions of scores are {far} (PSI {psi:.3g})"
    )
