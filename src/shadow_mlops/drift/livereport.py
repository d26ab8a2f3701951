"""The body of ``GET /drift``: the report of the newest window, and what live watching adds to it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from shadow_mlops.drift.report import DriftReport, FeatureDrift, Finding, Score
from shadow_mlops.state.episodes import Episode

_NAMELESS = frozenset({"missing_rate", "empty", "only_in_reference", "only_in_current"})
"""Findings whose words name features and shares only."""
ReferenceKind: TypeAlias = Literal["version", "baseline", "seasonal", "none"]


class WindowSpan(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets that were compared."""

    since: str
    """RFC 3339, by the clock of the log."""
    until: str
    rows: int
    hours: float
    """That were asked for."""
    min_rows: int
    max_rows: int | None = None


class ReferenceInForce(msgspec.Struct, frozen=True, kw_only=True):
    """What the window was compared with."""

    kind: ReferenceKind
    id: str | None = None
    version: str | None = None
    """Champion that it belongs to."""
    words: str = ""
    rows: int = 0


class DetectorLevels(msgspec.Struct, frozen=True, kw_only=True):
    """The e-detector, which looks at each bucket once."""

    run_length: float
    """Buckets to a false alarm of the deployment, on average at least."""
    bucket_seconds: float
    alarm_level: float
    """Level at which one feature alarms."""
    levels: dict[str, float] = {}
    alarms: dict[str, int] = {}
    """Feature -> alarms ever."""
    deployment_alarms: int = 0


class ErrorRate(msgspec.Struct, frozen=True, kw_only=True):
    """How often the champion was wrong, as far as labels have come."""

    measure: Literal["error_rate", "rmse"]
    value: float | None = None
    labelled: int = 0
    reference: float | None = None
    """The same figure in the model's card, measured on held-out rows; None: the card has none."""
    reference_metric: str | None = None
    since: str
    until: str


class ChallengerDrift(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger's scores of the same span, against those of its own reference rows."""

    name: str
    version: str | None = None
    rows: int = 0
    scores: tuple[Score, ...] = ()
    """Of the feature ``__score__:NAME``; they take no part in the verdict."""
    reason: str = ""
    """Why there are none."""


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts of one kind."""

    kind: str
    pending: int = 0
    delivered: int = 0
    failed: int = 0
    """Given up: somebody has to look."""


class LiveDrift(DriftReport, frozen=True, kw_only=True):
    """What ``GET /drift`` answers."""

    deployment: str
    version: str | None = None
    """Champion whose rows are watched."""
    window: WindowSpan | None = None
    """None: no bucket has been closed yet."""
    reference_in_force: ReferenceInForce
    detector: DetectorLevels
    episodes: tuple[Episode, ...] = ()
    """The newest, open ones first."""
    challengers: tuple[ChallengerDrift, ...] = ()
    error_rate: ErrorRate | None = None
    alerts: tuple[Deliveries, ...] = ()
    lost_rows: int = 0
    """Removed from the log before they were counted."""


def without_values(report: LiveDrift) -> LiveDrift:
    """The report for anybody: figures and names of features, without anything that could be a value of a customer.

    Bins go (a category's name, a border that was one row's value), and so do the words of findings that name values.
    """
    features = tuple(msgspec.structs.replace(each, bins=(), findings=_plain(each)) for each in report.features)
    findings = tuple(_without_names(each) for each in report.findings)
    return msgspec.structs.replace(report, features=features, findings=findings)


def _plain(feature: FeatureDrift) -> tuple[Finding, ...]:
    return tuple(_without_names(each) for each in feature.findings)


def _without_names(finding: Finding) -> Finding:
    if finding.kind in _NAMELESS:
        return finding
    words = f"{finding.feature}: {finding.kind.replace('_', ' ')} (the operator's token shows which values)"
    return msgspec.structs.replace(finding, words=words, values=())
