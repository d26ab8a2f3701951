"""The resolver: what the registry's aliases ask for, as far as it can be obeyed, published as ``serving.json``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.domain.errors import (
    ModelError,
    ModelNotFoundError,
    ModelRefusedError,
    RegistryError,
    UnavailableError,
)
from shadow_mlops.domain.models import Serving
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.loading import load_elsewhere
from shadow_mlops.models.preparation import MODELS, no_traffic, prepare, prepared_directory
from shadow_mlops.models.prepared import CARD
from shadow_mlops.models.promoted import Promoted, card_mark
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.serving import SERVING, publish_serving, read_serving

log = structlog.get_logger()

CHAMPION = "champion"
CHALLENGER = "challenger"
CHALLENGER_PREFIX = "challenger-"

_FIRST_RETRY = 5.0  # seconds; doubled with each failure of the same version
_LAST_RETRY = 300.0
_KEPT_DIRECTORIES = 10
_KEPT_SECONDS = 86400.0


@dataclass(slots=True)
class _Refusal:
    reason: str
    retry_at: float
    pause: float


class Resolver:
    """Follows the aliases of one model.

    Parameters
    ----------
    name
        Registered model.
    data_dir
        Where ``serving.json`` and the prepared directories are.
    champion_pin, challenger_pin
        Human versions that hold whatever the aliases ``champion`` and ``challenger`` say; empty: the aliases hold.
    recent_rows
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
        self._allow_pickle = allow_pickle
        self._recent_rows = recent_rows
        self._clock = clock
        self._ready: set[str] = set()
        self._refused: dict[str, _Refusal] = {}
        self._pinned_numbers: dict[str, str] = {}
        self._held: dict[str, str] | None = None
        self._serving = self._last_published()
        self._anew = False
        self.problems: tuple[str, ...] = ()

    @property
    def serving(self) -> Serving | None:
        """What is published; None before the first champion."""
        return self._serving

    def step(self) -> Serving | None:
        """Read all aliases at once, prepare what is new, and publish if anything has changed.

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
        problems: list[str] = []
        wanted = self._wanted(problems)
        champion = self._settled(CHAMPION, wanted.get(CHAMPION), problems) or self._current().get(CHAMPION)
        challengers = {
            role: number
            for role, number in wanted.items()
            if role != CHAMPION and self._settled(role, number, problems) and number != champion
        }
        self.problems = tuple(problems)
        if champion is None or self._transitional(wanted):
            return self._serving
        self._publish(champion, challengers, self.problems)
        return self._serving

    def trust(self, promoted: Promoted) -> None:
        """Take a version as proved that a promotion on this host has just loaded and checked.

        A directory with another card than the checked one is tried like any other.
        """
        if card_mark(prepared_directory(self._data_dir, self._name, promoted.number)) == promoted.card:
            self._refused.pop(promoted.number, None)
            self._ready.add(promoted.number)

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
        """The number, once its prepared directory is there and has proved itself; else a problem is noted."""
        if number is None:
            return None
        refusal = self._refused.get(number)
        if number not in self._ready and (refusal is None or self._clock() >= refusal.retry_at):
            refusal = self._attempt(number)
        if refusal is not None:
            stays = "; the champion before it stays" if role == CHAMPION and self._serving else ""
            problems.append(f"{role} is not obeyed: version {number} of {self._name!r}: {refusal.reason}{stays}")
            return None
        return number

    def _attempt(self, number: str) -> _Refusal | None:
        """Prepare a version and load it once, before any worker is told of it."""
        directory = prepared_directory(self._data_dir, self._name, number)
        before = _identity(directory)
        try:
            prepare(
                self._registry,
                self._registry.numbered(self._name, number),
                data_dir=self._data_dir,
                allow_pickle=self._allow_pickle,
                recent_rows=self._recent_rows,
            )
            load_elsewhere(directory)
        except (
            ModelNotFoundError,
            ModelRefusedError,
            RegistryError,
            UnavailableError,
            OSError,  # a full disk
        ) as error:
            last = self._refused.get(number)
            pause = min(_LAST_RETRY, last.pause * 2) if last else _FIRST_RETRY
            refusal = _Refusal(str(error), self._clock() + pause, pause)
            if last is None or last.reason != refusal.reason:
                log.error("model refused", model=self._name, number=number, reason=refusal.reason)
            self._refused[number] = refusal
            return refusal
        self._refused.pop(number, None)
        self._ready.add(number)
        if before is not None and before != _identity(directory):
            self._anew = True  # same path, other model: only a new generation makes workers look
        return None

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

    def _publish(self, champion: str, challengers: dict[str, str], problems: tuple[str, ...]) -> None:
        before = self._serving
        serving = Serving(
            generation=before.generation + 1 if before else 1,
            published_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            champion=self._relative(champion),
            challengers={role: self._relative(number) for role, number in challengers.items()},
            pinned=tuple(self._pins),
            problems=problems,
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
            problems=serving.problems,
        )
        self._sweep({before.champion, *before.challengers.values()} if before else set())

    def _sweep(self, just_left: set[str]) -> None:
        """Remove prepared directories that nobody has used for a day; workers may still be loading the last ones."""
        if self._serving is None:
            return
        used = {self._serving.champion, *self._serving.challengers.values(), *just_left}
        home = self._data_dir / MODELS / self._name
        found = sorted(home.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[_KEPT_DIRECTORIES:]:
            old = time.time() - path.stat().st_mtime > _KEPT_SECONDS
            if old and str(path.relative_to(self._data_dir)) not in used:
                shutil.rmtree(path, ignore_errors=True)
                self._ready.discard(path.name)

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


def _identity(directory: Path) -> bytes | None:
    try:
        return (directory / CARD).read_bytes()
    except FileNotFoundError:
        return None
