"""A circuit breaker: what fails again and again is left alone for a while, so that whoever asks gets his error at once.

Written here because no library fits: of those on PyPI one is asynchronous only, one has not been released since 2021,
one fails with asyncio, and a model runtime is called from a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "half-open", "open"]


class Breaker:
    """Counts failures in a row, and says whether to try.

    Closed: every call is tried. After ``failures`` failures in a row it opens: no call is tried for ``pause`` seconds.
    Then it is half open: one call is tried. If that succeeds it closes; if it fails it opens for twice as long.

    Parameters
    ----------
    failures
        In a row, after which it opens.
    pause, longest
        Seconds that it stays open at first, and at most.
    clock
        Monotonic seconds.

    Examples
    --------
    >>> now = [0.0]
    >>> breaker = Breaker(failures=2, pause=1.0, longest=8.0, clock=lambda: now[0])
    >>> for _ in range(2):
    ...     breaker.failed()
    >>> breaker.allows(), breaker.state
    (False, 'open')
    >>> now[0] = 1.5
    >>> breaker.allows(), breaker.allows(), breaker.state
    (True, False, 'half-open')
    >>> breaker.succeeded()
    >>> breaker.allows(), breaker.state
    (True, 'closed')
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        pause: float = 1.0,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = failures
        self._first = pause
        self._longest = longest
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = pause
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Closed, half open (the pause is over, or its one call is under way), or open."""
        with self._lock:
            if self._opened is None:
                return "closed"
            return "half-open" if self._probing or self._seconds_left() <= 0 else "open"

    def allows(self) -> bool:
        """Whether to try now; who is told yes must say how it went, by :meth:`succeeded` or :meth:`failed`."""
        with self._lock:
            if self._opened is None:
                return True
            if self._probing or self._seconds_left() > 0:
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        """The call was answered."""
        with self._lock:
            self._failures, self._pause, self._opened, self._probing = 0, self._first, None, False

    def failed(self) -> None:
        """The call was not answered as it should be."""
        with self._lock:
            self._failures += 1
            if self._probing:
                self._pause = min(self._longest, self._pause * 2)
            if self._probing or self._failures >= self._bound:
                self._opened, self._probing = self._clock(), False

    def _seconds_left(self) -> float:
        return 0.0 if self._opened is None else self._opened + self._pause - self._clock()
