"""Orders: one at a time, none against a pin, each on record whatever comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import (
    ConflictError,
    ModelError,
    ModelNotFoundError,
    ModelRefusedError,
    StateError,
)
from shadow_mlops.models.preparation import prepared_directory
from shadow_mlops.models.promoted import Promoted, card_mark, publish_promoted
from shadow_mlops.models.serving import SERVING, read_serving
from shadow_mlops.rollout.following import Followed
from shadow_mlops.state import audit

log = structlog.get_logger()

_REFUSALS = (ConflictError, ModelNotFoundError, ModelRefusedError)


@dataclass(slots=True)
class Attempt:
    """An order on its way: the number of its audit entry, and what it is found to be about."""

    number: int
    from_version: str | None = None
    to_version: str | None = None


class Orders:
    """What promotions, rollbacks and canary steps have in common.

    Parameters
    ----------
    state
        Database with the audit trail.
    model
        Registered model.
    alone
        Gives a lock that one order holds at a time; raises ConflictError when it is taken.
    pins
        Role -> human version that a setting fixes; with any, nothing is moved.
    """

    def __init__(
        self,
        state: Engine,
        model: str,
        *,
        data_dir: Path,
        alone: Callable[[], AbstractContextManager[None]],
        pins: Mapping[str, str],
    ) -> None:
        self._state = state
        self._model = model
        self._data_dir = data_dir
        self._alone = alone
        self._pins = {role: version for role, version in pins.items() if version}

    @contextmanager
    def recorded(
        self, action: str, *, to: str | None, who: str, reason: str, details: Mapping[str, Any] | None
    ) -> Iterator[Attempt]:
        """Record an order, hold the lock while it is carried out, and record what came of it.

        Raises
        ------
        ConflictError
            If a version is pinned, or another order is under way.
        StateError
            If it could not be recorded; nothing has been begun then.
        """
        number = audit.record(
            self._state, action=action, who=who, model=self._model, to_version=to, reason=reason, details=details
        )
        attempt = Attempt(number)
        try:
            with self._alone():
                self._refuse_pinned()
                yield attempt
        except BaseException as error:
            outcome: audit.Outcome = "refused" if isinstance(error, _REFUSALS) else "failed"
            log.warning("order not carried out", action=action, outcome=outcome, who=who, problem=str(error))
            self._conclude(attempt, outcome, {"problem": str(error) or type(error).__name__})
            raise
        self._conclude(attempt, "done", {})

    def note(self, attempt: Attempt, followed: Followed) -> None:
        """Add whether the workers of this host follow."""
        self._conclude(attempt, "done", {"served": followed.served, "served_seconds": followed.seconds})

    def nudge(self, number: str) -> None:
        """Tell the resolver of this host to look now; the version has just been proved."""
        mark = card_mark(prepared_directory(self._data_dir, self._model, number))
        try:
            publish_promoted(self._data_dir, Promoted(number=number, card=mark or ""))
        except ModelError as error:
            log.warning("the resolver is not told, it looks each second", reason=str(error))

    def _conclude(self, attempt: Attempt, outcome: audit.Outcome, details: Mapping[str, Any]) -> None:
        try:
            audit.conclude(
                self._state,
                attempt.number,
                outcome=outcome,
                from_version=attempt.from_version,
                to_version=attempt.to_version,
                details=details,
            )
        except StateError as error:  # what was done is done; the entry says `started`
            log.error("the audit entry is not concluded", entry=attempt.number, outcome=outcome, reason=str(error))

    def _refuse_pinned(self) -> None:
        if self._pins:
            pins = ", ".join(f"{role} to {version}" for role, version in self._pins.items())
            raise ConflictError(
                f"settings pin the {pins}: unset MODEL_CHAMPION_VERSION and MODEL_CHALLENGER_VERSION, and restart"
            )
        try:
            serving = read_serving(self._data_dir / SERVING)
        except ModelError:
            return  # damaged: the resolver writes it anew
        if serving is not None and serving.pinned:
            raise ConflictError(
                f"the running gateway has pinned the {' and the '.join(serving.pinned)} by its settings:"
                " unset MODEL_CHAMPION_VERSION and MODEL_CHALLENGER_VERSION there, and restart it"
            )
