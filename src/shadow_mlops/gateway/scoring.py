"""Rows to scores: the champion's, and in a canary step those of the new model for its entities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.deployment.columns import Columns
from shadow_mlops.domain.errors import PredictionError, UnavailableError
from shadow_mlops.gateway.champion import Served

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a tick that one model answers.

    Attributes
    ----------
    rows
        Which of the tick's rows; None: all.
    columns, scores
        Of these rows.
    failed
        Place among these rows -> what the client is told.
    given_up
        How many of them the canary was to answer and could not.
    """

    served: Served
    rows: list[int] | None
    columns: Columns
    scores: NDArray[np.float64]
    failed: dict[int, Exception]
    given_up: int = 0


def score_parts(served: Served, columns: Columns, canary: NDArray[np.bool_] | None) -> list[Part]:
    """Score the rows of a tick.

    A row on which the canary's model fails is answered by the champion: no client gets an error because of a trial.

    Parameters
    ----------
    canary
        bool (n,): rows of the canary's entities; None: there is no canary.
    """
    if canary is None or served.canary is None or not canary.any():
        return [Part(served, None, columns, *score(served, columns))]
    chosen = np.flatnonzero(canary).tolist()
    parts, left = _canary_part(served.canary.served, take_columns(columns, chosen), chosen)
    rest = sorted([*np.flatnonzero(~canary).tolist(), *left])
    if rest:
        of_champion = take_columns(columns, rest)
        parts.append(Part(served, rest, of_champion, *score(served, of_champion), given_up=len(left)))
    return parts


def _canary_part(served: Served, columns: Columns, chosen: list[int]) -> tuple[list[Part], list[int]]:
    """What the canary answers, and the rows that it could not."""
    try:
        scores, failed = score(served, columns)
    except UnavailableError as error:
        log.warning("the canary does not answer, the champion does", reason=str(error), rows=len(chosen))
        return [], chosen
    if not failed:
        return [Part(served, chosen, columns, scores, {})], []
    good = [place for place in range(len(chosen)) if place not in failed]
    left = [chosen[place] for place in failed]
    if not good:
        return [], left
    return [Part(served, [chosen[place] for place in good], take_columns(columns, good), scores[good], {})], left


def score(served: Served, columns: Columns) -> tuple[NDArray[np.float64], dict[int, Exception]]:
    """Scores of all rows; a row on which the model fails is told apart, so that it does not take the others with it.

    Raises
    ------
    UnavailableError
        If the model is elsewhere and cannot be asked now.
    """
    width = len(served.schema.outputs)
    try:
        scores = served.predict(columns.numbers, columns.strings)
        if scores.shape == (len(columns.numbers), width):
            absent = np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist()
            if not absent:
                return scores, {}
            if served.loaded.detached is not None:  # it has told the rows apart itself, within its time-out
                return scores, {index: UnavailableError("the model gave no score for this row") for index in absent}
    except UnavailableError:  # to ask again, row by row, would multiply a time-out by the rows
        raise
    except Exception as error:  # noqa: BLE001 - models raise anything; the rows are tried alone below
        log.warning(
            "a model failed on a batch, trying its rows alone",
            version=served.schema.version,
            reason=str(error),
            rows=len(columns.numbers),
        )
    scores = np.full((len(columns.numbers), width), np.nan)
    failed: dict[int, Exception] = {}
    for index in range(len(scores)):
        one = slice(index, index + 1)
        try:
            score = served.predict(columns.numbers[one], columns.strings[one])
            if score.shape != (1, width) or not np.isfinite(score).all():
                failed[index] = PredictionError("the model gave no finite score")
            else:
                scores[index] = score[0]
        except Exception as error:  # noqa: BLE001
            failed[index] = PredictionError(f"the model failed: {error}")
    return scores, failed


def take_columns(columns: Columns, keep: list[int]) -> Columns:
    """Some of the rows."""
    origins = None if columns.origins is None else columns.origins[keep]
    ages = None if columns.ages is None else columns.ages[keep]
    return Columns(columns.numbers[keep], columns.strings[keep], origins, {}, ages)
