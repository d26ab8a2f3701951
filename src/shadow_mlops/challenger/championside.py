"""The other side of a canary step: what the challenger answered, the champion shadows, so that every pair has both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import structlog

from shadow_mlops.challenger.seat import Seat
from shadow_mlops.domain.errors import ModelError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Frame, Gone, Skipped
from shadow_mlops.models.prepared import read_card

log = structlog.get_logger()

Item: TypeAlias = Frame | Gone | Skipped
_FOLLOW = 0.2  # seconds between looks at which version is champion
_IDLE = 60.0  # seconds without a canary's answer after which the champion's model is given back


class ChampionSide:
    """A second scorer, with the champion's model, taken while there are answers of this challenger to shadow.

    Parameters
    ----------
    seat
        Keeps the scorer.
    champion
        Prepared directory of the champion; None: not known.
    """

    def __init__(self, seat: Seat, champion: Callable[[], Path | None]) -> None:
        self.seat = seat
        self._champion = champion
        self._directory: Path | None = None
        self._next_look = 0.0
        self._needed = 0.0
        self.card: ModelCard | None = None
        """Of the champion; None until it was needed and read."""

    def follow(self) -> None:
        """Want the scorer of whatever version is champion now."""
        now = time.monotonic()
        self._needed = now
        if now < self._next_look:
            return
        self._next_look = now + _FOLLOW
        directory = self._champion()
        if directory is None or directory == self._directory:
            return
        try:
            self.card = read_card(directory)
        except ModelError as error:
            log.warning("the champion cannot be read, the one before shadows", problem=str(error))
            return
        self._directory = directory
        self.seat.follow(directory)

    def release(self) -> None:
        """Give the scorer back when it has not been needed for a while."""
        if self._directory is not None and time.monotonic() - self._needed > _IDLE:
            self.close()

    def close(self) -> None:
        """End the scorer."""
        self._directory = self.card = None
        self.seat.close()


def answered_by(item: Item, card: ModelCard | None) -> bool:
    """Whether the events of a frame were answered by this challenger's version, in a canary step."""
    if card is None or not isinstance(item, Frame) or not isinstance(item.batch, EventBatch):
        return False
    schema = item.batch.schema
    return schema.role == "challenger" and (schema.model, schema.version) == (card.name, card.version)


def first_run(items: Sequence[Item], card: ModelCard | None) -> tuple[list[Item], list[Item], bool]:
    """The first items that the same model must score, the others, and whether it is the champion that must."""
    swapped = answered_by(items[0], card)
    end = next((i for i, item in enumerate(items) if answered_by(item, card) != swapped), len(items))
    return list(items[:end]), list(items[end:]), swapped
