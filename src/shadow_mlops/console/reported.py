"""One prediction that was answered elsewhere: its form, and the scores that are in what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import msgspec

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.labelnames import class_names, plain_label

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Label: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | bool | int | float
_SLACK = 1e-6  # float32 sums of a softmax


class ReportedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client reports; of ``scores``, ``score`` and ``label`` the first that is given counts."""

    request_id: _Id
    time: Annotated[datetime, msgspec.Meta(tz=True, description="When it was answered; default: when it arrives.")] | (
        None
    ) = None
    entity: _Id | int | None = None
    features: dict[str, Any]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=200, description="Of the model that answered.")]
    scores: dict[str, float] | list[float] | None = None
    """By class, or in the order of the model's classes."""
    score: float | None = None
    """Probability of the positive class, or the value of a regression."""
    label: Label | None = None
    """A class alone: taken as certain."""
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=4e6)] = 0.0


class ScoresError(ValueError):
    """What is reported is no scores; the message says why, and ``field`` where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def scores_of(event: ReportedEvent, schema: EventSchema) -> list[float]:
    """Scores of an event, in the order of ``schema.outputs``.

    Raises
    ------
    ScoresError
        If it reports none, or none that fits the task.

    Examples
    --------
    >>> schema = EventSchema(
    ...     deployment="d", task="binary", model="m", version="1", registry_version="",
    ...     numbers=(), strings=(), outputs=("0", "1"), positive="1",
    ... )  # fmt: skip
    >>> scores_of(ReportedEvent(request_id="a", features={}, version="1", score=0.25), schema)
    [0.75, 0.25]
    """
    if event.scores is not None:
        return _all_scores(event.scores, schema)
    if event.score is not None:
        return _one_score(event.score, schema)
    if event.label is not None:
        return _certain(event.label, schema)
    raise ScoresError("score", "is required, or `scores`, or `label`")


def _all_scores(scores: Mapping[str, float] | list[float], schema: EventSchema) -> list[float]:
    names = ", ".join(schema.outputs)
    if isinstance(scores, Mapping):
        known = class_names(schema) if schema.task != "regression" else {}
        named = {known.get(plain_label(name), name): value for name, value in scores.items()}
        if named.keys() != set(schema.outputs):
            raise ScoresError("scores", f"must name each of {names}, and nothing else")
        scores = [named[name] for name in schema.outputs]
    if len(scores) != len(schema.outputs):
        raise ScoresError("scores", f"has {len(scores)} numbers, the model's outputs are {names}")
    if schema.task == "regression":
        return [_finite(scores[0], "scores")]
    return [_probability(score, "scores") for score in scores]


def _one_score(score: float, schema: EventSchema) -> list[float]:
    if schema.task == "regression":
        return [_finite(score, "score")]
    if schema.task != "binary":
        raise ScoresError("score", f"is for binary models; give `scores` by class: {', '.join(schema.outputs)}")
    given = _probability(score, "score")
    return [given if name == schema.positive else 1.0 - given for name in schema.outputs]


def _certain(label: Label, schema: EventSchema) -> list[float]:
    if schema.task == "regression":
        if isinstance(label, str):
            raise ScoresError("label", "must be a number: the task is regression")
        try:
            return [_finite(float(label), "label")]
        except OverflowError:
            raise ScoresError("label", "is too large") from None
    text = str(int(label)) if isinstance(label, bool) else str(label)
    names = class_names(schema)
    meant = names.get(text) or names.get(plain_label(text))
    if meant is None:
        raise ScoresError("label", f"is no class of the model: {', '.join(schema.outputs)}")
    return [float(name == meant) for name in schema.outputs]


def _finite(value: float, field: str) -> float:
    if not math.isfinite(value):
        raise ScoresError(field, "must be a finite number")
    return value


def _probability(value: float, field: str) -> float:
    if not -_SLACK <= value <= 1 + _SLACK:
        raise ScoresError(field, "must be a probability from 0 to 1")
    return min(max(value, 0.0), 1.0)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exactly; -1 for a time that UTC has no year for."""
    try:
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        return -1
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
