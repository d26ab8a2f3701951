"""The console's own segments of the event stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from shadow_mlops.domain.errors import LogError, UnavailableError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Appender, EventLog

log = structlog.get_logger()

BEAT_SECONDS = 0.05  # readers in order wait for every living writer: as often as the gateway's
_IDLE_SECONDS = 60.0  # without events the segment is sealed, and nobody waits for this writer


class EventWriter:
    """Appends events for as long as there are any, and tells ordered readers in between that nothing older follows.

    Parameters
    ----------
    writer
        Its name in the log.
    each_beat
        Called at each beat, also while nothing is written.
    """

    def __init__(self, event_log: EventLog, *, writer: str, each_beat: Callable[[], object]) -> None:
        self._log = event_log
        self._writer = writer
        self._each_beat = each_beat
        self._appender: Appender | None = None
        self._last = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat, in a thread of its own; starting twice is allowed."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)
                self._thread.start()

    def append(self, batches: Sequence[EventBatch]) -> None:
        """Append batches so that they survive a loss of power.

        Raises
        ------
        UnavailableError
            If the log does not take one; of several, those before it are in the log.
        """
        self.start()
        with self._lock:
            try:
                if self._appender is None:
                    self._appender = self._log.appender(EVENTS, writer=self._writer)
                self._last = time.monotonic()
                for batch in batches:
                    self._appender.append(batch)
                self._appender.sync()
            except (LogError, OSError) as error:
                raise UnavailableError(f"the events were not logged, send them again: {error}") from None

    def close(self) -> None:
        """Seal the segment."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._seal()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._each_beat()
            with self._lock:
                if self._appender is None:
                    continue
                if time.monotonic() - self._last > _IDLE_SECONDS:
                    self._seal()
                    continue
                beat = getattr(self._appender, "beat", None)
                if beat is not None:
                    with suppress(LogError, OSError):  # the next append says what is wrong
                        beat()

    def _seal(self) -> None:
        if self._appender is not None:
            self._appender.close()
            self._appender = None
