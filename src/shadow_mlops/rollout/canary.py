"""A canary, step by step: the new model answers a part of the entities, then more of them, then all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import structlog

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ConflictError, ModelError, ModelRefusedError
from shadow_mlops.domain.models import Serving
from shadow_mlops.models.canary import CANARY_TAG, CanaryTag, decode_canary, encode_canary
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.preparation import no_traffic
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.models.resolver import CHAMPION
from shadow_mlops.rollout.aliases import challenger_roles
from shadow_mlops.rollout.following import Followed, await_agreed
from shadow_mlops.rollout.orders import Attempt, Orders
from shadow_mlops.rollout.proving import prove

log = structlog.get_logger()

CanaryAction: TypeAlias = Literal["start", "advance", "freeze", "resume", "abort"]
FOLLOW_SECONDS = 10.0


class CanaryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The step in force."""

    challenger: str
    version: str
    share: float
    step: int
    steps: int
    rollout: str
    since_us: int
    frozen: bool


class CanaryChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an order did."""

    action: CanaryAction
    canary: CanaryStatus | None
    """As it is now; None: there is none any more."""
    followed: Followed
    audit_id: int


class Canaries:
    """Moves the canary of one deployment; one order at a time, none beside a promotion.

    Parameters
    ----------
    orders
        Lock, pins and audit trail, shared with promotion.
    now
        Seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        deployment: Deployment,
        *,
        orders: Orders,
        data_dir: Path,
        allow_pickle: bool = False,
        recent_rows: RecentRows = no_traffic,
        follow_seconds: float = FOLLOW_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._deployment = deployment
        self._orders = orders
        self._data_dir = data_dir
        self._allow_pickle = allow_pickle
        self._recent_rows = recent_rows
        self._follow_seconds = follow_seconds
        self._now = now

    @property
    def steps(self) -> Sequence[float]:
        """Shares of the steps, ascending."""
        return self._deployment.canary.steps

    def tag(self) -> CanaryTag | None:
        """What the registry says.

        Raises
        ------
        RegistryError
            If it does not answer.
        """
        return decode_canary(self._registry.tags(self._deployment.name).get(CANARY_TAG))

    def status(self) -> CanaryStatus | None:
        """The step in force; None: no canary."""
        tag = self.tag()
        return None if tag is None else self._told(tag)

    def start(
        self, role: str, *, who: str, reason: str = "", rollout: str = "", details: Mapping[str, Any] | None = None
    ) -> CanaryChange:
        """Let a challenger answer the first share.

        Parameters
        ----------
        role
            Its alias.
        rollout
            What it rests on: the id of its evidence; empty: an operator's order.

        Raises
        ------
        ConflictError
            If a canary is under way, a version is pinned, there are no steps, or no version has that alias.
        ModelRefusedError
            If the version would not serve.
        """
        with self._orders.recorded("canary start", to=None, who=who, reason=reason, details=details) as attempt:
            if self.tag() is not None:
                raise ConflictError("a canary is under way: advance or abort it first")
            if not self.steps:
                raise ConflictError("`canary.steps` of the deployment file is empty: promote instead")
            aliases = self._registry.aliases(self._deployment.name)
            number = challenger_roles(aliases).get(role)
            if number is None or number == aliases.get(CHAMPION):
                raise ConflictError(f"no version shadows as {role!r}: see shadow models list")
            version = self._registry.numbered(self._deployment.name, number)
            self._name(attempt, aliases, version)
            self._prove(version)
            tag = CanaryTag(
                challenger=role,
                number=number,
                share=self.steps[0],
                step=0,
                rollout=rollout or f"order-{attempt.number}",
                since_us=self._now_us(),
            )
            self._write(tag)
        return self._followed("start", attempt, tag)

    def advance(
        self,
        *,
        who: str,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        seen: CanaryStatus | None = None,
    ) -> CanaryChange:
        """Go to the next share.

        Parameters
        ----------
        seen
            The step that was watched; None: whatever is in force.

        Raises
        ------
        ConflictError
            If there is no canary, it is at its last step (promote the version then), or not as it was seen.
        """
        with self._orders.recorded("canary advance", to=None, who=who, reason=reason, details=details) as attempt:
            before = self._there(attempt)
            if seen is not None:
                self.refuse_unlike(seen)
            if before.step + 1 >= len(self.steps):
                raise ConflictError("the canary is at its last step: promote the version, or abort")
            tag = msgspec.structs.replace(
                before, step=before.step + 1, share=self.steps[before.step + 1], since_us=self._now_us(), frozen=False
            )
            self._write(tag)
        return self._followed("advance", attempt, tag)

    def freeze(
        self, *, frozen: bool, who: str, reason: str = "", details: Mapping[str, Any] | None = None
    ) -> CanaryChange:
        """Hold the share where it is, or let it go on.

        Raises
        ------
        ConflictError
            If there is no canary.
        """
        action: CanaryAction = "freeze" if frozen else "resume"
        with self._orders.recorded(f"canary {action}", to=None, who=who, reason=reason, details=details) as attempt:
            tag = msgspec.structs.replace(self._there(attempt), frozen=frozen)
            self._write(tag)
        return self._followed(action, attempt, tag)

    def abort(
        self,
        *,
        who: str,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        rollout: str | None = None,
    ) -> CanaryChange:
        """Let the champion answer all again.

        Parameters
        ----------
        rollout
            Only the canary of this rollout; None: whichever is under way.

        Raises
        ------
        ConflictError
            If there is no canary, or another.
        """
        with self._orders.recorded("canary abort", to=None, who=who, reason=reason, details=details) as attempt:
            there = self._there(attempt)
            if rollout is not None and there.rollout != rollout:
                raise ConflictError(f"the canary of rollout {rollout} is over: another is under way")
            self._write(None)
        return self._followed("abort", attempt, None)

    def order(
        self, action: CanaryAction, role: str, *, who: str, reason: str = "", details: Mapping[str, Any] | None = None
    ) -> CanaryChange:
        """Carry out an order that came as data.

        Parameters
        ----------
        role
            Of the challenger, for ``start``.
        """
        if action == "start":
            return self.start(role, who=who, reason=reason, details=details)
        if action == "advance":
            return self.advance(who=who, reason=reason, details=details)
        if action == "abort":
            return self.abort(who=who, reason=reason, details=details)
        return self.freeze(frozen=action == "freeze", who=who, reason=reason, details=details)

    def refuse_unlike(self, seen: CanaryStatus) -> None:
        """Refuse an order that rests on a step which somebody has moved on, frozen or ended since.

        Raises
        ------
        ConflictError
            If the registry says something else than what was seen.
        """
        now = self.tag()
        if now is None or (now.rollout, now.step, now.frozen) != (seen.rollout, seen.step, seen.frozen):
            raise ConflictError(f"the canary is no longer at step {seen.step + 1} of rollout {seen.rollout}")

    def forget(self) -> None:
        """Remove the tag of a canary that a promotion, or another tool's move of an alias, has ended."""
        try:
            self._registry.delete_tag(self._deployment.name, CANARY_TAG)
        except ModelError as error:  # without its alias it is no canary any more
            log.warning("the tag of an ended canary stays", reason=str(error))

    def _there(self, attempt: Attempt) -> CanaryTag:
        tag = self.tag()
        if tag is None:
            raise ConflictError("there is no canary: start one first")
        version = self._registry.numbered(self._deployment.name, tag.number)
        self._name(attempt, self._registry.aliases(self._deployment.name), version)
        return tag

    def _name(self, attempt: Attempt, aliases: Mapping[str, str], version: RegisteredVersion) -> None:
        attempt.to_version = version.human
        if CHAMPION in aliases:
            attempt.from_version = self._registry.numbered(self._deployment.name, aliases[CHAMPION]).human

    def _prove(self, version: RegisteredVersion) -> None:
        directory = prove(
            self._registry,
            version,
            self._deployment,
            data_dir=self._data_dir,
            allow_pickle=self._allow_pickle,
            recent_rows=self._recent_rows,
            in_force_suffices=True,
        )
        if read_card(directory).runtime in {"http", "pyfunc"}:
            raise ModelRefusedError("its model runs elsewhere: only one that the gateway loads itself can be a canary")

    def _write(self, tag: CanaryTag | None) -> None:
        name = self._deployment.name
        if tag is None:
            self._registry.delete_tag(name, CANARY_TAG)
        else:
            self._registry.set_tag(name, CANARY_TAG, encode_canary(tag))
        champion = self._registry.aliases(name).get(CHAMPION)
        if champion is not None:
            self._orders.nudge(champion)

    def _followed(self, action: CanaryAction, attempt: Attempt, tag: CanaryTag | None) -> CanaryChange:
        def agrees(serving: Serving) -> bool:
            canary = serving.canary
            if tag is None or canary is None:
                return (tag is None) == (canary is None)
            return (canary.rollout, canary.step, canary.share) == (tag.rollout, tag.step, tag.share)

        followed = await_agreed(self._data_dir, agrees, seconds=self._follow_seconds)
        self._orders.note(attempt, followed)
        log.info("canary", action=action, version=attempt.to_version, share=None if tag is None else tag.share)
        told = None if tag is None else self._told(tag)
        return CanaryChange(action=action, canary=told, followed=followed, audit_id=attempt.number)

    def _told(self, tag: CanaryTag) -> CanaryStatus:
        return CanaryStatus(
            challenger=tag.challenger,
            version=self._registry.numbered(self._deployment.name, tag.number).human,
            share=tag.share,
            step=tag.step,
            steps=len(self.steps),
            rollout=tag.rollout,
            since_us=tag.since_us,
            frozen=tag.frozen,
        )

    def _now_us(self) -> int:
        return round(self._now() * 1e6)
