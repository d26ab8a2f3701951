"""From what is folded to what is told: the newest window as the body of ``GET /drift``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shadow_mlops.drift.buckets import Window
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.detection import Compared, compared
from shadow_mlops.drift.lanes import Lane
from shadow_mlops.drift.live import LiveFold
from shadow_mlops.drift.livereport import (
    ChallengerDrift,
    Deliveries,
    DetectorLevels,
    ErrorRate,
    LiveDrift,
    ReferenceInForce,
    WindowSpan,
)
from shadow_mlops.drift.report import DriftReport, Score, Settings
from shadow_mlops.drift.rules import ALERTING
from shadow_mlops.state.episodes import Episode
from shadow_mlops.state.outbox import State

EXCHANGEABLE = (
    "The live detector's run length is promised for exchangeable rows. Rows that depend on each other, or a daily"
    " cycle, raise false alarms: take `drift.reference: seasonal` and `drift.one_row_per_entity: true` there."
)
_NO_EVENTS = "no prediction has been read from the log yet"
_OPEN = "the first bucket of traffic is not over yet"


def live_report(
    fold: LiveFold,
    *,
    episodes: Sequence[Episode] = (),
    alerts: Mapping[tuple[str, State], int] | None = None,
    error_rate: ErrorRate | None = None,
    created: str,
) -> LiveDrift:
    """The newest window, and all that is known around it.

    Parameters
    ----------
    episodes
        The newest recorded ones.
    alerts
        Kind and state -> messages.
    created
        RFC 3339, of the report itself; what is in it has the time of the log.
    """
    lane = fold.champion
    window = lane.window(fold.watching.span)
    found = fold.detection.compare(lane, window) if window is not None else None
    report = _decided(fold, lane, window, found)
    return LiveDrift(
        **{name: getattr(report, name) for name in DriftReport.__struct_fields__ if name not in {"created", "limits"}},
        created=created,
        limits=(*report.limits, EXCHANGEABLE),
        deployment=fold.watching.deployment,
        version=lane.state.identity.version if lane.state.identity is not None else None,
        window=None if window is None else _span(fold, lane, window),
        reference_in_force=_reference(lane, found),
        detector=_detector(fold),
        episodes=tuple(episodes),
        challengers=tuple(_challenger(fold, name, each) for name, each in sorted(fold.challengers.items())),
        error_rate=error_rate,
        alerts=_deliveries(alerts or {}),
        lost_rows=lane.state.lost,
    )


def _decided(fold: LiveFold, lane: Lane, window: Window | None, found: Compared | None) -> DriftReport:
    span = fold.watching.span
    if window is None or found is None:
        return _empty(fold, window, _why_nothing(lane))
    if window.rows >= span.min_rows:
        return found.report
    plain = tuple(msgspec.structs.replace(score, alert=False, retrain=False) for score in found.report.scores)
    reason = (
        f"{window.rows:,} rows since {rfc3339(lane.clock.start_us(window.first))} are too few to decide:"
        f" drift.window.min_rows asks for {span.min_rows:,}"
    )
    return msgspec.structs.replace(found.report, verdict="none", reason=reason, scores=plain)


def _why_nothing(lane: Lane) -> str:
    if lane.state.identity is None:
        return _NO_EVENTS
    if lane.state.reference is None:
        return lane.state.problem
    if lane.state.last is None or lane.state.last < lane.state.since:
        return f"{_OPEN}: version {lane.state.identity.version} is watched since now"
    return "no feature of the reference is in the rows of the window"


def _empty(fold: LiveFold, window: Window | None, reason: str) -> DriftReport:
    rules = fold.watching.rules
    return DriftReport(
        verdict="none",
        reason=reason,
        reference_rows=0,
        current_rows=0 if window is None else window.rows,
        scores=(),
        features=(),
        reference="",
        current="",
        created="",
        settings=Settings(
            bins=fold.watching.bins,
            level=rules.level,
            methods=ALERTING,
            thresholds={"psi": rules.psi, "ks": rules.ks, "js": rules.js},
            retrain_on=rules.retrain_on,
            overrides={name: dict(each) for name, each in rules.overrides.items()},
            exact_ks=False,
        ),
    )


def _span(fold: LiveFold, lane: Lane, window: Window) -> WindowSpan:
    span = fold.watching.span
    return WindowSpan(
        since=rfc3339(lane.clock.start_us(window.first)),
        until=rfc3339(lane.clock.start_us(window.last + 1)),
        rows=window.rows,
        hours=span.hours,
        min_rows=span.min_rows,
        max_rows=span.rows,
    )


def _reference(lane: Lane, found: Compared | None) -> ReferenceInForce:
    state = lane.state
    if state.reference is None or state.identity is None:
        return ReferenceInForce(kind="none", words=state.problem)
    rows = 0 if lane.reference is None else lane.reference.rows
    version = state.identity.version
    if found is not None and found.season is not None:
        return ReferenceInForce(
            kind="seasonal",
            id=state.reference.id,
            version=version,
            words=found.report.reference,
            rows=found.season.rows,
        )
    return ReferenceInForce(
        kind=state.reference.kind, id=state.reference.id, version=version, words=state.reference.words, rows=rows
    )


def _detector(fold: LiveFold) -> DetectorLevels:
    watched = fold.detection.episodes.watched
    return DetectorLevels(
        run_length=fold.watching.threshold,
        bucket_seconds=fold.watching.bucket_us / 1e6,
        alarm_level=fold.detection.alarm_level,
        levels=fold.detection.levels,
        alarms={name: each.alarms for name, each in watched.items() if each.alarms},
        deployment_alarms=fold.detection.deployment_alarms,
    )


def _challenger(fold: LiveFold, name: str, lane: Lane) -> ChallengerDrift:
    version = lane.state.identity.version if lane.state.identity is not None else None
    if not fold.in_span(lane):
        return ChallengerDrift(name=name, version=version, reason="it has scored nothing in the span of the window")
    if lane.reference is None or lane.panel is None:
        return ChallengerDrift(name=name, version=version, reason=lane.state.problem)
    window = lane.window(fold.watching.span, until=fold.champion.state.last)
    found = None if window is None else _scores(fold, lane, window)
    if window is None or found is None:
        reason = "nothing to compare: no score of this version has been read, or its reference has none"
        return ChallengerDrift(name=name, version=version, reason=reason)
    scores = tuple(_renamed(fold, score, name, window) for score in found.scores)
    return ChallengerDrift(name=name, version=version, rows=found.current_rows, scores=scores)


def _scores(fold: LiveFold, lane: Lane, window: Window) -> DriftReport | None:
    panel, profile = lane.panel, lane.reference
    assert panel is not None  # noqa: S101 - callers have looked
    assert profile is not None  # noqa: S101 - callers have looked
    counts = panel.vector(profile.profile)
    return compared(
        panel,
        (counts, int(counts.sum())),
        (window.counts, int(window.counts.sum())),
        rules=fold.watching.rules,
        bins=fold.watching.bins,
        names=("", ""),
        created_us=lane.clock.start_us(window.last + 1),
    )


def _renamed(fold: LiveFold, score: Score, name: str, window: Window) -> Score:
    few = window.rows < fold.watching.span.min_rows
    return msgspec.structs.replace(
        score,
        feature=f"{score.feature}:{name}",
        alert=score.alert and not few,
        retrain=False,  # what a challenger says is nobody's answer
    )


def _deliveries(alerts: Mapping[tuple[str, State], int]) -> tuple[Deliveries, ...]:
    kinds = sorted({kind for kind, _ in alerts})
    return tuple(
        Deliveries(
            kind=kind,
            pending=alerts.get((kind, "pending"), 0),
            delivered=alerts.get((kind, "delivered"), 0),
            failed=alerts.get((kind, "failed"), 0),
        )
        for kind in kinds
    )
