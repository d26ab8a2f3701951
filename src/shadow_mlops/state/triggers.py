"""Triggers of retraining: written together with the state that fired them, run one at a time, each attempt audited."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select, update

from shadow_mlops.domain.errors import StateError
from shadow_mlops.state import audit
from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import RETRAIN_TRIGGERS as TRIGGERS
from shadow_mlops.state.tables import RETRAIN_WATCH as WATCH

State: TypeAlias = Literal["suppressed", "pending", "running", "done", "failed", "refused"]
Cause: TypeAlias = Literal["drift", "person"]
ACTION = "retrain"
"""Of the audit trail's entries."""
_PROBLEM_LETTERS = 500
_AUDITED: dict[State, audit.Outcome] = {"done": "done", "refused": "refused", "failed": "failed", "pending": "failed"}


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """One reason to retrain, and what became of it."""

    id: int
    key: str
    """The same in every attempt."""
    deployment: str
    cause: Cause
    who: str
    fired_at: str
    """RFC 3339, UTC; of drift by the clock of the log."""
    reason: str
    details: dict[str, Any]
    suppressed: str
    """Why it was held back at first; empty: it was not."""
    state: State
    attempts: int
    """Begun ones, the one that runs among them."""
    problem: str
    began_at: str | None
    ended_at: str | None
    audit: int | None
    """Entry of the newest attempt in the audit trail."""


def read_watch(connection: Connection, deployment: str) -> str | None:
    """State of a deployment's trigger; nobody else changes it before the transaction ends."""
    wanted = select(WATCH.c.state).where(WATCH.c.deployment == deployment).with_for_update()
    return connection.execute(wanted).scalar_one_or_none()


def write_watch(connection: Connection, deployment: str, state: str) -> None:
    """Keep the state of a deployment's trigger."""
    changed = connection.execute(update(WATCH).where(WATCH.c.deployment == deployment).values(state=state))
    if changed.rowcount == 0:
        connection.execute(insert(WATCH).values(deployment=deployment, state=state))


def add(
    connection: Connection,
    *,
    key: str,
    deployment: str,
    cause: Cause,
    who: str,
    fired_at: str,
    reason: str,
    details: Mapping[str, Any],
    suppressed: str = "",
) -> None:
    """Write a trigger that is to be run, or one that is held back; one that was held back before is let go.

    Raises
    ------
    StateError
        It has been fired before.
    """
    held = connection.execute(select(TRIGGERS.c.state).where(TRIGGERS.c.key == key)).scalar_one_or_none()
    values: dict[str, Any] = {
        "cause": cause,
        "who": who[:200],
        "fired_at": fired_at,
        "reason": reason,
        "details": msgspec.json.encode(details).decode(),
        "state": "suppressed" if suppressed else "pending",
    }
    if held == "suppressed" and not suppressed:
        connection.execute(update(TRIGGERS).where(TRIGGERS.c.key == key).values(values))
        return
    if held is not None:
        raise StateError(f"trigger {key} is there already ({held})")
    values |= {"key": key, "deployment": deployment, "suppressed": suppressed, "attempts": 0, "problem": ""}
    connection.execute(insert(TRIGGERS).values(values))


def claim(engine: Engine, deployment: str, *, action: str, leaving: Collection[str] = ()) -> Trigger | None:
    """Take the trigger that is to be seen to: the one that runs, else the oldest one waiting, whose attempt begins now.

    Parameters
    ----------
    action
        Kind of what is run, for the audit trail.
    leaving
        Keys of those whose time has not come.

    Raises
    ------
    StateError
        If the database does not answer; nothing is begun then.
    """
    with transaction(engine) as connection:
        running = _first(connection, deployment, "running")
        if running is not None:
            return running
        trigger = _first(connection, deployment, "pending", leaving)
        if trigger is None:
            return None
        attempt = trigger.attempts + 1
        entry = audit.begin(
            connection,
            action=ACTION,
            who=trigger.who,
            model=deployment,
            reason=trigger.reason,
            details={"trigger": trigger.key, "attempt": attempt, "kind": action},
        )
        begun: dict[str, Any] = {"state": "running", "attempts": attempt, "began_at": _now(), "audit": entry}
        begun["details"] = {**trigger.details, "kind": action}
        stored = {**begun, "details": msgspec.json.encode(begun["details"]).decode()}
        connection.execute(update(TRIGGERS).where(TRIGGERS.c.id == trigger.id).values(stored))
        return msgspec.structs.replace(trigger, **begun)


def conclude(
    engine: Engine,
    trigger: Trigger,
    *,
    state: Literal["pending", "done", "failed", "refused"],
    problem: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record what came of an attempt; ``pending``: it failed, and there will be another one.

    Raises
    ------
    StateError
        If it could not be recorded.
    """
    problem = problem[:_PROBLEM_LETTERS]
    with transaction(engine) as connection:
        if trigger.audit is not None:
            told = {**(details or {}), **({"problem": problem} if problem else {})}
            audit.end(connection, trigger.audit, outcome=_AUDITED[state], details=told)
        kept = msgspec.json.encode({**trigger.details, **(details or {})}).decode()
        values = {"state": state, "problem": problem, "ended_at": _now(), "details": kept}
        connection.execute(update(TRIGGERS).where(TRIGGERS.c.id == trigger.id).values(values))


def open_ones(connection: Connection, deployment: str) -> tuple[Trigger, ...]:
    """Those that run or wait to be run, oldest first."""
    wanted = (
        select(TRIGGERS)
        .where(TRIGGERS.c.deployment == deployment, TRIGGERS.c.state.in_(("running", "pending")))
        .order_by(TRIGGERS.c.id)
    )
    return tuple(_trigger(row) for row in connection.execute(wanted).mappings())


def recent(engine: Engine, deployment: str, limit: int = 20) -> tuple[Trigger, ...]:
    """The newest triggers of a deployment.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = select(TRIGGERS).where(TRIGGERS.c.deployment == deployment).order_by(TRIGGERS.c.id.desc()).limit(limit)
    with transaction(engine) as connection:
        return tuple(_trigger(row) for row in connection.execute(wanted).mappings())


def counts(engine: Engine, deployment: str) -> dict[str, int]:
    """``drift`` and ``person`` -> triggers that have fired, ``suppressed`` -> those that were held back at first.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    of_deployment = TRIGGERS.c.deployment == deployment
    fired = (
        select(TRIGGERS.c.cause, func.count())
        .where(of_deployment, TRIGGERS.c.state != "suppressed")
        .group_by(TRIGGERS.c.cause)
    )
    held = select(func.count()).where(of_deployment, TRIGGERS.c.suppressed != "")
    with transaction(engine) as connection:
        found = {cause: int(number) for cause, number in connection.execute(fired)}
        return {"drift": 0, "person": 0, **found, "suppressed": int(connection.execute(held).scalar_one())}


def _first(connection: Connection, deployment: str, state: State, leaving: Collection[str] = ()) -> Trigger | None:
    wanted = (
        select(TRIGGERS)
        .where(TRIGGERS.c.deployment == deployment, TRIGGERS.c.state == state, TRIGGERS.c.key.not_in(leaving))
        .order_by(TRIGGERS.c.id)
        .limit(1)
    )
    found = connection.execute(wanted).mappings().first()
    return None if found is None else _trigger(found)


def _trigger(row: Any) -> Trigger:
    return Trigger(**{**row, "details": msgspec.json.decode(row["details"], type=dict[str, Any])})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
