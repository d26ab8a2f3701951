"""The resolver: what the registry's aliases ask for, as far as it can be obeyed, published as ``serving.json``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.domain.errors import ModelError, ModelNotFoundError
from shadow_mlops.domain.models import CanaryStep, Serving
from shadow_mlops.models.canary import CANARY_TAG, decode_canary
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.preparation import MODELS, no_traffic, prepared_directory
from shadow_mlops.models.promoted import Promoted
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.serving import SERVING, publish_serving, read_serving
from shadow_mlops.models.trials import Trials

log = structlog.get_logger()

CHAMPION = "champion"
CHALLENGER = "challenger"
CHALLENGER_PREFIX = "challenger-"

_KEPT_DIRECTORIES = 10
_KEPT_SECONDS = 86400.0


class Resolver:
    """Follows the aliases of one model.

    The version that an alias names plays the role once it has passed its trial, for which no other role waits: until
    then whatever was published for the role before stays.

    Parameters
    ----------
    name
        Registered model.
    data_dir
        Where ``serving.json`` and the prepared directories are.
    champion_pin, challenger_pin
        Human versions that hold whatever the aliases ``champion`` and ``challenger`` say; empty: the aliases hold.
    allow_pickle, recent_rows
        See :func:`~shadow_mlops.models.preparation.prepare`.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        name: str,
        data_dir: Path,
        champion_pin: str = "",
        challenger_pin: str = "",
        allow_pickle: bool = False,
        recent_rows: RecentRows = no_traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._name = name
        self._data_dir = data_dir
        self._pins = {role: pin for role, pin in ((CHAMPION, champion_pin), (CHALLENGER, challenger_pin)) if pin}
        self._trials = Trials(
            registry, name=name, data_dir=data_dir, allow_pickle=allow_pickle, recent_rows=recent_rows, clock=clock
        )
        self._pinned_numbers: dict[str, str] = {}
        self._held: dict[str, str] | None = None
        self._serving = self._last_published()
        self._anew = False
        self.problems: tuple[str, ...] = ()

    @property
    def serving(self) -> Serving | None:
        """What is published; None before the first champion."""
        return self._serving

    @property
    def trying(self) -> tuple[str, ...]:
        """Registry numbers of the versions that are being prepared and tried."""
        return tuple(sorted(self._trials.running))

    @property
    def news(self) -> bool:
        """Whether a trial has ended since the last step."""
        return self._trials.news

    def step(self) -> Serving | None:
        """Read all aliases at once, have tried what is new, and publish if what is ready has changed.

        It waits for the registry only.

        Returns
        -------
        Serving or None
            What is published now; None while there is no champion (then ``problems`` says why).

        Raises
        ------
        RegistryError
            If the registry does not answer; what was published stays.
        ModelError
            If ``serving.json`` cannot be written.
        """
        self._anew |= self._trials.collect()
        problems: list[str] = []
        wanted = self._wanted(problems)
        champion = self._settled(CHAMPION, wanted.get(CHAMPION), problems) or self._current().get(CHAMPION)
        settled = {role: self._settled(role, n, problems) for role, n in wanted.items() if role != CHAMPION}
        challengers = {role: number for role, number in settled.items() if number is not None and number != champion}
        self.problems = tuple(problems)
        if champion is None or self._transitional(wanted):
            return self._serving
        self._publish(champion, challengers, self._canary(challengers))
        return self._serving

    def trust(self, promoted: Promoted) -> None:
        """Take a version as proved that a promotion on this host has just loaded and checked.

        A directory with another card than the checked one is tried like any other.
        """
        self._trials.trust(promoted)

    def _wanted(self, problems: list[str]) -> dict[str, str]:
        """Role -> registry number."""
        try:
            aliases = self._registry.aliases(self._name)
        except ModelNotFoundError:
            problems.append(f"no model {self._name!r} is registered")
            return self._current()  # gone by mistake, most likely: what serves goes on
        wanted = {
            alias: number
            for alias, number in sorted(aliases.items())
            if alias in {CHAMPION, CHALLENGER} or alias.startswith(CHALLENGER_PREFIX)
        }
        for role, pin in self._pins.items():
            wanted.pop(role, None)
            try:
                if role not in self._pinned_numbers:
                    self._pinned_numbers[role] = self._registry.version(self._name, pin).number
                wanted[role] = self._pinned_numbers[role]
            except ModelNotFoundError as error:
                problems.append(f"{role} is pinned to a version that is not there: {error}")
        if CHAMPION not in aliases and CHAMPION not in self._pins:
            problems.append(f"model {self._name!r} has no alias {CHAMPION!r}")
        return wanted

    def _settled(self, role: str, number: str | None, problems: list[str]) -> str | None:
        """The number once it may play the role, before that the one that plays it; None if it is refused."""
        if number is None:
            return None
        if role == CHAMPION or not self._trials.running:  # challengers one by one: the clients need the CPU
            self._trials.begin(number)
        reason = self._trials.refusal(number)
        if reason is not None:
            stays = "; the champion before it stays" if role == CHAMPION and self._serving else ""
            problems.append(f"{role} is not obeyed: version {number} of {self._name!r}: {reason}{stays}")
            return None
        current = self._current()
        # what the resolver before this one has published goes on while this one looks for itself
        return number if self._trials.passed(number) or number in current.values() else current.get(role)

    def _transitional(self, wanted: dict[str, str]) -> bool:
        """Whether to wait a step: an alias that names the champion's version is one half of a swap, or stays so."""
        champion = wanted.get(CHAMPION)
        doubled = any(role != CHAMPION and number == champion for role, number in wanted.items())
        if doubled and self._held != wanted and self._serving is not None:
            self._held = wanted
            return True
        if not doubled:
            self._held = None
        return False

    def _canary(self, challengers: dict[str, str]) -> CanaryStep | None:
        """The canary step in force: its version must be ready, and its role must still be that of the same version."""
        if self._pins:
            return None
        try:
            tag = decode_canary(self._registry.tags(self._name).get(CANARY_TAG))
        except ModelNotFoundError:
            return self._serving.canary if self._serving is not None else None  # as the aliases: what serves goes on
        if tag is None or challengers.get(tag.challenger) != tag.number:
            return None
        return CanaryStep(
            challenger=tag.challenger,
            directory=self._relative(tag.number),
            share=tag.share,
            step=tag.step,
            rollout=tag.rollout,
            since_us=tag.since_us,
            frozen=tag.frozen,
        )

    def _publish(self, champion: str, challengers: dict[str, str], canary: CanaryStep | None) -> None:
        before = self._serving
        serving = Serving(
            generation=before.generation + 1 if before else 1,
            published_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            champion=self._relative(champion),
            challengers={role: self._relative(number) for role, number in challengers.items()},
            canary=canary,
            pinned=tuple(self._pins),
            problems=self.problems,
        )
        if before is not None and not self._anew:
            same = msgspec.structs.replace(serving, generation=before.generation, published_at=before.published_at)
            if same == before:
                return
        publish_serving(self._data_dir / SERVING, serving)
        self._serving, self._anew = serving, False
        log.info(
            "serving",
            generation=serving.generation,
            champion=serving.champion,
            challengers=serving.challengers,
            canary=None if canary is None else f"{canary.directory} for {canary.share:g}",
            problems=serving.problems,
        )
        self._sweep({before.champion, *before.challengers.values()} if before else set())

    def _sweep(self, just_left: set[str]) -> None:
        """Remove prepared directories that nobody has used for a day; workers may still be loading the last ones."""
        if self._serving is None:
            return
        used = {self._serving.champion, *self._serving.challengers.values(), *just_left}
        home = self._data_dir / MODELS / self._name
        used |= {self._relative(number) for number in self._trials.running}
        found = sorted((_age(path), path) for path in home.iterdir())
        for rank, (age, path) in enumerate(found):
            left = path.name.startswith(".")  # by a preparation that was killed
            unused = (left or rank >= _KEPT_DIRECTORIES) and str(path.relative_to(self._data_dir)) not in used
            if unused and age > _KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
                self._trials.forget(path.name)

    def _relative(self, number: str) -> str:
        return str(prepared_directory(self._data_dir, self._name, number).relative_to(self._data_dir))

    def _current(self) -> dict[str, str]:
        if self._serving is None:
            return {}
        roles = {CHAMPION: self._serving.champion, **self._serving.challengers}
        return {role: Path(directory).name for role, directory in roles.items()}

    def _last_published(self) -> Serving | None:
        try:
            serving = read_serving(self._data_dir / SERVING)
        except ModelError as error:
            log.error("the last serving.json is set aside", reason=str(error))
            return None
        if serving and Path(serving.champion).parent != Path(MODELS) / self._name:
            return None  # the data directory served another model before
        return serving


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # gone since it was listed
