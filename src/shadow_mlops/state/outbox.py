"""Alerts that are to be delivered: written together with what they tell of, struck out when somebody took them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select, update

from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import OUTBOX

State: TypeAlias = Literal["pending", "delivered", "failed"]
_PROBLEM_LETTERS = 300


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver."""

    id: int
    key: str
    """The same in each attempt, and in no other message to this receiver."""
    kind: str
    """Who is told: ``log``, ``webhook``, ``slack``."""
    created_at: str
    state: State
    attempts: int
    problem: str
    payload: dict[str, Any]


def add(connection: Connection, *, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
    """Put a message into the outbox; False if it is there already, delivered or not."""
    known = select(OUTBOX.c.id).where(OUTBOX.c.key == key, OUTBOX.c.kind == kind)
    if connection.execute(known).first() is not None:
        return False
    values = {
        "key": key,
        "kind": kind,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "state": "pending",
        "attempts": 0,
        "problem": "",
        "payload": msgspec.json.encode(payload).decode(),
    }
    connection.execute(insert(OUTBOX).values(values))
    return True


def pending(engine: Engine, limit: int = 100) -> tuple[Alert, ...]:
    """What is to be delivered, oldest first.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = select(OUTBOX).where(OUTBOX.c.state == "pending").order_by(OUTBOX.c.id).limit(limit)
    with transaction(engine) as connection:
        return tuple(_alert(row) for row in connection.execute(wanted).mappings())


def note(engine: Engine, number: int, *, state: State, problem: str = "") -> None:
    """Record an attempt and what came of it.

    Raises
    ------
    StateError
        If it could not be recorded: the attempt will be made again.
    """
    values = {"state": state, "attempts": OUTBOX.c.attempts + 1, "problem": problem[:_PROBLEM_LETTERS]}
    with transaction(engine) as connection:
        connection.execute(update(OUTBOX).where(OUTBOX.c.id == number).values(values))


def counts(engine: Engine) -> dict[tuple[str, State], int]:
    """Kind and state -> messages.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    wanted = select(OUTBOX.c.kind, OUTBOX.c.state, func.count()).group_by(OUTBOX.c.kind, OUTBOX.c.state)
    with transaction(engine) as connection:
        return {(kind, state): number for kind, state, number in connection.execute(wanted)}


def _alert(row: Any) -> Alert:
    return Alert(**{**row, "payload": msgspec.json.decode(row["payload"], type=dict[str, Any])})
