"""What a comparison says: the shapes that ``shadow compare --format json`` and ``GET /shadow/comparison`` print.

A figure that is undefined (no labels, one class only, another task) or larger than any double is None.
``docs/comparison.md`` has the formulas.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from shadow_mlops.comparison.disagreements import Disagreements
from shadow_mlops.comparison.segments import Segments
from shadow_mlops.domain.models import Task


def finite(figure: float) -> float | None:
    """A figure, or None where it is larger than any double: JSON has no word for that.

    >>> finite(0.5), finite(1e200 * 1e200)
    (0.5, None)
    """
    return figure if math.isfinite(figure) else None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How good one side was on the labelled pairs, and how quick on all pairs."""

    accuracy: float | None = None
    auc: float | None = None
    """Binary: of the positive class. Multiclass: mean over classes, each against the rest."""
    auc_error: float | None = None
    """The exact area lies within ``auc`` ± this; 0 when it was sorted for."""
    log_loss: float | None = None
    brier: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None


class Side(Figures, frozen=True, kw_only=True):
    """One model version in a comparison."""

    version: str | None = None
    latency_p50_ms: float | None = None
    """Champion: receipt of the request to the append. Challenger: its micro-batch, per row."""
    latency_p99_ms: float | None = None


class ScoreDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Challenger's score minus the champion's, over all pairs.

    For multiclass the total variation distance of the two distributions, which has no sign: ``mean`` is None.
    """

    mean: float | None = None
    mean_absolute: float | None = None
    largest: float | None = None
    """Largest absolute difference."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each sampled event: sampled = paired + timed_out + shed + errored + pending."""

    sampled: int
    paired: int
    timed_out: int
    shed: int
    errored: int
    pending: int
    source: Literal["monitor", "lake"] = "lake"
    """``monitor``: its books over the challenger's whole life; ``lake``: counted anew from the archived events."""


class Challenger(Side, frozen=True, kw_only=True):
    """One challenger version against one champion version; once for each name that it ran under."""

    name: str
    """Of the challenger that ran it, ``replay`` for a version that was only replayed; ``accounting`` is of this name,
    the other figures are the version's."""
    task: Task
    champion: Side
    """The champion on the very pairs that this challenger's figures are of."""
    pairs: int
    labelled: int
    label_coverage: float | None
    """Share of pairs whose label has matured."""
    replayed: int
    """Pairs that ``shadow replay`` made."""
    agreement: float | None
    """Share of pairs with the same decision; None for regression."""
    score_difference: ScoreDifference
    prevalence: float | dict[str, float] | None
    """Share of the positive class among the labels; multiclass: of each class."""
    accounting: Account
    noise_floor: bool = False
    """True: the champion's own version, scored again. What differs here is noise, and as much between any two."""
    segments: Segments | None = None
    """Only when asked for."""
    disagreements: Disagreements | None = None
    """Only when asked for: shows customers."""


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared with one champion version."""

    pairs: int
    labelled: int
    agreement: float | None
    champion: Side
    challengers: tuple[Challenger, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A span of the lake, compared.

    ``champion`` has the current champion's figures on the pairs of the first of ``challengers``; each challenger
    carries the champion's figures on its own pairs.
    """

    pairs: int
    """With the current champion, summed over its challengers' versions, as are ``labelled`` and ``agreement``; without
    the champion's own."""
    labelled: int
    agreement: float | None
    champion: Side
    challengers: tuple[Challenger, ...]
    earlier: tuple[Against, ...]
    """Pairs with other champion versions in the span, the latest first."""
    since: str | None
    """RFC 3339, event time, inclusive; None: from the first event."""
    until: str | None
    """Exclusive; None: to the last event."""
    snapshot: int
    """Number of the lake's snapshot that was read."""
    auc_bins: int | None
    """Bins of the score that areas are computed from; None: exact areas."""
