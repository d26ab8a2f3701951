"""One version kept scoring until all is scored, in a process that is replaced when it hangs, dies or leaks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shadow_mlops.challenger.scorer import LOADER, Limits, ScorerProcess
from shadow_mlops.challenger.scoring import Scored
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import Floats, Strings
from shadow_mlops.models.prepared import read_card

_PAUSE = 0.005
_LOADS = 3  # attempts: a model that was just loaded elsewhere fails for want of memory, or never again


class SteadyScorer:
    """Scores as a live challenger does, by the rules of the same seat, but never with another version.

    Parameters
    ----------
    directory
        Prepared directory of the version.
    limits
        As the live challenger has them.
    stopping
        True breaks off.
    """

    def __init__(self, directory: Path, *, limits: Limits, stopping: Callable[[], bool], loader: str = LOADER) -> None:
        self.card: ModelCard = read_card(directory)
        self._stopping = stopping
        self._failed_loads = 0
        self._seat = Seat(lambda path: ScorerProcess(path, limits=limits, loader=loader), replaced=self._replaced)
        self._seat.follow(directory)

    def load(self) -> bool:
        """Return once the model is loaded; False if asked to end before.

        Raises
        ------
        ModelRefusedError
            If it cannot be loaded.
        """
        while not self._seat.tend():
            if self._give_up():
                return False
            time.sleep(_PAUSE)
        return True

    def score(self, numbers: Floats, strings: Strings) -> Scored | None:
        """Score one micro-batch; None if asked to end.

        Raises
        ------
        ModelRefusedError
            If the process had to be replaced, and the model cannot be loaded any more.
        """
        return self._seat.score(numbers, strings, card=self.card, give_up=self._give_up, interrupted=self._stopping)

    def close(self) -> None:
        """End the process."""
        self._seat.close()

    def _replaced(self, reason: str) -> None:
        self._failed_loads = self._failed_loads + 1 if reason == "load" else 0

    def _give_up(self) -> bool:
        if self._failed_loads >= _LOADS:
            raise ModelRefusedError(f"{self.card.name} {self.card.version}: {self._seat.trouble}")
        return self._stopping()
