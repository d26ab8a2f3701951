"""Episodes into the state database, each with its alerts in one transaction: both are there, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from shadow_mlops.drift.detection import Change
from shadow_mlops.state import episodes, outbox
from shadow_mlops.state.database import transaction
from shadow_mlops.state.episodes import Episode

_WORDS = {"psi": "PSI", "ks": "KS", "js": "JS"}
_ENDED = {
    "quiet": "three checks of the window in a row showed no significant shift",
    "reference": "the reference is another one now (a promotion, a rollback or a new baseline)",
}


def record(state: Engine, deployment: str, changes: Sequence[Change], kinds: Sequence[str]) -> int:
    """Record episodes that have begun or ended, and put their alerts into the outbox.

    Parameters
    ----------
    kinds
        Of the receivers that are to be told.

    Returns
    -------
    int
        How many of the changes were news.

    Raises
    ------
    StateError
        Nothing is recorded.
    """
    news = 0
    with transaction(state) as connection:
        for change in changes:
            if change.kind == "opened":
                begun = _begun(deployment, change)
                episode = begun if episodes.begin(connection, begun) else None
            else:
                episode = episodes.end(
                    connection,
                    deployment=deployment,
                    feature=change.feature,
                    reference=change.reference,
                    bucket=change.bucket,
                    at=change.at,
                    details={"ended": change.details.get("ended", ""), "at_end": change.details.get("scores", {})},
                )
            if episode is None:
                continue
            news += 1
            for kind in kinds:
                key = f"{episode.key}-{change.kind}"
                outbox.add(connection, key=key, kind=kind, payload=_payload(episode, change))
    return news


def _begun(deployment: str, change: Change) -> Episode:
    return Episode(
        key=change.key,
        deployment=deployment,
        feature=change.feature,
        reference=change.reference,
        version=change.version,
        opened_bucket=change.opened,
        opened_at=change.at,
        details=change.details,
    )


def _payload(episode: Episode, change: Change) -> dict[str, Any]:
    """What receivers get: names of features and figures, never a value of a row."""
    return {
        "event": f"drift_{change.kind}",
        "episode": episode.key,
        "deployment": episode.deployment,
        "feature": episode.feature,
        "version": episode.version,
        "reference": change.reference_words,
        "opened_at": episode.opened_at,
        "closed_at": episode.closed_at,
        "severity": change.details.get("severity"),
        "window_rows": change.details.get("window_rows"),
        "scores": change.details.get("scores", {}),
        "text": _text(episode, change),
    }


def _text(episode: Episode, change: Change) -> str:
    head = f"{episode.deployment}: {episode.feature}"
    figures = ", ".join(
        f"{_WORDS.get(method, method)} {told['score']:.3g}"
        + (f" (above {told['threshold']:g})" if told["alert"] else "")
        for method, told in change.details.get("scores", {}).items()
    )
    if change.kind == "closed":
        return f"{head} no longer drifts: {_ENDED.get(change.details.get('ended', ''), 'its episode has ended')}"
    rows = change.details.get("window_rows", 0)
    return f"{head} has drifted: {figures}; window of {rows:,} rows, champion {episode.version}"
