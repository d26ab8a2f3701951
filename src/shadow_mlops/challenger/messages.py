"""What the challenger and its scorer say to each other: plain msgpack, so nothing is unpickled."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shadow_mlops.domain.models import ModelCard


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Rows to score, in the order of the model's signature."""

    count: int
    numbers: bytes
    """float64, row by row."""
    strings: list[list[str | None]]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    card: ModelCard


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The model could not be loaded; the scorer ends."""

    reason: str


class Scores(msgspec.Struct, frozen=True, tag=True):
    """What the model made of the rows."""

    scores: bytes
    """float64, row by row; NaN where failed."""
    failed: bytes
    """One byte a row, 1 where the model raised or answered with something that is no score."""
    seconds: float
    problem: str
    """First failure in words, empty if there is none."""


Reply: TypeAlias = Ready | Refused | Scores
