"""What ``shadow demo loop`` is to show, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_AFTER = 0.01  # accuracy that a new model may be below the old one's before the drift
_FROZEN = 0.04  # that the old one must be below the new one after it


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to happen."""

    seed: int
    rate: float
    customers: int
    before: int
    """Rows until the customers drift."""
    after: int
    """Rows that are counted after the promotion."""
    drift: float
    concept_drift: float
    kills: int
    """Of the monitor, at random moments."""
    most_seconds: float
    without: tuple[str, ...] = ()
    """Features that requests leave to the feature store."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""

    what: str
    row: int
    """Rows sent by then."""
    seconds: float
    since_drift: float | None
    note: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; with ``--format json`` this is what is printed."""

    plan: Plan
    timeline: tuple[Mark, ...]
    retrainings: tuple[str, ...]
    """State of each trigger."""
    promotions: int
    champion: str
    kills: int
    accuracy: dict[str, float]
    """``before``, ``drifted`` (until the promotion), ``after``; ``frozen``: the old model on the rows of ``after``."""
    answers: dict[str, int]
    failed: int
    """Requests without an answer, of either."""
    problems: tuple[str, ...]
    """What should have been and was not; empty: all held."""


def problems(found: Result, new: str) -> Iterator[str]:
    """What should have been and was not.

    Parameters
    ----------
    new
        The version that was trained.
    """
    accuracy = found.accuracy
    if found.retrainings != ("done",):
        yield f"one retraining was to be done, there were: {', '.join(found.retrainings) or 'none'}"
    if found.champion != new or found.promotions != 1:
        yield f"{new} was to be promoted once; {found.champion} answers after {found.promotions} promotions"
    if found.failed:
        yield f"{found.failed:,} requests without an answer"
    if accuracy["after"] < accuracy["before"] - _AFTER:
        yield f"accuracy {accuracy['after']:.4f} after is more than a point below {accuracy['before']:.4f} before"
    if accuracy["frozen"] > accuracy["after"] - _FROZEN:
        yield f"the frozen model is not 4 points lower: {accuracy['frozen']:.4f} beside {accuracy['after']:.4f}"
