"""Promotion and rollback: prove, move the aliases, tell the resolver, wait for the workers; all of it on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import (
    ConflictError,
    ModelError,
    RegistryError,
)
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.preparation import no_traffic, prepared_directory
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.models.resolver import CHAMPION
from shadow_mlops.rollout.aliases import PREVIOUS, Move, after_moves, alias_moves, challenger_roles
from shadow_mlops.rollout.canary import Canaries, CanaryStatus
from shadow_mlops.rollout.following import Followed, await_followed
from shadow_mlops.rollout.orders import Orders
from shadow_mlops.rollout.proving import prove

log = structlog.get_logger()

Action: TypeAlias = Literal["promote", "rollback"]
FOLLOW_SECONDS = 10.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Who plays which role, as the registry says: human versions."""

    model: str
    champion: str | None
    previous: str | None
    challengers: dict[str, str]
    """Challenger role (alias) -> version."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion or a rollback did."""

    action: Action
    from_version: str | None = msgspec.field(name="from")
    to_version: str = msgspec.field(name="to")
    roles: Status
    followed: Followed
    audit_id: int


class Rollout:
    """Moves the champion of one deployment.

    Parameters
    ----------
    deployment
        Whose model it is; a new champion must fit it.
    data_dir
        Prepared models, ``serving.json`` and ``run/`` of this host.
    state
        Database with the audit trail, its tables up to date.
    pins
        Role -> human version that a setting fixes; with any, nothing is moved.
    alone
        Gives a lock that one promotion or rollback holds at a time; raises ConflictError when it is taken.
    allow_pickle, recent_rows
        See :func:`~shadow_mlops.models.preparation.prepare`.
    follow_seconds
        How long to wait for this host's workers.
    """

    def __init__(
        self,
        registry: Registry,
        deployment: Deployment,
        *,
        data_dir: Path,
        state: Engine,
        alone: Callable[[], AbstractContextManager[None]],
        pins: Mapping[str, str],
        allow_pickle: bool = False,
        recent_rows: RecentRows = no_traffic,
        follow_seconds: float = FOLLOW_SECONDS,
    ) -> None:
        self._registry = registry
        self._deployment = deployment
        self._data_dir = data_dir
        self._orders = Orders(state, deployment.name, data_dir=data_dir, alone=alone, pins=pins)
        self._allow_pickle = allow_pickle
        self._recent_rows = recent_rows
        self._follow_seconds = follow_seconds
        self.canaries = Canaries(
            registry,
            deployment,
            orders=self._orders,
            data_dir=data_dir,
            allow_pickle=allow_pickle,
            recent_rows=recent_rows,
            follow_seconds=follow_seconds,
        )

    def status(self) -> Status:
        """Who plays which role now.

        Raises
        ------
        ModelNotFoundError
            If no such model is registered.
        RegistryError
            If the registry does not answer.
        """
        found = self._registry.versions(self._deployment.name)
        aliases = {alias: version.number for version in found for alias in version.aliases}
        return self._roles(aliases, {version.number: version.human for version in found})

    def promote(
        self,
        version: str,
        *,
        who: str,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        seen: CanaryStatus | None = None,
    ) -> Switch:
        """Make a version champion, and the champion before it ``previous`` and a challenger.

        Parameters
        ----------
        version
            Human version, or the registry number of an untagged one.
        who, reason, details
            For the audit trail, which has an entry whatever comes of it.
        seen
            The canary step that it rests on; None: on none.

        Raises
        ------
        ConflictError
            If a version is pinned, this one is champion already, another switch is under way, or the canary is not as
            it was seen.
        ModelNotFoundError
            If there is no such version.
        ModelRefusedError
            If it does not load, does not give its recorded outputs, or does not fit the deployment. No alias was moved.
        RegistryError, UnavailableError, StateError
            If registry, disk or database fail; aliases that had been moved are moved back.
        """

        def wanted(_: Mapping[str, str]) -> RegisteredVersion:
            if seen is not None:
                self.canaries.refuse_unlike(seen)
            return self._registry.version(self._deployment.name, version)

        return self._switch("promote", wanted, to=version, who=who, reason=reason, details=details)

    def rollback(self, *, who: str, reason: str = "", details: Mapping[str, Any] | None = None) -> Switch:
        """Take back the last step: end a canary that is under way, else make the version before the champion champion.

        The latter has the alias ``previous``; the one that was champion takes that over.

        Raises
        ------
        ConflictError
            If there is nothing to roll back to, and as :meth:`promote`.
        ModelNotFoundError, ModelRefusedError, RegistryError, UnavailableError, StateError
            As :meth:`promote`.
        """
        if self.canaries.tag() is not None:
            return self._aborted(who=who, reason=reason, details=details)

        def wanted(aliases: Mapping[str, str]) -> RegisteredVersion:
            name, number = self._deployment.name, aliases.get(PREVIOUS)
            if number is None or number == aliases.get(CHAMPION):
                which = "no version" if number is None else "the champion itself"
                raise ConflictError(
                    f"nothing to roll back to: {which} has the alias {PREVIOUS!r} of model {name!r};"
                    " see shadow models list, and promote the version that you mean"
                )
            return self._registry.numbered(name, number)

        return self._switch("rollback", wanted, to=None, who=who, reason=reason, details=details)

    def _switch(
        self,
        action: Action,
        wanted: Callable[[Mapping[str, str]], RegisteredVersion],
        *,
        to: str | None,
        who: str,
        reason: str,
        details: Mapping[str, Any] | None,
    ) -> Switch:
        name = self._deployment.name
        with self._orders.recorded(action, to=to, who=who, reason=reason, details=details) as attempt:
            aliases = self._registry.aliases(name)
            humans = {version.number: version.human for version in self._registry.versions(name)}
            attempt.from_version = humans.get(aliases.get(CHAMPION, ""))
            version = wanted(aliases)
            attempt.to_version = version.human
            if aliases.get(CHAMPION) == version.number:
                raise ConflictError(f"version {version.human!r} is the champion of model {name!r} already")
            self._prove(version, in_force_suffices=action == "rollback")
            moves = self._moves(aliases, version)
            self._write(aliases, moves)
            if self.canaries.tag() is not None:
                self.canaries.forget()
            self._orders.nudge(version.number)
        log.info("champion switched", action=action, model=name, to=version.human, before=attempt.from_version, who=who)
        directory = prepared_directory(self._data_dir, name, version.number)
        followed = await_followed(self._data_dir, directory, seconds=self._follow_seconds)
        self._orders.note(attempt, followed)
        return Switch(
            action=action,
            from_version=attempt.from_version,
            to_version=version.human,
            roles=self._roles(after_moves(aliases, moves), humans),
            followed=followed,
            audit_id=attempt.number,
        )

    def _aborted(self, *, who: str, reason: str, details: Mapping[str, Any] | None) -> Switch:
        canary, roles = self.canaries.status(), self.status()
        change = self.canaries.abort(who=who, reason=reason, details=details)
        return Switch(
            action="rollback",
            from_version=canary.version if canary is not None else None,
            to_version=roles.champion or "",
            roles=roles,
            followed=change.followed,
            audit_id=change.audit_id,
        )

    def _prove(self, version: RegisteredVersion, *, in_force_suffices: bool) -> None:
        prove(
            self._registry,
            version,
            self._deployment,
            data_dir=self._data_dir,
            allow_pickle=self._allow_pickle,
            recent_rows=self._recent_rows,
            in_force_suffices=in_force_suffices,
        )

    def _moves(self, seen: Mapping[str, str], version: RegisteredVersion) -> list[Move]:
        """Moves from the aliases as they are now: proving has taken seconds, and others write to the registry too."""
        now = self._registry.aliases(self._deployment.name)
        if now != seen:
            raise ConflictError(
                f"somebody moved an alias of model {self._deployment.name!r} meanwhile:"
                " look at shadow models list, and try again"
            )
        return alias_moves(now, version.number)

    def _write(self, before: Mapping[str, str], moves: list[Move]) -> None:
        done: list[Move] = []
        try:
            for move in moves:
                done.append(move)  # also one whose answer was lost may have been written
                self._set(move)
        except BaseException as error:  # Ctrl-C between two writes is no reason to leave half of them
            try:
                for move in reversed(done):
                    self._set(Move(move.alias, before.get(move.alias)))
            except ModelError as second:
                raise RegistryError(
                    f"{error}; and the aliases could not be moved back: {second}; see shadow models list"
                ) from error
            raise

    def _set(self, move: Move) -> None:
        name = self._deployment.name
        if move.number is None:
            self._registry.delete_alias(name, move.alias)
        else:
            self._registry.set_alias(name, move.alias, move.number)

    def _roles(self, aliases: Mapping[str, str], humans: Mapping[str, str]) -> Status:
        def human(alias: str) -> str | None:
            number = aliases.get(alias)
            return None if number is None else humans.get(number, number)

        return Status(
            model=self._deployment.name,
            champion=human(CHAMPION),
            previous=human(PREVIOUS),
            challengers={alias: humans.get(number, number) for alias, number in challenger_roles(aliases).items()},
        )
