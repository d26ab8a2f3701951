"""The trigger of retraining at the monitor's pace; what goes wrong in it stops nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.retraining.recording import record, watched
from shadow_mlops.retraining.running import Runner
from shadow_mlops.retraining.trigger import Check, Rule, Watch, check_of, due
from shadow_mlops.state import triggers
from shadow_mlops.telemetry.metrics import Metrics, count_up_to

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
_COUNT_SECONDS = 5.0  # a person's triggers are written by other processes
_RETRY_SECONDS = 5.0
_WRONG = (ShadowError, OSError, ValueError, ArithmeticError, LookupError)


class Retraining:
    """Looks at each check number once, and leaves what has fired to the runner.

    Parameters
    ----------
    newest
        The report of live drift, if it is another one than last time.
    open_state
        The database, tables up to date, and who runs triggers; called until it has succeeded once.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        newest: Callable[[], LiveDrift | None],
        open_state: Callable[[], tuple[Engine, Runner]],
        rule: Rule,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest = newest
        self._open_state = open_state
        self._rule = rule
        self._metrics = metrics
        self._clock = clock
        self._state: tuple[Engine, Runner] | None = None
        self._known = Watch()
        self._check: Check | None = None
        self._next = self._next_count = 0.0
        self._problem = ""

    def step(self) -> None:
        """Look if it is time to."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _LOOK_SECONDS
        try:
            self._look()
        except _WRONG as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                log.error("the trigger of retraining is not looked at", problem=problem)
            self._problem = problem
            self._metrics.retrain_failing.set(1)
            self._next = self._clock() + _RETRY_SECONDS
            return
        if self._problem:
            log.info("the trigger of retraining is looked at again")
        self._problem = ""
        self._metrics.retrain_failing.set(0)

    def close(self) -> None:
        """End the runner; a command goes on without it."""
        if self._state is not None:
            self._state[1].close()

    def _look(self) -> None:
        if self._state is None:
            state, runner = self._open_state()
            self._known = watched(state, self._rule.deployment)
            runner.start()
            self._state = state, runner
        state, runner = self._state
        report = self._newest()
        if report is not None:
            self._check = check_of(report, self._rule)
        if self._check is not None and due(self._known, self._check.at_us, self._rule):
            self._take_in(state, runner, self._check)
        if self._clock() >= self._next_count:
            for kind, number in triggers.counts(state, self._rule.deployment).items():
                count_up_to(self._metrics.retrain_triggers.labels(kind), number)
            self._next_count = self._clock() + _COUNT_SECONDS

    def _take_in(self, state: Engine, runner: Runner, check: Check) -> None:
        event = record(state, check, self._rule)
        self._known = Watch(looked_us=check.at_us)
        if event is None:
            log.info("retraining: checked", verdict=check.verdict, rows=check.rows)
            return
        self._next_count = 0.0
        if event.kind == "suppressed":
            log.warning("retraining is held back", trigger=event.key, reason=event.reason, held_back=event.held)
        else:
            log.warning("retraining is triggered", trigger=event.key, reason=event.reason)
            runner.wake()


def count_run(metrics: Metrics, result: str) -> None:
    """What the runner tells, as Prometheus sees it."""
    metrics.retrain_running.set(result == "started")
    if result != "started":
        metrics.retrain_runs.labels(result).inc()
