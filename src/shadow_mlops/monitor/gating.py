"""Gates and canaries at the monitor's pace: advance what can be, tell how it stands, do what was decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.gate import Gates, GateStatus
from shadow_mlops.rollout.watching import CanaryWatch, StepStatus
from shadow_mlops.telemetry.metrics import Metrics

log = structlog.get_logger()

_EVERY_SECONDS = 5.0
_IDLE_PART = 5.0
"""Pause after a look that took long, as a multiple of it: a day's cohort may take a second to read."""
_FIRST_RETRY = 60.0
_LAST_RETRY = 3600.0
_STATES = ("promote", "reject", "keep_watching")


@dataclass(frozen=True, slots=True)
class Roles:
    """Who serves now: human versions.

    Attributes
    ----------
    challengers
        Name -> version.
    created_us
        Name -> when its version was registered, microseconds since 1970; what is not known is absent.
    """

    champion: str
    challengers: Mapping[str, str]
    canary: CanaryStatus | None
    created_us: Mapping[str, int] = field(default_factory=dict)


class Acting(Protocol):
    """Carries out what was decided; each call may take seconds and is made in a thread of its own.

    Orders about a canary name the step that they rest on: who has aborted, frozen or moved it meanwhile wins.
    """

    def start(self, role: str, *, evidence: str, reason: str) -> None:
        """Begin a canary with this challenger, or promote it where there are no steps."""

    def advance(self, canary: CanaryStatus, reason: str) -> None:
        """Go to the next step."""

    def abort(self, canary: CanaryStatus, reason: str, details: Mapping[str, object]) -> None:
        """End the canary; the champion answers all."""

    def promote(self, canary: CanaryStatus, reason: str) -> None:
        """Make its version champion."""

    def tried(self, evidence: str) -> bool:
        """Whether a rollout that rests on this evidence has been begun before."""


class Gating:
    """The gates of a deployment, in the monitor.

    Parameters
    ----------
    roles
        Who serves now; None: not known.
    auto_promote
        Begin a rollout when a gate says ``promote``, and promote after its last step, without asking.
    prepare
        Makes the database's tables; called until it has succeeded once.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        gates: Gates,
        watch: CanaryWatch,
        *,
        roles: Callable[[], Roles | None],
        acting: Acting,
        metrics: Metrics,
        auto_promote: bool,
        prepare: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gates = gates
        self._watch = watch
        self._roles = roles
        self._acting = acting
        self._metrics = metrics
        self._auto = auto_promote
        self._prepare: Callable[[], None] | None = prepare
        self._clock = clock
        self._next = 0.0
        self._problem = ""
        self._orders = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._order: Future[None] | None = None
        self._not_before: dict[str, tuple[float, float]] = {}
        self._shown: set[str] = set()

    def step(self) -> None:
        """Look if it is time to. What goes wrong is told and tried again, and stops nothing else."""
        if self._clock() < self._next:
            return
        began = self._clock()
        try:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            roles = self._roles()
            if roles is not None:
                self._look(roles)
        except (ShadowError, OSError) as error:
            if str(error) != self._problem:
                log.error("gates do not advance", problem=str(error))
            self._problem = str(error)
            self._metrics.gate_failing.set(1)
        self._next = self._clock() + max(_EVERY_SECONDS, _IDLE_PART * (self._clock() - began))

    def close(self) -> None:
        """Wait for an order that is being carried out."""
        self._orders.shutdown(wait=True)

    def _look(self, roles: Roles) -> None:
        # In a canary step the champion stays champion, so the gate that started it goes on being shown.
        statuses = self._gates.advance(roles.champion, roles.challengers, roles.created_us)
        step = self._watch.look(roles.champion, roles.canary) if roles.canary is not None else None
        if self._problem:
            log.info("gates advance again")
        self._problem = ""
        self._set_gauges(statuses, roles.canary, step)
        self._act(roles, statuses, step)

    def _act(self, roles: Roles, statuses: list[GateStatus], step: StepStatus | None) -> None:
        if self._order is not None and not self._order.done():
            return
        canary = roles.canary
        if canary is not None and step is not None:
            self._act_on_canary(canary, step)
            return
        if not self._auto:
            return
        for status in statuses:
            evidence = status.evidence_id
            if status.decision.decision != "promote" or evidence is None or self._acting.tried(evidence):
                continue
            reason = f"{status.decision.reasons[0]} (evidence {evidence})"
            start = partial(self._acting.start, status.name, evidence=evidence, reason=reason)
            self._do(f"start {evidence}", start)
            return

    def _act_on_canary(self, canary: CanaryStatus, step: StepStatus) -> None:
        key = f"{canary.rollout} {canary.step}"
        if step.verdict == "harm":
            reason = (
                f"harm at {canary.share:.3g} of the entities: {step.harmed:,} of {step.answered:,} labelled answers"
            )
            details = {
                "harmed": step.harmed,
                "answered": step.answered,
                "values": step.values,
                "rollout": canary.rollout,
            }
            self._do(f"abort {key}", partial(self._acting.abort, canary, reason, details))
        elif step.verdict == "enough" and not canary.frozen:
            reason = (
                f"{step.values:,} values at {canary.share:.3g} of the entities without harm (rollout {canary.rollout})"
            )
            if canary.step + 1 < canary.steps:
                self._do(f"advance {key}", partial(self._acting.advance, canary, reason))
            elif self._auto:
                self._do(f"promote {key}", partial(self._acting.promote, canary, reason))

    def _do(self, key: str, order: Callable[[], None]) -> None:
        not_before, pause = self._not_before.get(key, (0.0, _FIRST_RETRY))
        if self._clock() < not_before:
            return
        self._not_before[key] = (self._clock() + pause, min(2 * pause, _LAST_RETRY))
        self._order = self._orders.submit(_carried_out, key, order)

    def _set_gauges(self, statuses: list[GateStatus], canary: CanaryStatus | None, step: StepStatus | None) -> None:
        metrics, nan = self._metrics, float("nan")
        metrics.gate_failing.set(0)
        for status in statuses:
            name, decision = status.name, status.decision
            low, high = decision.interval or (nan, nan)
            metrics.gate_estimate.labels(name).set(nan if decision.estimate is None else decision.estimate)
            metrics.gate_interval.labels(name, "low").set(low)
            metrics.gate_interval.labels(name, "high").set(high)
            metrics.gate_e_value.labels(name).set(decision.e_value)
            metrics.gate_labels.labels(name).set(decision.labelled)
            metrics.gate_labels_needed.labels(name).set(
                nan if decision.labels_needed is None else decision.labels_needed
            )
            for state in _STATES:
                metrics.gate_state.labels(name, state).set(state == decision.decision)
        for name in self._shown - {status.name for status in statuses}:  # gone: no number is better than an old one
            for gauge in (metrics.gate_estimate, metrics.gate_e_value, metrics.gate_labels, metrics.gate_labels_needed):
                gauge.labels(name).set(nan)
            for state in _STATES:
                metrics.gate_state.labels(name, state).set(0)
        self._shown |= {status.name for status in statuses}
        metrics.canary_share.set(0.0 if canary is None else canary.share)
        if step is not None:
            metrics.canary_harmed.set(step.harmed)


def _carried_out(key: str, order: Callable[[], None]) -> None:
    try:
        order()
    except ShadowError as error:
        log.error("what was decided could not be done, it is tried again", order=key, problem=str(error))
    else:
        log.info("done as decided", order=key)
