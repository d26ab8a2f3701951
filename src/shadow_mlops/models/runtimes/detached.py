"""Calls of a model that runs elsewhere: counted, bounded in time, left alone after failures, bad rows told apart."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.breaker import Breaker
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.models.runtimes import Tally

log = structlog.get_logger()

_COMPLAIN_SECONDS = 10.0  # a client may send such a row thousands of times

Ask: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.object_], float], NDArray[np.float64]]
"""Numbers, strings and the seconds that are left -> scores (n, k); raises the two errors below."""


class CallError(Exception):
    """The model did not answer as it should.

    Parameters
    ----------
    result
        As :class:`~shadow_mlops.models.runtimes.Tally` counts it.
    message
        Continues a sentence that begins with the model.
    """

    def __init__(self, result: str, message: str) -> None:
        super().__init__(message)
        self.result = result


class RowsRefusedError(Exception):
    """The model is well, and says that it cannot score these rows."""


class Calls:
    """What every :class:`~shadow_mlops.models.runtimes.Detached` runtime does about a model that may fail.

    Parameters
    ----------
    who
        Begins the sentences of errors and logs: ``the remote model http://…``.
    breaker
        Whether to try.
    """

    def __init__(self, who: str, *, breaker: Breaker) -> None:
        self._who = who
        self._breaker = breaker
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._left_alone = False
        self._complained = -_COMPLAIN_SECONDS

    def tally(self) -> Tally:
        """See :meth:`shadow_mlops.models.runtimes.Detached.tally`."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return Tally(calls=dict(counts), state=self._breaker.state)

    def score(
        self,
        ask: Ask,
        numbers: NDArray[np.float64],
        strings: NDArray[np.object_],
        *,
        width: int,
        seconds: float,
    ) -> NDArray[np.float64]:
        """Scores, float64 (n, width), of n rows within a time-out that is one for all that it takes.

        Rows that the model refuses are found by halving, as far as the time lets, and are NaN.

        Raises
        ------
        UnavailableError
            If the model does not answer as it should; nothing is known of any row then.
        """
        scores = np.full((len(numbers), width), np.nan)
        if not len(numbers):
            return scores
        if not self._breaker.allows():
            self._count("skipped")
            raise UnavailableError(f"{self._who} has failed several times in a row and is left alone for a moment")
        try:
            self._fill(scores, ask, numbers, strings, seconds)
        except CallError as error:
            self._fail(str(error))
            raise UnavailableError(f"{self._who} {error}") from error
        except BaseException as error:  # whoever was allowed to try must say how it went
            self._fail(str(error))
            raise
        self._breaker.succeeded()
        if self._left_alone:
            self._left_alone = False
            log.info("a model answers again", model=self._who)
        return scores

    def _fill(
        self,
        scores: NDArray[np.float64],
        ask: Ask,
        numbers: NDArray[np.float64],
        strings: NDArray[np.object_],
        seconds: float,
    ) -> None:
        deadline = time.monotonic() + seconds
        answered = False
        todo = [(0, len(numbers))]
        while todo:
            first, last = todo.pop()
            left = deadline - time.monotonic()
            if answered and left <= 0:
                self._count("timeout")
                return  # it is alive, the halving took too long: what is left stays without scores
            try:
                scores[first:last] = ask(numbers[first:last], strings[first:last], left)
                self._count("ok")
            except RowsRefusedError as error:
                self._count("refused")
                if last - first > 1:
                    middle = (first + last) // 2
                    todo += [(middle, last), (first, middle)]
                else:
                    self._complain(str(error))
            except CallError as error:
                self._count(error.result)
                if answered and error.result == "timeout":
                    return
                raise
            answered = True

    def _fail(self, problem: str) -> None:
        self._breaker.failed()
        if self._breaker.state != "closed" and not self._left_alone:
            self._left_alone = True  # told once: a model that is away says nothing new with each request
            log.warning("a model is left alone for a moment", model=self._who, reason=problem)

    def _complain(self, problem: str) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            log.warning("a model refuses a row", model=self._who, reason=problem)

    def _count(self, result: str) -> None:
        with self._lock:
            self._counts[result] += 1
