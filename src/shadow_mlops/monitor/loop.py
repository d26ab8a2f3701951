"""One round of the monitor: nothing but calls, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.durable import replace_durably
from shadow_mlops.monitor.archiving import Archiving
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.publishing import Publisher
from shadow_mlops.monitor.retention import Retainer

log = structlog.get_logger()

_SAVE_SECONDS = 5.0  # what was counted since is counted again after a crash; a save costs the disk a sync


class Monitor:
    """The loop's parts and their order.

    Parameters
    ----------
    path
        Where the ledger's state is kept.
    serving
        Names of the challengers that have a version now; None: not known.
    archiving
        Writes the lake; None: there is none.
    """

    def __init__(
        self,
        ledger: Ledger,
        retainer: Retainer,
        publisher: Publisher,
        *,
        path: Path,
        serving: Callable[[], Collection[str] | None],
        archiving: Archiving | None = None,
    ) -> None:
        self._ledger = ledger
        self._retainer = retainer
        self._publisher = publisher
        self._path = path
        self._serving = serving
        self._archiving = archiving
        self._next_save = 0.0
        self._unsaved = ""

    def round(self) -> None:
        """Retention, accounting, publication."""
        infos, serving = self._retainer.look(), self._serving()
        removals = self._retainer.due(infos, serving=serving)
        tombstones = self._retainer.passed(infos)
        # Only what the saved state has counted may go: a crash between would count it never or twice.
        if (removals or tombstones) and self.save():
            self._retainer.apply(removals)
            self._retainer.forget(tombstones)
        self._ledger.read()
        if time.monotonic() >= self._next_save:
            self.save()
        self._publisher.publish(self._ledger, infos, serving=serving)
        if self._archiving is not None:
            self._archiving.publish_lag(infos)

    def archive(self) -> None:
        """Archive what is due; between rounds, so that a backlog is worked off faster than they come."""
        if self._archiving is not None:
            self._archiving.step()

    def save(self) -> bool:
        """Write the ledger's state; False, with a message, if the disk does not take it."""
        self._next_save = time.monotonic() + _SAVE_SECONDS
        try:
            replace_durably(self._path, msgspec.json.encode(self._ledger.state))
        except OSError as error:
            if str(error) != self._unsaved:
                log.warning("counts cannot be saved", problem=str(error))
            self._unsaved = str(error)
            return False
        self._unsaved = ""
        return True
