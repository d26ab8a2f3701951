"""The scorer's seat: kept taken by the version that is wanted, whatever happens to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from shadow_mlops.challenger.scorer import Fate, ScorerProcess
from shadow_mlops.challenger.scoring import Scored
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import Floats, Strings

log = structlog.get_logger()

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0  # after a crash: events pile up meanwhile, and max_lag bounds them
_LONGEST_LOAD_PAUSE = 30.0  # after a failed load: each attempt costs a process start
_PAUSE = 0.005  # seconds between looks at a scorer that loads
_LOOK = 0.25  # seconds between looks at memory while batches come quickly


class Seat:
    """Starts, swaps, replaces and ends scorers.

    Parameters
    ----------
    start
        Starts a scorer for a card's directory.
    replaced
        Told the reason (``timeout``, ``died``, ``memory``, ``load``) of each replacement.
    """

    def __init__(self, start: Callable[[Path], ScorerProcess], *, replaced: Callable[[str], None]) -> None:
        self._start = start
        self._replaced = replaced
        self._wanted: Path | None = None
        self._sitting: ScorerProcess | None = None
        self._coming: ScorerProcess | None = None
        self._failures = 0
        self._not_before = 0.0
        self._next_look = 0.0
        self.trouble = ""
        """What is wrong with the wanted version, in words; empty if nothing is."""

    @property
    def card(self) -> ModelCard | None:
        """Of the scorer that would score now; None while none is ready."""
        return self._sitting.card if self._sitting is not None else None

    @property
    def scorer_pid(self) -> int | None:
        """Process id of the scorer that sits or, while none does, of the one that is loading."""
        taken = self._sitting or self._coming
        return taken.pid if taken is not None else None

    def follow(self, directory: Path | None) -> None:
        """Want the version in this directory from now on; None: want none."""
        if directory == self._wanted:
            return
        self._wanted = directory
        self._failures, self._not_before, self.trouble = 0, 0.0, ""
        if self._coming is not None:
            self._coming.kill()
            self._coming = None
        if directory is None and self._sitting is not None:
            self._sitting.kill()
            self._sitting = None

    def tend(self) -> bool:
        """Do what is due, without waiting; True if a scorer is ready."""
        if self._sitting is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK
            fate = self._sitting.unfit()
            if fate is not None:
                self._dismiss(fate, "")
        if self._wanted is not None and (self._sitting is None or self._sitting.directory != self._wanted):
            self._bring(self._wanted)
        return self._sitting is not None

    def score(
        self,
        numbers: Floats,
        strings: Strings,
        *,
        card: ModelCard,
        give_up: Callable[[], bool],
        interrupted: Callable[[], bool],
    ) -> Scored | None:
        """Score one micro-batch with the scorer that sits, or with its replacement once that has loaded.

        Parameters
        ----------
        card
            Version for which the columns were made.
        give_up
            Asked every few milliseconds while a scorer loads; may call :meth:`follow`. True ends the wait.
        interrupted
            Asked every 50 ms or so while the model runs; True breaks off.

        Returns
        -------
        Scored or None
            None if broken off, or if another version has taken the seat or is wanted by now.
        """
        before = self._wanted
        while not self.tend():
            if give_up() or self._wanted != before:
                return None
            time.sleep(_PAUSE)
        sitting = self._sitting
        if sitting is None or sitting.card != card:
            return None
        scored, fate, problem = sitting.score(numbers, strings, interrupted=interrupted)
        if fate is not None:
            self._dismiss(fate, problem)
        elif scored is not None:
            self._failures = 0
            self._note(problem)
        return scored

    def close(self) -> None:
        """End every scorer."""
        self.follow(None)

    def _bring(self, directory: Path) -> None:
        if self._coming is None:
            if time.monotonic() >= self._not_before:
                self._coming = self._start(directory)
        elif self._coming.loaded():
            if self._sitting is not None:
                self._sitting.kill()
            self._sitting, self._coming = self._coming, None
            if self._failures == 0:
                self.trouble = ""
            card = self._sitting.card
            log.info("scorer ready", version=card and card.version, pid=self._sitting.pid)
        elif self._coming.refusal:
            reason = self._coming.refusal
            self._coming.kill()
            self._coming = None
            self._pause(_LONGEST_LOAD_PAUSE)
            self._note(f"the model cannot be loaded: {reason}")
            self._replaced("load")

    def _dismiss(self, fate: Fate, problem: str) -> None:
        if self._sitting is None:
            return
        self._sitting.kill()
        self._sitting = None
        self._pause(_LONGEST_PAUSE)
        self._note(f"scorer replaced ({fate.value}){': ' if problem else ''}{problem}")
        self._replaced(fate.value)

    def _pause(self, longest: float) -> None:
        self._not_before = time.monotonic() + min(longest, _FIRST_PAUSE * 2 ** min(self._failures, 20))
        self._failures += 1

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:  # a model that fails on every batch is told once
            log.warning("challenger in trouble", trouble=trouble)
        self.trouble = trouble
