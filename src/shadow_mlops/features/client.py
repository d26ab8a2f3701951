"""A gateway worker's side of the feature process: many requests in one question, and no longer than the time-out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from shadow_mlops.breaker import Breaker, State
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.features.protocol import MAX_KEYS, Question, Reply, Whereabouts, pack, receive
from shadow_mlops.features.seam import Value

log = structlog.get_logger()

Result: TypeAlias = Literal["ok", "timeout", "error", "busy", "open"]
"""What became of a read: answered, not in time, refused, too many are waiting, not even tried."""
_QUEUE = 4096
_UNDER_WAY = 4  # questions at a time: while the store is busy with them, requests gather into larger ones
_RECONNECT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """Features of one entity: values, :class:`~shadow_mlops.features.seam.Held`, event times in µs since 1970."""

    names: tuple[str, ...]
    values: Sequence[Value]
    held: bytes
    times: Sequence[int]


@dataclass(slots=True)
class _Asked:
    keys: list[str]
    answers: list[asyncio.Future[Row | Result]]
    names: tuple[str, ...]


class FeatureClient:
    """Reads online features through the feature process; lives in one event loop.

    Parameters
    ----------
    word
        ``run/features.json``, which the feature process writes when it is ready.
    timeout
        Seconds that a request waits, from its arrival here.
    breaker
        Opened by questions that were not answered in time or at all.

    Attributes
    ----------
    results
        Reads by what became of them, since whoever publishes them took them last.
    """

    def __init__(self, word: Path, *, timeout: float, breaker: Breaker | None = None) -> None:
        self._word = word
        self._timeout = timeout
        self._breaker = breaker or Breaker(failures=5, pause=1.0, longest=4.0)
        self._queue: deque[tuple[str, tuple[str, ...], asyncio.Future[Row | Result]]] = deque()
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._scheduled = False
        self._writer: asyncio.StreamWriter | None = None
        self.names: frozenset[str] | None = None
        """What the store has; None while nobody has said."""
        self.results: Counter[Result] = Counter()
        self.seconds: list[float] = []

    @property
    def state(self) -> State:
        """Of the breaker."""
        return self._breaker.state

    @property
    def connected(self) -> bool:
        """Whether there is a feature process to ask."""
        return self._writer is not None

    async def read(self, key: str, names: tuple[str, ...]) -> Row | Result:
        """Features of an entity, or why there are none; never later than the time-out, never an error."""
        if len(self._queue) >= _QUEUE:
            self.results["busy"] += 1
            return "busy"
        loop = asyncio.get_running_loop()
        began = time.monotonic()  # uvloop's own time stands still within a turn
        answer: asyncio.Future[Row | Result] = loop.create_future()
        timer = loop.call_later(self._timeout, _give, answer, "timeout")
        self._queue.append((key, names, answer))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        try:
            found = await answer
        finally:
            timer.cancel()
        self.results["ok" if isinstance(found, Row) else found] += 1
        self.seconds.append(time.monotonic() - began)
        return found

    async def follow(self) -> None:
        """Keep a connection to the feature process until cancelled."""
        seen = ""
        while True:
            try:
                where = msgspec.json.decode(self._word.read_bytes(), type=Whereabouts)
                self.names = frozenset(where.names)
                reader, self._writer = await asyncio.open_unix_connection(where.socket)
                seen = ""
                while True:
                    self._take(await receive(reader, Reply))
            except (OSError, msgspec.MsgspecError, UnavailableError) as error:
                if self._writer is not None:
                    log.warning("the feature process has gone", reason=str(error))
                elif str(error) != seen:
                    log.info("no feature process yet", reason=str(error))
                seen = str(error)
                self._disconnected()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def close(self) -> None:
        """Close the connection; whoever waits is told."""
        self._disconnected()

    def _disconnected(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.close()
        self._writer = None
        asked, self._asked = list(self._asked.values()), {}
        for each in asked:
            self._fail(each, "error")

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue:
            if self._queue[0][2].done():  # it has waited too long already
                self._queue.popleft()
            elif self._writer is None:
                self._settle_all("error")
            elif len(self._asked) >= _UNDER_WAY:
                return  # whatever ends one of them flushes again
            elif self._breaker.allows():
                self._ask(self._writer)
            else:
                self._settle_all("open")

    def _ask(self, writer: asyncio.StreamWriter) -> None:
        names = self._queue[0][1]
        asked = _Asked([], [], names)
        while self._queue and len(asked.keys) < MAX_KEYS and self._queue[0][1] == names:
            key, _, answer = self._queue.popleft()
            if not answer.done():
                asked.keys.append(key)
                asked.answers.append(answer)
        self._number += 1
        self._asked[self._number] = asked
        deadline = time.monotonic() + self._timeout
        writer.write(pack(Question(self._number, names, asked.keys, None, deadline)))
        asyncio.get_running_loop().call_later(self._timeout, self._late, self._number)

    def _late(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._fail(asked, "timeout")

    def _fail(self, asked: _Asked, result: Result) -> None:
        self._breaker.failed()
        for answer in asked.answers:
            _give(answer, result)
        if self._queue:
            self._flush()

    def _settle_all(self, result: Result) -> None:
        while self._queue:
            _give(self._queue.popleft()[2], result)

    def _take(self, reply: Reply) -> None:
        asked = self._asked.pop(reply.id, None)
        if asked is None:
            return  # nobody waits any more
        if reply.problem or len(reply.values) != len(asked.keys):
            self._fail(asked, "error")
            return
        self._breaker.succeeded()
        for answer, values, held, times in zip(asked.answers, reply.values, reply.held, reply.times, strict=True):
            _give(answer, Row(asked.names, values, held, times))
        if self._queue:
            self._flush()


def _give(answer: asyncio.Future[Row | Result], what: Row | Result) -> None:
    if not answer.done():
        answer.set_result(what)
