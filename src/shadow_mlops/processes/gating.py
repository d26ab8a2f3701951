"""Gates and canaries with the settings of this process: wired for the monitor, and for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ConflictError
from shadow_mlops.domain.models import CanaryStep
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.serving import SERVING, read_serving
from shadow_mlops.monitor.gating import Gating, Roles
from shadow_mlops.processes.rollout import open_rollout
from shadow_mlops.processes.settings import Settings
from shadow_mlops.rollout import Rollout
from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.gate import Gates
from shadow_mlops.rollout.spec import spec_of
from shadow_mlops.rollout.standing import Standing
from shadow_mlops.rollout.watching import CanaryWatch
from shadow_mlops.state import audit, upgrade
from shadow_mlops.telemetry.metrics import Metrics

_WHO = "gate"


def open_gates(settings: Settings, deployment: Deployment, state: Engine) -> Gates:
    """The gates of a deployment.

    Raises
    ------
    ConflictError
        If its file has none.
    """
    spec = spec_of(deployment)
    if spec is None:
        raise ConflictError("this deployment has no gate: name `gate.metric` and `gate.bound` in its file")
    return Gates(settings.data_dir / "lake", state, spec, model=deployment.name)


def open_watch(settings: Settings, deployment: Deployment, state: Engine, gates: Gates) -> CanaryWatch:
    """What watches the canaries of a deployment."""
    values = deployment.canary.values_per_step
    return CanaryWatch(settings.data_dir / "lake", state, gates.spec, values_per_step=values)


def open_gating(settings: Settings, deployment: Deployment, state: Engine, metrics: Metrics) -> Gating | None:
    """What the monitor advances; None where the deployment file has no gate."""
    if spec_of(deployment) is None:
        return None
    gates = open_gates(settings, deployment, state)
    return Gating(
        gates,
        open_watch(settings, deployment, state, gates),
        roles=lambda: roles_of(settings.data_dir, deployment),
        acting=RolloutActor(settings, deployment, state),
        metrics=metrics,
        auto_promote=deployment.gate.auto_promote,
        prepare=lambda: upgrade(state),
    )


def standing_of(settings: Settings, deployment: Deployment, state: Engine) -> Standing:
    """How gates and canary stand now; nothing is advanced.

    Raises
    ------
    ConflictError
        If the deployment file has no gate.
    ModelError, StateError
        If what is published, or the database, cannot be read.
    """
    gates = open_gates(settings, deployment, state)
    roles = roles_of(settings.data_dir, deployment)
    if roles is None:
        return Standing(spec=gates.spec, champion=None, gates=())
    step = None
    if roles.canary is not None:
        step = open_watch(settings, deployment, state, gates).status(roles.canary)
    found = tuple(gates.status(roles.champion, roles.challengers))
    return Standing(spec=gates.spec, champion=roles.champion, gates=found, canary=roles.canary, step=step)


def roles_of(data_dir: Path, deployment: Deployment) -> Roles | None:
    """Who serves, shadows and is on trial on this host; None before the first champion.

    Raises
    ------
    ModelError
        If what is published cannot be read.
    """
    serving = read_serving(data_dir / SERVING)
    if serving is None:
        return None

    cards = {name: read_card(data_dir / directory) for name, directory in serving.challengers.items()}
    canary = None
    if serving.canary is not None:
        canary = _status(serving.canary, read_card(data_dir / serving.canary.directory).version, deployment)
    return Roles(
        champion=read_card(data_dir / serving.champion).version,
        challengers={name: card.version for name, card in cards.items()},
        canary=canary,
        created_us={name: card.created_us for name, card in cards.items() if card.created_us},
    )


def _status(step: CanaryStep, version: str, deployment: Deployment) -> CanaryStatus:
    return CanaryStatus(
        challenger=step.challenger,
        version=version,
        share=step.share,
        step=step.step,
        steps=len(deployment.canary.steps),
        rollout=step.rollout,
        since_us=step.since_us,
        frozen=step.frozen,
    )


class RolloutActor:
    """Carries out what a gate decided, as the audit trail's ``gate``. The registry is opened when it is needed."""

    def __init__(self, settings: Settings, deployment: Deployment, state: Engine) -> None:
        self._settings = settings
        self._deployment = deployment
        self._state = state

    @cached_property
    def _rollout(self) -> Rollout:
        registry = Registry(self._settings.tracking_uri, self._settings.artifact_root)
        return open_rollout(self._settings, self._deployment, registry, self._state)

    def start(self, role: str, *, evidence: str, reason: str) -> None:
        """See :class:`~shadow_mlops.monitor.gating.Acting`."""
        if self._deployment.canary.steps:
            self._rollout.canaries.start(
                role, who=_WHO, reason=reason, rollout=evidence, details={"evidence": evidence}
            )
            return
        version = self._rollout.status().challengers[role]
        self._rollout.promote(version, who=_WHO, reason=reason, details={"evidence": evidence})

    def advance(self, canary: CanaryStatus, reason: str) -> None:
        """See :class:`~shadow_mlops.monitor.gating.Acting`."""
        self._rollout.canaries.advance(who=_WHO, reason=reason, seen=canary)

    def abort(self, canary: CanaryStatus, reason: str, details: Mapping[str, object]) -> None:
        """See :class:`~shadow_mlops.monitor.gating.Acting`."""
        self._rollout.canaries.abort(who=_WHO, reason=reason, details=details, rollout=canary.rollout)

    def promote(self, canary: CanaryStatus, reason: str) -> None:
        """See :class:`~shadow_mlops.monitor.gating.Acting`."""
        self._rollout.promote(canary.version, who=_WHO, reason=reason, seen=canary)

    def tried(self, evidence: str) -> bool:
        """See :class:`~shadow_mlops.monitor.gating.Acting`."""
        return audit.rests_on(self._state, evidence)
