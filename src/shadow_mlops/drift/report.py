"""What a drift check says: the shape that ``shadow drift check --format json`` and ``GET /drift`` print.

``docs/drift.md`` says how each figure is computed and how it becomes a decision.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["none", "alert", "retrain"]
Severity: TypeAlias = Literal["none", "low", "moderate", "significant"]
ColumnKind: TypeAlias = Literal["number", "category"]
Method: TypeAlias = Literal["psi", "ks", "js", "wasserstein", "chi_square", "hellinger", "total_variation"]
Role: TypeAlias = Literal["value", "other", "missing"]
Null: TypeAlias = Literal["chi_square", "exact", "none"]
FindingKind: TypeAlias = Literal[
    "new_category",
    "vanished_category",
    "missing_rate",
    "out_of_range",
    "constant",
    "empty",
    "only_in_reference",
    "only_in_current",
    "left_out",
]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One distance of one feature, and what follows from it.

    ``significant`` and ``severity`` are the feature's: one test and one scale per feature, whatever the method.
    """

    feature: str
    method: Method
    score: float
    """Wasserstein: in the feature's unit. PSI: nats. All others: without a unit."""
    threshold: float | None = None
    """Above it the score alerts, if the feature's shift is significant; None: this method never alerts."""
    p_value: float | None = None
    """Of this method alone; the decision uses the feature's."""
    significant: bool = False
    """The feature's shift is more than chance, at the level that all features of the window share."""
    alert: bool = False
    retrain: bool = False
    severity: Severity = "none"
    """By the feature's PSI: none below 0.1, low below 0.2, moderate below 0.3, else significant."""
    corrected: float | None = None
    """PSI less what samples of these sizes show without any drift, on average; below 0 is no drift."""
    interval: tuple[float, float] | None = None
    """PSI: 95 % interval of the shift itself."""
    error_bound: float | None = None
    """KS from bin counts: the exact statistic is at most this much larger; 0 when it is exact."""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """One bin behind the scores of a feature; bins that are empty on both sides are left out."""

    label: str
    """For people: ``(1.5, 3]``, a category, ``other``, ``missing``."""
    role: Role = "value"
    reference: int
    """Rows."""
    current: int
    low: float | None = None
    """Numeric bins are (low, high]; None is without bound."""
    high: float | None = None


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a finding is about, and how often it is there."""

    value: str | float
    rows: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a column that a person would want to be told by name. Findings alone do not alert."""

    kind: FindingKind
    feature: str
    words: str
    """One sentence, complete without the other fields."""
    rows: int | None = None
    """Rows concerned, of the side that has them."""
    share: float | None = None
    """The same as a share of that side's rows; missing rate: the current one."""
    p_value: float | None = None
    values: tuple[Named, ...] = ()
    """The most frequent categories concerned, or the extreme value; at most 20."""
    more: int = 0
    """Categories concerned that ``values`` does not list."""


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: the bins behind its scores, and what else is to be said of it."""

    name: str
    kind: ColumnKind
    reference_rows: int
    current_rows: int
    missing_reference: float
    """Share of rows, 0 to 1."""
    missing_current: float
    p_value: float
    """Of the feature: the one that the decision uses."""
    p_method: Null
    """Null distribution of PSI and Jensen-Shannon: the limit for large counts, or simulated for these very counts; none
    where all rows are in one bin, and p is 1."""
    significant: bool
    severity: Severity
    bins: tuple[Bin, ...]
    findings: tuple[Finding, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the check was asked to do."""

    bins: int
    level: float
    """Share of windows without drift in which any feature is called significant, at most."""
    methods: tuple[Method, ...]
    thresholds: dict[str, float]
    retrain_on: tuple[str, ...]
    overrides: dict[str, dict[str, float]] = {}
    """Feature -> method -> threshold, where it is not the general one."""
    exact_ks: bool
    """KS from all values, not from bin counts."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the time line: one window, and the PSI of each feature in it."""

    since: str
    """RFC 3339, inclusive."""
    until: str
    """Exclusive."""
    rows: int
    verdict: Verdict
    psi: dict[str, float]


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """Two samples, compared feature by feature.

    ``scores`` and ``features`` have the same order: what moved most comes first.
    """

    verdict: Verdict
    reason: str
    """The verdict in words."""
    reference_rows: int
    current_rows: int
    scores: tuple[Score, ...]
    features: tuple[FeatureDrift, ...]
    findings: tuple[Finding, ...] = ()
    """All findings: those of the features, and those of columns that could not be compared."""
    reference: str
    """Where the rows are from, in words: a file, a model version."""
    current: str
    created: str
    """RFC 3339, UTC."""
    settings: Settings
    limits: tuple[str, ...] = ()
    """What the figures do not say, where that applies."""
    timeline: tuple[Moment, ...] = ()
    """Earlier windows and this one, oldest first, where the data has times."""


def encode_report(report: DriftReport, *, indent: int = 2) -> bytes:
    """The report as JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=indent) + b"\n"


def decode_report(text: bytes) -> DriftReport:
    """Read what :func:`encode_report` wrote.

    Raises
    ------
    msgspec.DecodeError
        If it is not a report.
    """
    return msgspec.json.decode(text, type=DriftReport)


def report_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Shadow MLOps drift report",
        **msgspec.json.schema(DriftReport),
    }
