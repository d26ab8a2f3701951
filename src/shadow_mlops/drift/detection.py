"""What is made of the champion's buckets: the detector's alarms, checks of the window, episodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.buckets import Window, add_to, pack
from shadow_mlops.drift.clock import HOUR_US, WEEK_HOURS, hour_of_week, rfc3339
from shadow_mlops.drift.detecting import profile_report
from shadow_mlops.drift.episodes import CHECKS_PER_WINDOW, Closed, Episodes, Opened
from shadow_mlops.drift.lanes import Lane, Span
from shadow_mlops.drift.livestate import ChampionState, DetectorMemory
from shadow_mlops.drift.panels import Panel
from shadow_mlops.drift.report import DriftReport, Method
from shadow_mlops.drift.rules import ALERTING, Rules
from shadow_mlops.statistics import distances
from shadow_mlops.statistics.bins import FeatureBins
from shadow_mlops.statistics.edetector import DetectorState, EDetector

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Watching:
    """What is watched, and how: the deployment file's word.

    Attributes
    ----------
    threshold
        A of the e-detector: buckets to a false alarm, on average at least.
    seasonal
        Compare with the same hours of earlier weeks, once a week is known.
    once
        Count one row of each entity in a bucket.
    """

    deployment: str
    rules: Rules
    span: Span
    bucket_us: int
    threshold: float
    bins: int = 10
    seasonal: bool = False
    once: bool = False

    @property
    def check_buckets(self) -> int:
        """Buckets between two checks of open episodes."""
        return max(round(self.span.hours * HOUR_US / CHECKS_PER_WINDOW / self.bucket_us), 1)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that has begun or ended, to be recorded and told."""

    kind: Literal["opened", "closed"]
    key: str
    """Of the episode."""
    feature: str
    version: str
    reference: str
    reference_words: str
    opened: int
    bucket: int
    """In which it began or ended."""
    at: str
    """End of that bucket, RFC 3339."""
    details: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Compared:
    """A window against its reference.

    Attributes
    ----------
    season
        The buckets of earlier weeks that are the reference; None: it is the version's.
    """

    window: Window
    season: Window | None
    report: DriftReport


@dataclass(frozen=True, slots=True)
class _Reference:
    """Counts to compare with."""

    counts: Ints
    rows: int
    words: str
    season: Window | None


class Detection:
    """Watches the champion's lane.

    Parameters
    ----------
    state
        The lane's; changed in place, at the end of buckets only.
    """

    def __init__(self, watching: Watching, state: ChampionState) -> None:
        self._watching = watching
        self._state = state
        self._detector: EDetector | None = None
        self._seasons: Ints | None = None
        self._features: tuple[str, ...] = ()
        self.episodes = Episodes(state.watched)
        self.changes: list[Change] = []
        """Not recorded yet; whoever records them empties the list."""

    @property
    def deployment_alarms(self) -> int:
        """Alarms ever, of any feature or of many small shifts together."""
        return self._state.deployment_alarms

    @property
    def levels(self) -> dict[str, float]:
        """Feature -> level of the detector, on which it alarms at :attr:`alarm_level`."""
        if self._detector is None:
            return {}
        return dict(zip(self._features, self._detector.levels.tolist(), strict=True))

    @property
    def alarm_level(self) -> float:
        """Level at which one feature alarms."""
        return self._watching.threshold * max(len(self._features), 1) if self._detector is not None else 0.0

    def laid_out(self, lane: Lane) -> None:
        """Begin the detector, or go on with the one that was saved."""
        panel = lane.panel
        assert panel is not None  # noqa: S101 - that is what was laid out
        self._features = tuple(panel.bins)
        self._seasons = None
        memory = self._state.detector
        if memory is not None and memory.seasons is not None and not self._watching.seasonal:
            memory = None  # the deployment file has been changed
        if memory is not None and memory.seasons is not None:
            self._seasons = np.zeros(memory.seasons.size, dtype=np.int64)
            add_to(self._seasons, memory.seasons)
        self._detector = self._begin(lane, panel)
        if memory is not None and self._detector is not None:
            self._detector.restore(_remembered(memory, self._detector))

    def settled(self, lane: Lane, bucket: int, vector: Ints) -> None:
        """Take a bucket in: detector, alarms, episodes."""
        panel = lane.panel
        if panel is None or self._detector is None:
            return
        moment = lane.clock.start_us(bucket)
        group = 0 if self._seasons is None else hour_of_week(moment)
        step = self._detector.update(panel.coarse(vector), group)
        if step.deployment_alarm:
            self._state.deployment_alarms += 1
            # Many small shifts may raise it together: whichever feature then has an alert-level score is meant.
            alarmed = step.feature_alarms if step.feature_alarms.any() else np.ones(len(self._features), np.bool_)
            self.episodes.alarm([self._features[i] for i in np.flatnonzero(alarmed)], bucket)
        self._judge(lane, bucket)
        if self._watching.seasonal and self._seasons is None:
            self._begin_seasons(lane, panel)

    def left(self, lane: Lane, bucket: int) -> None:
        """Close all episodes: the reference goes."""
        self._tell(lane, self.episodes.end(bucket), {})
        self._state.detector, self._detector, self._features = None, None, ()
        self._state.checked = -1

    def compare(self, lane: Lane, window: Window) -> Compared | None:
        """A window against its reference; None if there is none, or no feature has rows in both."""
        panel, reference = lane.panel, self._reference(lane, window)
        if panel is None or reference is None:
            return None
        report = compared(
            panel,
            (reference.counts, reference.rows),
            (window.counts, window.rows),
            rules=self._watching.rules,
            bins=self._watching.bins,
            names=(reference.words, _span_words(lane, window)),
            created_us=lane.clock.start_us(window.last + 1),
        )
        return None if report is None else Compared(window, reference.season, report)

    def _reference(self, lane: Lane, window: Window) -> _Reference | None:
        panel, profile, ladder, in_force = lane.panel, lane.reference, lane.ladder, lane.state.reference
        if panel is None or profile is None or ladder is None or in_force is None:
            return None
        season = ladder.same_hours(window) if self._watching.seasonal else None
        if season is None:
            return _Reference(panel.vector(profile.profile), profile.rows, in_force.words, None)
        words = f"the same hours of the week, {_span_words(lane, season)}"
        return _Reference(season.counts, season.rows, words, season)

    def _above(self, lane: Lane, window: Window, features: Sequence[str]) -> bool:
        """Whether any of the features has a score above its threshold: without one nothing alerts, however certain."""
        panel, reference = lane.panel, self._reference(lane, window)
        if panel is None or reference is None:
            return False
        before, now = panel.split(reference.counts), panel.split(window.counts)
        return any(_beyond(panel.bins[name], before[name], now[name], self._rules_of(name)) for name in features)

    def _rules_of(self, feature: str) -> dict[Method, float]:
        found = {method: self._watching.rules.threshold(feature, method) for method in ALERTING}
        return {method: value for method, value in found.items() if value is not None}

    def _judge(self, lane: Lane, bucket: int) -> None:
        check = (bucket + 1) // self._watching.check_buckets
        due = check > self._state.checked
        self._state.checked = max(check, self._state.checked)
        if not self.episodes.alarmed and not (due and self.episodes.open):
            return
        window = lane.window(self._watching.span)
        if window is None or window.rows < self._watching.span.min_rows:
            return
        waiting = self.episodes.waiting(window.first)
        if not (due and self.episodes.open) and not (waiting and self._above(lane, window, waiting)):
            return
        found = self.compare(lane, window)
        if found is None:
            return
        alerting: dict[str, bool] = {}
        for score in found.report.scores:
            if score.significant:
                alerting[score.feature] = alerting.get(score.feature, False) or score.alert
        changed = self.episodes.judge(bucket, alerting=alerting, check=due, since=window.first)
        self._tell(lane, changed, _details(found))

    def _tell(self, lane: Lane, changed: list[Opened | Closed], details: Mapping[str, dict[str, Any]]) -> None:
        identity, reference = lane.state.identity, lane.state.reference
        if not changed or identity is None or reference is None:
            return
        for each in changed:
            opened = each.bucket if isinstance(each, Opened) else each.opened
            more = dict(details.get(each.feature, {}))
            if isinstance(each, Closed):
                more["ended"] = each.why
            self.changes.append(
                Change(
                    kind="opened" if isinstance(each, Opened) else "closed",
                    key=episode_key(self._watching.deployment, each.feature, reference.id, opened),
                    feature=each.feature,
                    version=identity.version,
                    reference=reference.id,
                    reference_words=reference.words,
                    opened=opened,
                    bucket=each.bucket,
                    at=rfc3339(lane.clock.start_us(each.bucket + 1)),
                    details=more,
                )
            )

    def _begin(self, lane: Lane, panel: Panel) -> EDetector | None:
        assert lane.reference is not None  # noqa: S101 - there is a panel
        if not panel.bins:
            return None
        if self._seasons is None:
            reference = panel.coarse(panel.vector(lane.reference.profile))
        else:
            sizes = [len(each) for each in panel.coarse(np.zeros(panel.size, dtype=np.int64))]
            reference = np.split(self._seasons.reshape(WEEK_HOURS, -1), np.cumsum(sizes)[:-1], axis=1)
        kinds = [each.kind for each in panel.bins.values()]
        groups = 1 if self._seasons is None else WEEK_HOURS
        return EDetector(reference, kinds, threshold=self._watching.threshold, groups=groups)

    def _begin_seasons(self, lane: Lane, panel: Panel) -> None:
        hours = lane.ladder.by_hour_of_week() if lane.ladder is not None else None
        if hours is None:
            return
        self._seasons = np.concatenate([np.concatenate(panel.coarse(each)) for each in hours])
        self._detector = self._begin(lane, panel)

    def remember(self) -> None:
        """Put the detector into the state, which is about to be saved."""
        if self._detector is None:
            return
        state = self._detector.state()
        self._state.detector = DetectorMemory(
            log_levels=state.log_levels.tobytes(),
            seen=state.seen.tobytes(),
            seasons=None if self._seasons is None else pack(self._seasons),
        )


def compared(
    panel: Panel,
    reference: tuple[Ints, int],
    current: tuple[Ints, int],
    *,
    rules: Rules,
    bins: int,
    names: tuple[str, str],
    created_us: int,
) -> DriftReport | None:
    """Two vectors of counts, each with its rows, as a report; None if no feature has rows in both."""
    there = set(panel.present(current[0]))
    both = [name for name in panel.present(reference[0]) if name in there]
    if not both:
        return None
    return profile_report(
        {name: panel.bins[name] for name in both},
        panel.profile(*reference, both),
        panel.profile(*current, both),
        rules=rules,
        bin_count=bins,
        reference_name=names[0],
        current_name=names[1],
        created=datetime.fromisoformat(rfc3339(created_us)),
    )


def _beyond(bins: FeatureBins, reference: Ints, current: Ints, thresholds: Mapping[Method, float]) -> bool:
    if not (reference.any() and current.any()):
        return False
    coarse = bins.coarse(reference), bins.coarse(current)
    if distances.psi(*coarse) > thresholds["psi"] or distances.js(*coarse) > thresholds["js"]:
        return True
    values = reference[:-1], current[:-1]
    return bins.kind == "number" and bool(distances.ks_of_counts(*values) > thresholds["ks"])


def episode_key(deployment: str, feature: str, reference: str, bucket: int) -> str:
    """Name of an episode that any reading of the log gives it; letters that any header takes."""
    text = msgspec.json.encode([deployment, feature, reference, bucket])
    return f"drift-{hashlib.sha256(text).hexdigest()[:32]}"


def _remembered(memory: DetectorMemory, detector: EDetector) -> DetectorState:
    shape = detector.state().seen.shape
    seen = np.frombuffer(memory.seen, np.int64)
    return DetectorState(np.frombuffer(memory.log_levels), seen.reshape(shape) if seen.size == np.prod(shape) else seen)


def _details(found: Compared) -> dict[str, dict[str, Any]]:
    details: dict[str, dict[str, Any]] = {}
    for score in found.report.scores:
        told = details.setdefault(
            score.feature, {"severity": score.severity, "window_rows": found.window.rows, "scores": {}}
        )
        told["scores"][score.method] = {"score": score.score, "threshold": score.threshold, "alert": score.alert}
    return details


def _span_words(lane: Lane, window: Window) -> str:
    return f"{rfc3339(lane.clock.start_us(window.first))} to {rfc3339(lane.clock.start_us(window.last + 1))}"
