"""The audit trail: who did what, when, why, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update

from shadow_mlops.domain.errors import StateError
from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import AUDIT

Outcome: TypeAlias = Literal["started", "done", "refused", "failed"]
"""``started`` stays only where the process was killed on the way."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename={"from_version": "from", "to_version": "to"}):
    """One action, whatever came of it."""

    id: int
    at: str
    who: str
    action: str
    model: str
    from_version: str | None
    to_version: str | None
    reason: str
    outcome: Outcome
    details: dict[str, Any]


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the trail, newest first."""

    entries: tuple[Entry, ...]
    next: int | None
    """``after`` of the next page; None on the last one."""


def record(
    engine: Engine,
    *,
    action: str,
    who: str,
    model: str,
    from_version: str | None = None,
    to_version: str | None = None,
    reason: str = "",
    outcome: Outcome = "started",
    details: Mapping[str, Any] | None = None,
) -> int:
    """Write an entry before the action, so that none happens unrecorded.

    Returns
    -------
    int
        Number of the entry, for :func:`conclude`.

    Raises
    ------
    StateError
        If it could not be written; the action must not be begun then.
    """
    with transaction(engine) as connection:
        return begin(
            connection,
            action=action,
            who=who,
            model=model,
            from_version=from_version,
            to_version=to_version,
            reason=reason,
            outcome=outcome,
            details=details,
        )


def begin(
    connection: Connection,
    *,
    action: str,
    who: str,
    model: str,
    from_version: str | None = None,
    to_version: str | None = None,
    reason: str = "",
    outcome: Outcome = "started",
    details: Mapping[str, Any] | None = None,
) -> int:
    """As :func:`record`, within the transaction that begins the action."""
    values = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "who": who[:200],
        "action": action,
        "model": model,
        "from_version": from_version,
        "to_version": to_version,
        "reason": reason,
        "outcome": outcome,
        "details": _encode(details or {}),
    }
    return int(connection.execute(insert(AUDIT).values(values).returning(AUDIT.c.id)).scalar_one())


def conclude(
    engine: Engine,
    number: int,
    *,
    outcome: Outcome,
    from_version: str | None = None,
    to_version: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Say what came of an action; versions that are None stay as they were recorded, details are added.

    Raises
    ------
    StateError
        If there is no such entry, or it could not be written.
    """
    with transaction(engine) as connection:
        end(connection, number, outcome=outcome, from_version=from_version, to_version=to_version, details=details)


def end(
    connection: Connection,
    number: int,
    *,
    outcome: Outcome,
    from_version: str | None = None,
    to_version: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """As :func:`conclude`, within the transaction that records what came of the action."""
    found = connection.execute(select(AUDIT.c.details).where(AUDIT.c.id == number)).scalar_one_or_none()
    if found is None:
        raise StateError(f"the audit trail has no entry {number}")
    values: dict[str, Any] = {"outcome": outcome, "details": _encode({**_decode(found), **(details or {})})}
    values |= {"from_version": from_version} if from_version is not None else {}
    values |= {"to_version": to_version} if to_version is not None else {}
    connection.execute(update(AUDIT).where(AUDIT.c.id == number).values(values))


def entries(engine: Engine, limit: int = 100, after: int | None = None) -> Entries:
    """A page of the trail, newest first.

    Parameters
    ----------
    limit
        Most entries.
    after
        Number of the last entry of the page before; None for the first page.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit + 1)
    if after is not None:
        wanted = wanted.where(AUDIT.c.id < after)
    with transaction(engine) as connection:
        rows = connection.execute(wanted).mappings().all()
    found = tuple(Entry(**{**row, "details": _decode(row["details"])}) for row in rows[:limit])
    return Entries(entries=found, next=found[-1].id if len(rows) > limit else None)


def rests_on(engine: Engine, evidence: str) -> bool:
    """Whether an action that names this evidence in its details has been done.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = select(AUDIT.c.id).where(AUDIT.c.outcome == "done", AUDIT.c.details.contains(evidence, autoescape=True))
    with transaction(engine) as connection:
        return connection.execute(wanted.limit(1)).first() is not None


def _encode(details: Mapping[str, Any]) -> str:
    return msgspec.json.encode(details).decode()


def _decode(text: str) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])
