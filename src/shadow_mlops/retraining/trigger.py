"""From checks of live drift, one after the other, to triggers: pure, so that every order of checks can be tried."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from shadow_mlops.domain.deployment import Deployment, RetrainOn
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.drift.report import Score

Verdict: TypeAlias = Literal["drifted", "calm", "between", "undecided"]
"""``between``: no score calls for retraining, but some are still within the hysteresis."""
_SCORE = "__score__"  # the champion's score among the features, as the contract names it
_DAY_US = 86_400 * 1_000_000
_NAMED = 3  # features in a reason; the others are counted


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment asks of its trigger."""

    deployment: str
    interval_us: int
    """Of the log's time: a check number is the window's end divided by it."""
    windows: int = 3
    cool_down_us: int = _DAY_US
    daily_budget: int = 1
    on: RetrainOn = "any"
    hysteresis: float = 0.2

    def number(self, at_us: int) -> int:
        """Number of the check whose window ends then."""
        return at_us // self.interval_us


def rule_of(deployment: Deployment, *, interval_hours: float) -> Rule:
    """The rule that a deployment file states.

    Parameters
    ----------
    interval_hours
        Between two checks, by the log's time.
    """
    retrain = deployment.retrain
    return Rule(
        deployment=deployment.name,
        interval_us=max(round(interval_hours * 3600 * 1e6), 1),
        windows=retrain.windows,
        cool_down_us=round(retrain.cool_down * 1e6),
        daily_budget=retrain.daily_budget,
        on=retrain.on,
        hysteresis=retrain.hysteresis,
    )


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A score that calls for retraining."""

    feature: str
    method: str
    score: float
    threshold: float


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the newest window has found."""

    at_us: int
    """End of the window, by the log's time."""
    verdict: Verdict
    version: str = ""
    """Champion that answered; empty: not known."""
    reference: str = ""
    """What the window was compared with; empty: there was nothing."""
    rows: int = 0
    marks: tuple[Mark, ...] = ()
    """Of a check that drifted."""


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """Drift that calls for retraining, until it is over or another model answers."""

    key: str
    since_us: int
    fired_us: int | None = None
    held: str = ""
    """Why it could not fire at first; empty: it could."""


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept between two checks."""

    looked_us: int | None = None
    version: str = ""
    reference: str = ""
    drifted: int = 0
    """Drifted checks in a row."""
    episode: Episode | None = None
    fired_us: int | None = None
    """The last trigger, of whatever episode."""
    fired_that_day: int = 0
    """Triggers on the UTC day of ``fired_us``."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger that fires, or that would have if it were not held back."""

    kind: Literal["fired", "suppressed"]
    key: str
    at_us: int
    reason: str
    held: str = ""
    """Of a suppressed one: what holds it back."""
    check: Check


class Step(NamedTuple):
    """The state after a check, and what the check set off."""

    watch: Watch
    event: Event | None


def check_of(report: LiveDrift, rule: Rule) -> Check | None:
    """What a report says to this rule; None where it has no window yet.

    Scores of challengers take no part: what they say is nobody's answer.
    """
    window = report.window
    if window is None:
        return None
    asked = [score for score in report.scores if _counts(score, rule.on, report.settings.retrain_on)]
    verdict: Verdict = "between"
    if window.rows < window.min_rows or not asked:
        verdict = "undecided"
    elif any(score.retrain for score in asked):
        verdict = "drifted"
    elif all(score.score < (score.threshold or 0.0) * (1 - rule.hysteresis) for score in asked):
        verdict = "calm"
    marks = tuple(
        Mark(feature=each.feature, method=each.method, score=each.score, threshold=each.threshold or 0.0)
        for each in asked
        if each.retrain
    )
    return Check(
        at_us=round(datetime.fromisoformat(window.until).timestamp() * 1e6),
        verdict=verdict,
        version=report.version or "",
        reference=report.reference_in_force.id or "",
        rows=window.rows,
        marks=marks if verdict == "drifted" else (),
    )


def _counts(score: Score, on: RetrainOn, methods: tuple[str, ...]) -> bool:
    if score.method not in methods or score.threshold is None:
        return False
    return on == "any" or (score.feature == _SCORE) == (on == "scores")


def due(watch: Watch, at_us: int, rule: Rule) -> bool:
    """Whether the check of this moment has not been looked at."""
    return watch.looked_us is None or rule.number(at_us) > rule.number(watch.looked_us)


def step(watch: Watch, check: Check, rule: Rule) -> Step:
    """Take in a check.

    A number that was looked at before changes nothing, so a check may be repeated after a crash. Numbers that were
    missed neither count nor break a row.
    """
    if not due(watch, check.at_us, rule):
        return Step(watch, None)
    watch = msgspec.structs.replace(_followed(watch, check), looked_us=check.at_us)
    if check.verdict == "undecided":
        return Step(watch, None)
    if check.verdict == "calm":
        return Step(msgspec.structs.replace(watch, drifted=0, episode=None), None)
    if check.verdict == "between":
        return Step(msgspec.structs.replace(watch, drifted=0), None)
    return _drifted(msgspec.structs.replace(watch, drifted=watch.drifted + 1), check, rule)


def _followed(watch: Watch, check: Check) -> Watch:
    """Another model, or another reference: what was counted was of the one before, and its episode is over."""
    other = _differs(watch.version, check.version) or _differs(watch.reference, check.reference)
    known = {"version": check.version or watch.version, "reference": check.reference or watch.reference}
    over = {"drifted": 0, "episode": None} if other else {}
    return msgspec.structs.replace(watch, **known, **over)


def _differs(before: str, now: str) -> bool:
    return bool(before and now) and before != now


def _drifted(watch: Watch, check: Check, rule: Rule) -> Step:
    episode = watch.episode
    if episode is None and watch.drifted < rule.windows:
        return Step(watch, None)
    if episode is None:
        episode = Episode(key=_key(watch, check, rule), since_us=check.at_us)
    if episode.fired_us is not None:
        return Step(watch, None)
    held = held_back(watch, check.at_us, rule)
    if held:
        event = None if episode.held else _event("suppressed", episode, watch, check, held)
        kept = episode if episode.held else msgspec.structs.replace(episode, held=held)
        return Step(msgspec.structs.replace(watch, episode=kept), event)
    same_day = watch.fired_us is not None and watch.fired_us // _DAY_US == check.at_us // _DAY_US
    fired = msgspec.structs.replace(
        watch,
        episode=msgspec.structs.replace(episode, fired_us=check.at_us),
        fired_us=check.at_us,
        fired_that_day=watch.fired_that_day + 1 if same_day else 1,
    )
    return Step(fired, _event("fired", episode, watch, check, ""))


def held_back(watch: Watch, at_us: int, rule: Rule) -> str:
    """Why no trigger may fire at a moment, in words; empty if one may."""
    last = watch.fired_us
    if last is None:
        return ""
    if at_us < last + rule.cool_down_us:
        return f"cool-down until {rfc3339(last + rule.cool_down_us)}"
    if last // _DAY_US == at_us // _DAY_US and watch.fired_that_day >= rule.daily_budget:
        return f"the budget of {rule.daily_budget} a day is used up on {rfc3339(at_us)[:10]}"
    return ""


def _event(kind: Literal["fired", "suppressed"], episode: Episode, watch: Watch, check: Check, held: str) -> Event:
    return Event(kind=kind, key=episode.key, at_us=check.at_us, reason=_words(watch, check), held=held, check=check)


def _words(watch: Watch, check: Check) -> str:
    named = [
        f"{mark.feature} {mark.method.upper()} {mark.score:.3g} (above {mark.threshold:g})"
        for mark in check.marks[:_NAMED]
    ]
    more = len(check.marks) - len(named)
    others = f" and {more} more" if more > 0 else ""
    checks = "1 check" if watch.drifted == 1 else f"{watch.drifted} checks in a row"
    return f"drift in {checks}: {', '.join(named)}{others}; window of {check.rows:,} rows"


def _key(watch: Watch, check: Check, rule: Rule) -> str:
    """The same for one episode whoever computes it: a trigger that is written twice is known."""
    told = "\0".join((rule.deployment, watch.version, watch.reference, str(check.at_us)))
    return f"retrain-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
