"""How the trigger of a deployment stands, and why it would or would not fire now."""

from __future__ import annotations

import msgspec
from sqlalchemy import Engine

from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.retraining.actions import Action
from shadow_mlops.retraining.recording import watched
from shadow_mlops.retraining.trigger import Check, Rule, Watch, check_of, due, held_back, step
from shadow_mlops.state import triggers
from shadow_mlops.state.database import transaction

_VERDICTS = {
    "drifted": "calls for retraining",
    "calm": "calls for nothing",
    "between": "calls for nothing, though some score is within the hysteresis of its threshold",
    "undecided": "has too few rows, or nothing to compare: it decides nothing",
}


class OpenEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """Drift that calls for retraining and is not over."""

    key: str
    since: str
    fired_at: str | None
    held_back: str
    """Why it could not fire at first."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shadow retrain status --format json`` prints."""

    deployment: str
    kind: str | None
    """``command``, ``webhook``, ``github``; None: the deployment file names nothing."""
    action: str
    drifted: int
    """Checks in a row."""
    windows: int
    """That it takes."""
    interval_hours: float
    looked_at: str | None
    """Log's time of the last check."""
    next_check: str | None
    """Log's time from which the next one is due."""
    episode: OpenEpisode | None
    last_fired_at: str | None
    held_back: str
    """Why no trigger of drift may fire at the newest window; empty: one may."""
    running: str | None
    """Key."""
    waiting: tuple[str, ...]
    verdict: str | None
    """Of the newest window; None: there is none."""
    would_fire: bool
    why: str


def standing(state: Engine, rule: Rule, action: Action | None, report: LiveDrift | None) -> Standing:
    """How a trigger stands; nothing is changed.

    Parameters
    ----------
    report
        Of the newest window; None: nobody has told one.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    watch = watched(state, rule.deployment)
    with transaction(state) as connection:
        open_ones = triggers.open_ones(connection, rule.deployment)
    check = None if report is None else check_of(report, rule)
    fires, why = _decided(watch, check, rule)
    looked, episode = watch.looked_us, watch.episode
    running = [each.key for each in open_ones if each.state == "running"]
    return Standing(
        deployment=rule.deployment,
        kind=None if action is None else action.kind,
        action="nothing" if action is None else action.shown,
        drifted=watch.drifted,
        windows=rule.windows,
        interval_hours=rule.interval_us / 3.6e9,
        looked_at=_told(looked),
        next_check=None if looked is None else rfc3339((rule.number(looked) + 1) * rule.interval_us),
        episode=None
        if episode is None
        else OpenEpisode(
            key=episode.key,
            since=rfc3339(episode.since_us),
            fired_at=_told(episode.fired_us),
            held_back=episode.held,
        ),
        last_fired_at=_told(watch.fired_us),
        held_back="" if check is None else held_back(watch, check.at_us, rule),
        running=running[0] if running else None,
        waiting=tuple(each.key for each in open_ones if each.state == "pending"),
        verdict=None if check is None else check.verdict,
        would_fire=fires and action is not None,
        why=why if action is not None else f"{why}; and no action is configured",
    )


def _decided(watch: Watch, check: Check | None, rule: Rule) -> tuple[bool, str]:
    if check is None:
        return False, "there is no window of traffic yet"
    window = f"the window until {rfc3339(check.at_us)} {_VERDICTS[check.verdict]}"
    if not due(watch, check.at_us, rule):
        return False, f"{window}; its check number has been looked at, the next check comes later"
    stepped = step(watch, check, rule)
    if stepped.event is not None and stepped.event.kind == "fired":
        return True, stepped.event.reason
    return False, f"{window}{_why_not(stepped.watch, check, rule)}"


def _why_not(after: Watch, check: Check, rule: Rule) -> str:
    if check.verdict != "drifted":
        return ""
    if after.episode is None:
        return f": {after.drifted} of {rule.windows} checks in a row"
    if after.episode.fired_us is not None:
        return f", but this episode has fired already (trigger {after.episode.key})"
    return f", held back: {held_back(after, check.at_us, rule)}"


def _told(moment_us: int | None) -> str | None:
    return None if moment_us is None else rfc3339(moment_us)
