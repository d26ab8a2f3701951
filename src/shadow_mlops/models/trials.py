"""Which versions have proved themselves on this host: each is prepared and loaded once, aside, while nobody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import structlog

from shadow_mlops.domain.errors import ModelNotFoundError, ModelRefusedError, RegistryError, UnavailableError
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.loading import load_elsewhere
from shadow_mlops.models.preparation import no_traffic, prepare, prepared_directory
from shadow_mlops.models.prepared import CARD
from shadow_mlops.models.promoted import Promoted, card_mark
from shadow_mlops.models.registry import Registry

log = structlog.get_logger()

_FIRST_RETRY = 5.0  # seconds; doubled with each failure of the same version
_LAST_RETRY = 300.0


@dataclass(slots=True)
class _Refusal:
    reason: str
    retry_at: float
    pause: float


@dataclass(slots=True)
class _Ended:
    number: str
    refused: str | None
    anew: bool = False


class Trials:
    """Prepares versions of one model and loads them, before any worker is told of them.

    A version may hang for minutes before it is refused, so each trial has a thread of its own. The process may end
    while some run: a prepared directory appears complete or not at all. The methods are for one thread.

    Parameters
    ----------
    registry
        Has been asked before the first trial begins, so that its client is there: that, as MLflow's own server uses
        its stores, is for any number of threads.
    name
        Registered model.
    data_dir
        Where the prepared directories are.
    allow_pickle, recent_rows
        See :func:`~shadow_mlops.models.preparation.prepare`; ``recent_rows`` is called by several threads.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        name: str,
        data_dir: Path,
        allow_pickle: bool = False,
        recent_rows: RecentRows = no_traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._name = name
        self._data_dir = data_dir
        self._allow_pickle = allow_pickle
        self._recent_rows = recent_rows
        self._clock = clock
        self._passed: set[str] = set()
        self._refused: dict[str, _Refusal] = {}
        self._running: set[str] = set()
        self._ended: SimpleQueue[_Ended] = SimpleQueue()

    @property
    def running(self) -> frozenset[str]:
        """Registry numbers that are being tried, or whose end :meth:`collect` has not taken in."""
        return frozenset(self._running)

    @property
    def news(self) -> bool:
        """Whether a trial has ended since :meth:`collect`."""
        return not self._ended.empty()

    def passed(self, number: str) -> bool:
        """Whether the version is prepared and has given its recorded answers."""
        return number in self._passed

    def refusal(self, number: str) -> str | None:
        """Why the last trial of the version failed, also while it is tried again; None if it did not."""
        refusal = self._refused.get(number)
        return refusal.reason if refusal is not None else None

    def begin(self, number: str) -> None:
        """Try the version, unless it has passed, is being tried, or was refused a moment ago."""
        refusal = self._refused.get(number)
        if number in self._passed | self._running or (refusal is not None and self._clock() < refusal.retry_at):
            return
        self._running.add(number)
        work = copy_context().run  # log lines say which process they are of
        threading.Thread(target=work, args=(self._try, number), name=f"trial-{number}", daemon=True).start()

    def collect(self) -> bool:
        """Take in what has ended.

        Returns
        -------
        bool
            Whether a directory that was there has another model now.
        """
        anew = False
        while self.news:
            ended = self._ended.get()
            self._running.discard(ended.number)
            anew |= ended.anew
            if ended.refused is None:
                self._pass(ended.number)
            elif ended.number not in self._passed:  # else a promotion has proved it meanwhile
                self._refuse(ended.number, ended.refused)
        return anew

    def trust(self, promoted: Promoted) -> None:
        """Take a version as proved that a promotion on this host has just loaded and checked.

        A directory with another card than the checked one is tried like any other.
        """
        if card_mark(prepared_directory(self._data_dir, self._name, promoted.number)) == promoted.card:
            self._pass(promoted.number)

    def forget(self, number: str) -> None:
        """Its directory is gone: whoever wants it again has it tried again."""
        self._passed.discard(number)

    def _try(self, number: str) -> None:
        ended = _Ended(number, "the platform failed on it: the traceback is in the resolver's log")
        directory = prepared_directory(self._data_dir, self._name, number)
        try:
            before = _identity(directory)
            prepare(
                self._registry,
                self._registry.numbered(self._name, number),
                data_dir=self._data_dir,
                allow_pickle=self._allow_pickle,
                recent_rows=self._recent_rows,
            )
            load_elsewhere(directory)
            ended.refused = None
            ended.anew = before is not None and before != _identity(directory)
        except (
            ModelNotFoundError,
            ModelRefusedError,
            RegistryError,
            UnavailableError,
            OSError,  # a full disk
        ) as error:
            ended.refused = str(error)
        finally:
            self._ended.put(ended)

    def _pass(self, number: str) -> None:
        self._refused.pop(number, None)
        self._passed.add(number)

    def _refuse(self, number: str, reason: str) -> None:
        last = self._refused.get(number)
        pause = min(_LAST_RETRY, last.pause * 2) if last else _FIRST_RETRY
        self._refused[number] = _Refusal(reason, self._clock() + pause, pause)
        if last is None or last.reason != reason:
            log.error("model refused", model=self._name, number=number, reason=reason)


def _identity(directory: Path) -> bytes | None:
    try:
        return (directory / CARD).read_bytes()
    except FileNotFoundError:
        return None
