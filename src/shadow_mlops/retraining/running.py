"""Triggers, one after the other, in a thread of their own: each attempt is recorded before and after."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.retraining.actions import Action, Result
from shadow_mlops.rounds import LOOK_SECONDS, Rounds
from shadow_mlops.state import triggers
from shadow_mlops.state.triggers import Trigger

log = structlog.get_logger()


class Runner(Rounds):
    """Sees to the triggers of a deployment until it is told to end; no two run at a time, and a command outlives it.

    Parameters
    ----------
    told
        Called in the thread with ``started``, and with ``done``, ``refused``, ``retried`` or ``failed`` after each
        attempt.
    clock
        Monotonic seconds.
    """

    name = "retraining"
    complaint = "triggers of retraining cannot be seen to"
    wrong = (ShadowError, OSError, ValueError)

    def __init__(
        self,
        state: Engine,
        deployment: str,
        action: Action,
        *,
        told: Callable[[str], None] = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._state = state
        self._deployment = deployment
        self._action = action
        self._told = told
        self._clock = clock
        self._due: dict[str, float] = {}

    def round(self) -> float:
        """See to the trigger that is due, if there is one, to the end of its attempt.

        Returns
        -------
        float
            Seconds until something is due again, at most.

        Raises
        ------
        StateError, OSError
            What was begun is gone on with by the next call.
        """
        now = self._clock()
        later = {key: due for key, due in self._due.items() if due > now}
        trigger = triggers.claim(self._state, self._deployment, action=self._action.kind, leaving=later)
        if trigger is None:
            return min((due - now for due in later.values()), default=LOOK_SECONDS)
        self._told("started")
        log.info("retraining runs", trigger=trigger.key, attempt=trigger.attempts, action=self._action.shown)
        result = self._result(trigger)
        if result is None:
            log.info("retraining goes on without the monitor", trigger=trigger.key)
        else:
            self._conclude(trigger, result)
        return 0.0

    def _result(self, trigger: Trigger) -> Result | None:
        begun_as = trigger.details.get("kind", self._action.kind)
        if begun_as != self._action.kind:
            problem = f"`retrain.action` was changed from {begun_as} to {self._action.kind} while it ran: not followed"
            return Result(ending="failed", problem=problem, again=False)
        return self._action.run(trigger, self._ended)

    def _conclude(self, trigger: Trigger, result: Result) -> None:
        limits = self._action.limits
        again = result.ending == "failed" and result.again and trigger.attempts < limits.attempts
        triggers.conclude(
            self._state,
            trigger,
            state="pending" if again else result.ending,
            problem=result.problem,
            details=result.details,
        )
        self._due.pop(trigger.key, None)
        if again:
            pause = min(limits.first_pause * 2.0 ** (trigger.attempts - 1), limits.longest_pause)
            self._due[trigger.key] = self._clock() + pause
        self._told("retried" if again else result.ending)
        told = {"trigger": trigger.key, "attempt": trigger.attempts}
        if result.ending == "done":
            log.info("retraining is done", **told)
        elif result.ending == "refused":
            log.warning("retraining was refused", problem=result.problem, **told)
        else:
            log.error("retraining has failed", problem=result.problem, again=again, **told)
