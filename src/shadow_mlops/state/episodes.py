"""Drift episodes: each is recorded once, however often the log that shows it is read again."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, and_, insert, or_, select, update

from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import EPISODES


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that drifted, from when to when."""

    key: str
    deployment: str
    feature: str
    reference: str
    """What it was compared with."""
    version: str
    """Champion at the time."""
    opened_bucket: int
    opened_at: str
    """RFC 3339, UTC, by the clock of the log."""
    closed_bucket: int | None = None
    """None while it is open."""
    closed_at: str | None = None
    details: dict[str, Any] = {}


def begin(connection: Connection, episode: Episode) -> bool:
    """Record an episode, unless its time has been judged before.

    A log that is read again opens its episodes again: those are known. Where the beginning of the log is gone by then,
    they may open elsewhere: one that is open against the same reference goes on, and nothing is recorded of a time
    that lies before a later opening or closing of the same feature.

    Returns
    -------
    bool
        Whether it is new.
    """
    later = or_(
        EPISODES.c.opened_bucket >= episode.opened_bucket,
        EPISODES.c.closed_bucket >= episode.opened_bucket,
        and_(EPISODES.c.closed_bucket.is_(None), EPISODES.c.reference == episode.reference),
    )
    of_feature = and_(EPISODES.c.deployment == episode.deployment, EPISODES.c.feature == episode.feature)
    if connection.execute(select(EPISODES.c.key).where(of_feature, later).limit(1)).first() is not None:
        return False
    values = msgspec.structs.asdict(episode) | {"details": msgspec.json.encode(episode.details).decode()}
    connection.execute(insert(EPISODES).values(values))
    return True


def end(
    connection: Connection,
    *,
    deployment: str,
    feature: str,
    reference: str,
    bucket: int,
    at: str,
    details: dict[str, Any],
) -> Episode | None:
    """Close the episode of a feature.

    Parameters
    ----------
    details
        Added to those of the opening.

    Returns
    -------
    Episode or None
        As it is now; None if there is no open one that had begun by then.
    """
    found = (
        connection.execute(
            select(EPISODES).where(
                EPISODES.c.deployment == deployment,
                EPISODES.c.feature == feature,
                EPISODES.c.reference == reference,
                EPISODES.c.closed_bucket.is_(None),
                EPISODES.c.opened_bucket <= bucket,
            )
        )
        .mappings()
        .first()
    )
    if found is None:
        return None
    open_one = _episode(found)
    closed = msgspec.structs.replace(
        open_one, closed_bucket=bucket, closed_at=at, details={**open_one.details, **details}
    )
    connection.execute(
        update(EPISODES)
        .where(EPISODES.c.key == closed.key)
        .values(closed_bucket=bucket, closed_at=at, details=msgspec.json.encode(closed.details).decode())
    )
    return closed


def recent(engine: Engine, deployment: str, limit: int = 20) -> tuple[Episode, ...]:
    """The newest episodes of a deployment, open ones first.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = (
        select(EPISODES)
        .where(EPISODES.c.deployment == deployment)
        .order_by(EPISODES.c.closed_bucket.is_not(None), EPISODES.c.opened_bucket.desc(), EPISODES.c.key)
        .limit(limit)
    )
    with transaction(engine) as connection:
        return tuple(_episode(row) for row in connection.execute(wanted).mappings())


def _episode(row: Any) -> Episode:
    return Episode(**{**row, "details": msgspec.json.decode(row["details"], type=dict[str, Any])})
