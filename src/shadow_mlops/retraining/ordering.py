"""Retraining by a person: a trigger like any other, with who and why; cool-down and budget do not hold it back."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Engine

from shadow_mlops.domain.errors import ConflictError
from shadow_mlops.retraining.actions import Action
from shadow_mlops.retraining.recording import watched
from shadow_mlops.retraining.trigger import Rule, held_back
from shadow_mlops.state import audit, triggers
from shadow_mlops.state.database import transaction

NO_ACTION = "this deployment retrains nothing: name a command, webhook or github under `retrain.action` in its file"


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a person's order."""

    key: str
    """Of the trigger: in its environment, requests, log and audit entries."""
    state: triggers.State
    action: str
    """What the monitor runs."""
    notes: tuple[str, ...] = ()
    """What would have held back the trigger of drift."""


class RetrainOrders:
    """Takes the orders of a deployment.

    Parameters
    ----------
    action
        What the monitor runs; None: the deployment file names nothing.
    """

    def __init__(self, state: Engine, rule: Rule, action: Action | None) -> None:
        self._state = state
        self._rule = rule
        self._action = action

    def order(self, *, who: str, reason: str, force: bool = False, details: Mapping[str, Any] | None = None) -> Ordered:
        """Record a trigger, which the monitor of this data directory sees to within seconds.

        Parameters
        ----------
        force
            Queue it though another one runs or waits.
        details
            How the order came, for the audit trail.

        Raises
        ------
        ConflictError
            If no action is configured, or another trigger runs or waits; that is in the audit trail too.
        StateError
            If it could not be recorded.
        """
        key, now = f"retrain-{secrets.token_hex(8)}", datetime.now(UTC)
        try:
            action = self._add(key, now, who=who, reason=reason, force=force, details=details or {})
        except ConflictError as error:
            audit.record(
                self._state,
                action=triggers.ACTION,
                who=who,
                model=self._rule.deployment,
                reason=reason,
                outcome="refused",
                details={**(details or {}), "problem": str(error)},
            )
            raise
        return Ordered(key=key, state="pending", action=action.shown, notes=self._notes(now))

    def _add(
        self, key: str, now: datetime, *, who: str, reason: str, force: bool, details: Mapping[str, Any]
    ) -> Action:
        if self._action is None:
            raise ConflictError(NO_ACTION)
        name = self._rule.deployment
        with transaction(self._state) as connection:
            triggers.read_watch(connection, name)  # locks it: of two orders at once, one sees the other
            open_ones = triggers.open_ones(connection, name)
            if open_ones and not force:
                state = "running" if open_ones[0].state == "running" else "waiting to run"
                raise ConflictError(f"retraining {open_ones[0].key} is {state} already: {open_ones[0].reason}")
            triggers.add(
                connection,
                key=key,
                deployment=name,
                cause="person",
                who=who,
                fired_at=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                reason=reason,
                details={**details, "features": []},
            )
        return self._action

    def _notes(self, now: datetime) -> tuple[str, ...]:
        held = held_back(watched(self._state, self._rule.deployment), round(now.timestamp() * 1e6), self._rule)
        return (f"a trigger of drift would be held back: {held}",) if held else ()
