"""Checks into the state database: what is watched and the trigger that came of it are one transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine

from shadow_mlops.domain.errors import StateError
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.retraining.trigger import Check, Event, Rule, Watch, step
from shadow_mlops.state import triggers
from shadow_mlops.state.database import transaction

WHO = "drift"
"""In triggers and audit trail, where no person gave the order."""


def record(engine: Engine, check: Check, rule: Rule) -> Event | None:
    """Take in a check: killed at any point, it is taken in wholly or not at all, and may be repeated.

    Returns
    -------
    Event or None
        The trigger that has fired, or was held back, by this very call.

    Raises
    ------
    StateError
        Nothing is recorded.
    """
    with transaction(engine) as connection:
        watch = _watch(connection, rule.deployment)
        stepped = step(watch, check, rule)
        if stepped.event is not None:
            _write(connection, stepped.event, rule.deployment)
        if stepped.watch != watch:
            triggers.write_watch(connection, rule.deployment, msgspec.json.encode(stepped.watch).decode())
        return stepped.event


def watched(engine: Engine, deployment: str) -> Watch:
    """What is kept of the checks so far.

    Raises
    ------
    StateError
        If the database does not answer, or what it has is not understood.
    """
    with transaction(engine) as connection:
        return _watch(connection, deployment)


def _watch(connection: Connection, deployment: str) -> Watch:
    stored = triggers.read_watch(connection, deployment)
    if stored is None:
        return Watch()
    try:
        return msgspec.json.decode(stored, type=Watch)
    except msgspec.DecodeError as error:
        raise StateError(f"the state of the retraining trigger of {deployment} is not understood: {error}") from None


def _write(connection: Connection, event: Event, deployment: str) -> None:
    triggers.add(
        connection,
        key=event.key,
        deployment=deployment,
        cause="drift",
        who=WHO,
        fired_at=rfc3339(event.at_us),
        reason=event.reason,
        details=_details(event),
        suppressed=event.held,
    )


def _details(event: Event) -> dict[str, Any]:
    """Names of features and figures, never a value of a row."""
    check = event.check
    return {
        "version": check.version,
        "reference": check.reference,
        "window_rows": check.rows,
        "features": sorted({mark.feature for mark in check.marks}),
        "scores": [msgspec.to_builtins(mark) for mark in check.marks],
    }
