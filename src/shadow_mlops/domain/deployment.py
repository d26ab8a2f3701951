"""What a deployment is: the contents of the one reviewed YAML file."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from shadow_mlops.domain.features import Kind
from shadow_mlops.domain.models import Task

Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Index: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A threshold of PSI: 100 is more than any two samples can reach."""
Distance: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1)]
"""A threshold of a distance that is at most 1."""
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {
    "": 1,
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


class Duration(float):
    """Seconds, written in YAML as ``90d``, ``24h``, ``15m``, ``30s`` or a plain number of seconds."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read a duration.

        Raises
        ------
        ValueError
            If it is not one.

        >>> Duration.parse("90d") == 90 * 86400
        True
        """
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if match is None:
            raise ValueError(f"expected a duration such as 90d, 24h, 15m or 30s, got {value!r}")
        return cls(float(match[1]) * _SECONDS[match[2]])


class Size(int):
    """Bytes, written in YAML as ``10GiB``, ``64MiB`` or a plain number."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Size:
        """Read a size.

        Raises
        ------
        ValueError
            If it is not one.

        >>> Size.parse("10GiB") == 10 * 2**30
        True
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)", str(value).strip())
        if match is None or match[2] not in _BYTES:
            raise ValueError(f"expected a size such as 10GiB or 512MiB, got {value!r}")
        return cls(float(match[1]) * _BYTES[match[2]])


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the deployment file; a key it does not have is refused."""


class FeatureLimits(Part, frozen=True):
    """Drift thresholds of one feature, in place of the general ones."""

    psi: Index | None = None
    ks: Distance | None = None
    js: Distance | None = None
    check: bool = True
    """False: the feature is left out of every drift check."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Those that are set."""
        given = {"psi": self.psi, "ks": self.ks, "js": self.js}
        return {method: float(value) for method, value in given.items() if value is not None}


class FeatureSpec(Part, frozen=True):
    """What a signature cannot say of a feature."""

    default: float | bool | str | msgspec.UnsetType | None = msgspec.UNSET
    """Value when the request and the store have none; ``null`` declares it may be missing."""
    kind: Kind | None = None
    """Only for a feature that no model's signature has."""
    drift: FeatureLimits = FeatureLimits()
    pii: Literal["keep", "hash", "drop"] = "keep"


class Decision(Part, frozen=True):
    """How a score becomes a decision."""

    threshold: Fraction = 0.5
    tiers: dict[str, Fraction] = msgspec.field(
        default_factory=lambda: {"LOW": 0.25, "MEDIUM": 0.5, "HIGH": 0.75, "CRITICAL": 1.0}
    )
    """Upper bounds, ascending; the last is 1."""


class Shadow(Part, frozen=True):
    """How challengers shadow."""

    sample: Fraction = 1.0
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """For one micro-batch."""
    max_lag: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    """Events a challenger may be behind before whole ranges are shed."""


class Log(Part, frozen=True):
    """The event log."""

    on_failure: Literal["answer", "refuse"] = "answer"
    retain_days: Positive = 30
    max_bytes: Size = msgspec.field(default_factory=lambda: Size(10 * 2**30))


class Lake(Part, frozen=True):
    """The archive."""

    retain_days: Positive = 400


class Labels(Part, frozen=True):
    """Late truth."""

    policy: Literal["first", "last", "reject"] = "first"
    max_delay: Duration = msgspec.field(default_factory=lambda: Duration(90 * 86400))
    cohort: Duration = msgspec.field(default_factory=lambda: Duration(86400))


class Window(Part, frozen=True):
    """The window of a drift check: the last ``hours``, or fewer where ``rows`` are reached before."""

    hours: Annotated[float, msgspec.Meta(gt=0, le=8784)] = 24
    """At most 366 days."""
    min_rows: Annotated[int, msgspec.Meta(ge=1)] = 500
    """A window with fewer rows decides nothing."""
    rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The window ends as soon as it has this many rows; None: by time alone."""


class Drift(Part, frozen=True):
    """Drift detection; ``docs/drift.md`` explains each key."""

    psi: Index | None = None
    """None: the setting ``DRIFT_PSI_THRESHOLD``, 0.3 by default."""
    ks: Distance = 0.1
    js: Distance = 0.1
    window: Window = Window()
    retrain_on: tuple[Literal["psi", "ks", "js"], ...] = ("psi",)
    bins: Annotated[int, msgspec.Meta(ge=2, le=100)] = 10
    """Quantile bins of a numeric feature."""
    level: Annotated[float, msgspec.Meta(gt=0, le=0.2)] = 0.01
    """Share of windows without drift in which any feature may be called significant."""
    bucket: Duration = msgspec.field(default_factory=lambda: Duration(60))
    """The live detector takes in one bucket of traffic at a time; 1 s to 1 h."""
    run_length: Duration = msgspec.field(default_factory=lambda: Duration(30 * 86400))
    """Mean time to a false alarm of the live detector, at least; at least 100 buckets."""
    reference: Literal["version", "seasonal"] = "version"
    """What live traffic is compared with: the rows saved with the version, or the same hour of earlier weeks."""
    one_row_per_entity: bool = False
    """Whether the live detector takes one row of each entity in a bucket only."""


class Guardrail(Part, frozen=True):
    """What a better challenger must not do meanwhile."""

    name: str
    """``errors``, ``timeouts``, ``latency``, ``score_distribution``, or one of the task's metrics."""
    kind: Literal["non_inferior", "no_harm"] = "non_inferior"
    margin: Positive | None = None
    """Of ``non_inferior`` and ``score_distribution``: so much worse is allowed."""
    slo_ms: Positive | None = None
    """Of ``latency``: what is slower than this is too slow."""
    segment: dict[str, float | bool | str] = {}
    """Only rows with these values of features."""
    bound: Positive | None = None
    """Of a metric that has no bound of its own: larger losses count as this."""


class Gate(Part, frozen=True):
    """The promotion gate."""

    metric: str = "log_loss"
    kind: Literal["superior", "non_inferior"] = "superior"
    margin: Positive | None = None
    """Of ``non_inferior``: so much worse is allowed, in units of the metric."""
    bound: Positive | None = None
    """Of squared or absolute errors: larger losses count as this."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    min_labels: Count = 200
    max_labels: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    min_days: Annotated[float, msgspec.Meta(ge=0)] = 0
    guardrails: tuple[Guardrail, ...] = ()
    auto_promote: bool = False


GATE_METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("log_loss", "accuracy", "brier", "auc"),
    "multiclass": ("log_loss", "accuracy", "brier"),
    "regression": ("squared_error", "absolute_error"),
}
"""Task -> metrics that a gate may be on. A regression whose file names none has no gate."""
UNBOUNDED_METRICS = frozenset({"squared_error", "absolute_error"})
SERVICE_GUARDRAILS = ("errors", "timeouts", "latency")
"""Guardrails on how a challenger serves, not on what it says."""
SCORE_GUARDRAIL = "score_distribution"


class Canary(Part, frozen=True):
    """Progressive rollout."""

    steps: tuple[Fraction, ...] = (0.01, 0.1, 0.5)
    values_per_step: Annotated[int, msgspec.Meta(ge=1)] = 2000


class RetrainAction(Part, frozen=True):
    """What retraining runs: at most one of them."""

    command: tuple[str, ...] | None = None
    """Program and arguments; no shell."""
    webhook: str | None = None
    """Address that takes JSON by POST."""
    github: str | None = None
    """``OWNER/REPO``, which gets a ``repository_dispatch``."""

    @property
    def given(self) -> dict[str, tuple[str, ...] | str]:
        """Those that the file names."""
        named = {"command": self.command, "webhook": self.webhook, "github": self.github}
        return {name: value for name, value in named.items() if value is not None}


RetrainOn: TypeAlias = Literal["features", "scores", "any"]


class Retrain(Part, frozen=True):
    """The retraining trigger; ``docs/retraining.md`` explains each key."""

    action: RetrainAction = RetrainAction()
    windows: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Checks in a row that must have drifted."""
    cool_down: Duration = msgspec.field(default_factory=lambda: Duration(86400))
    daily_budget: Annotated[int, msgspec.Meta(ge=1)] = 1
    on: RetrainOn = "any"
    """Whose drift counts: that of features, of the champion's score, or of either."""
    hysteresis: Fraction = 0.2
    """An episode ends when every score is so far below its threshold, as a share of it."""
    timeout: Duration = msgspec.field(default_factory=lambda: Duration(7200))
    """Of a command; what runs longer is killed."""


class FeatureStore(Part, frozen=True):
    """Where absent features are read."""

    kind: Literal["feast"] = "feast"
    path: str = "feature_repo"
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 20
    on_failure: Literal["default", "refuse"] = "default"


class Deployment(Part, frozen=True):
    """The whole deployment file (one deployment = one registered model name)."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]
    task: Task = "binary"
    positive: int | float | bool | str = 1
    entity: str | None = None
    features: dict[str, FeatureSpec] = {}
    unknown_fields: Literal["reject", "ignore"] = "reject"
    decision: Decision = Decision()
    shadow: Shadow = Shadow()
    log: Log = msgspec.field(default_factory=Log)
    lake: Lake = Lake()
    labels: Labels = msgspec.field(default_factory=Labels)
    drift: Drift = msgspec.field(default_factory=Drift)
    gate: Gate = Gate()
    canary: Canary = Canary()
    retrain: Retrain = msgspec.field(default_factory=Retrain)
    feature_store: FeatureStore | None = None
