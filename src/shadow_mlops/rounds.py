"""Work that is done in rounds, in a thread of its own: when something is due, and when somebody says so."""

from __future__ import annotations

import contextvars
import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import structlog

log = structlog.get_logger()

LOOK_SECONDS = 5.0
"""Between two rounds, at most: another process of the same database may have left work."""


class Rounds(ABC):
    """Goes round until it is told to end; a round that fails is told once, and gone on with."""

    name: ClassVar[str]
    """Of the thread."""
    complaint: ClassVar[str]
    """What cannot be done while rounds fail."""
    wrong: ClassVar[tuple[type[Exception], ...]]
    """What a round may raise; anything else ends the thread, and is printed."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._ended = threading.Event()
        context = contextvars.copy_context()  # the name of this process, for the log
        self._thread = threading.Thread(target=context.run, args=(self._run,), name=self.name, daemon=True)

    @abstractmethod
    def round(self) -> float:
        """Do what is due.

        Returns
        -------
        float
            Seconds until something is due again, at most.
        """

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new."""
        self._wanted.set()

    def close(self, seconds: float = 2.0) -> None:
        """End after what is under way, if that ends in so many seconds; what is left is seen to next time."""
        self._ended.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        problem = ""
        while not self._ended.is_set():
            self._wanted.clear()
            try:
                pause, problem = self.round(), ""
            except self.wrong as error:
                pause = LOOK_SECONDS
                if str(error) != problem:
                    log.error(self.complaint, problem=str(error))
                problem = str(error)
            self._wanted.wait(min(pause, LOOK_SECONDS))
