"""Triggers, one after the other, in a thread of their own: each attempt is recorded before and after."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.retraining.actions import Action, Result
from shadow_mlops.state import triggers
from shadow_mlops.state.triggers import Trigger

log = structlog.get_logger()

_LOOK_SECONDS = 5.0  # for triggers that another process of this database has written
_RETRY_SECONDS = 5.0


class Runner:
    """Sees to the triggers of a deployment until it is told to end; no two run at a time.

    Parameters
    ----------
    told
        Called in the thread with ``started``, and with ``done``, ``refused``, ``retried`` or ``failed`` after each
        attempt.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        state: Engine,
        deployment: str,
        action: Action,
        *,
        told: Callable[[str], None] = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._deployment = deployment
        self._action = action
        self._told = told
        self._clock = clock
        self._due: dict[str, float] = {}
        self._wanted = threading.Event()
        self._ended = threading.Event()
        context = contextvars.copy_context()  # the name of this process, for the log
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="retraining", daemon=True)
        self._problem = ""

    def start(self) -> None:
        """Begin to see to triggers."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new."""
        self._wanted.set()

    def close(self, seconds: float = 2.0) -> None:
        """End, if a request that is under way ends in that time; a command goes on, and is waited for next time."""
        self._ended.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

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
            return min((due - now for due in later.values()), default=_LOOK_SECONDS)
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

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wanted.clear()
            try:
                pause = self.round()
            except (ShadowError, OSError, ValueError) as error:
                pause = _RETRY_SECONDS
                if str(error) != self._problem:
                    log.error("triggers of retraining cannot be seen to", problem=str(error))
                self._problem = str(error)
            else:
                self._problem = ""
            self._wanted.wait(min(pause, _LOOK_SECONDS))
