"""An open-loop HTTP client: requests leave on a fixed schedule, however long the answers take.

A closed loop waits for an answer before it sends again: a stalled server is asked less often and looks better
than it is. Here a request that finds every connection busy waits in line, and its latency counts from when it
was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from shadow_mlops.domain.errors import SettingsError, UnavailableError

_TICK_SECONDS = 0.0005  # one wake-up sends everything due within it: 2,000 wake-ups/s cost 4 % of a core
_SWEEP_SECONDS = 0.1
_IDLE_SECONDS = 2.0  # servers close idle connections after 5 s or more; a request must not race with that


@dataclass(slots=True)
class Exchange:
    """One request and what became of it.

    Attributes
    ----------
    scheduled, finished
        Seconds of ``time.perf_counter``: when it was due, and when its answer was complete or given up.
    status
        HTTP status; 0 when there was no answer.
    failure
        Empty for an answer of status 2xx; else the status as text, ``connect``, ``closed``, ``timeout``,
        ``protocol`` or ``overflow`` (more requests wait for a connection than the client holds).
    """

    path: str
    body: bytes
    request_id: str
    scheduled: float = 0.0
    finished: float = 0.0
    status: int = 0
    failure: str = ""
    answer: bytes = b""
    sent: float = 0.0

    @property
    def latency(self) -> float:
        """Seconds from the moment the request was due."""
        return self.finished - self.scheduled


Done = Callable[[Exchange], None]


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.exchange: Exchange | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # what a stream has, on asyncio and uvloop alike

    def send(self, exchange: Exchange, head: bytes) -> None:
        self.exchange = exchange
        exchange.sent = time.perf_counter()
        self._transport.write(
            b"POST %b HTTP/1.1\r\n%bX-Request-ID: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (exchange.path.encode(), head, exchange.request_id.encode(), len(exchange.body), exchange.body)
        )

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort("protocol")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 1xx is not the answer
            return
        exchange, self.exchange = self.exchange, None
        answer, self._body = b"".join(self._body), []
        keep = self._parser.should_keep_alive()
        if not keep:
            self.close()
        if exchange is not None:
            exchange.status = status
            exchange.answer = answer
            exchange.failure = "" if 200 <= status < 300 else str(status)
            self._pool.finished(exchange)
        self._pool.released(self, usable=keep and exchange is not None)

    def connection_lost(self, _error: Exception | None) -> None:
        self._fail("closed")
        self._pool.lost(self)

    def abort(self, failure: str) -> None:
        self._fail(failure)
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def _fail(self, failure: str) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.failure = failure
            self._pool.finished(exchange)


class Pool:
    """At most ``connections`` keep-alive connections to one server.

    Parameters
    ----------
    url
        ``http://host:port`` or ``https://…``; a path in it is put before each request's.
    done
        Called in the event loop with each exchange that has ended.
    timeout
        Seconds from the moment a request was sent until it is given up.
    max_waiting
        Requests that may wait for a connection; further ones end as ``overflow``.
    key
        Client's key; empty: none is sent.

    Raises
    ------
    SettingsError
        If the URL is not one.
    """

    def __init__(
        self,
        url: str,
        done: Done,
        *,
        connections: int = 64,
        timeout: float = 10.0,
        max_waiting: int = 20_000,
        key: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError(f"expected a URL such as http://127.0.0.1:8000, got {url!r}")
        self.url = url
        self._ssl = parts.scheme == "https" or None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._ssl else 80)
        self._prefix = parts.path.rstrip("/")
        shown = f"Authorization: Bearer {key}\r\n" if key else ""
        self._head = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n{shown}".encode()
        self._done = done
        self._limit = connections
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[_Connection]] = set()
        self._waiting: deque[Exchange] = deque()
        self._unfinished = 0
        self._drained: asyncio.Event | None = None
        self._swept = 0.0

    async def check(self) -> None:
        """Open a first connection.

        Raises
        ------
        UnavailableError
            If nothing listens there.
        """
        try:
            self._idle.append(await self._connect())
        except OSError as error:
            raise UnavailableError(f"{self.url} does not answer: {error.strerror or error}") from None

    def submit(self, exchange: Exchange) -> None:
        """Send the request now, or as soon as a connection is free."""
        self._unfinished += 1
        exchange.path = self._prefix + exchange.path
        connection = self._take()
        if connection is not None:
            connection.send(exchange, self._head)
        elif len(self._waiting) >= self._max_waiting:
            exchange.failure = "overflow"
            self.finished(exchange)
        else:
            self._waiting.append(exchange)
            self._grow()

    @property
    def unfinished(self) -> int:
        """Requests that have neither been answered nor given up."""
        return self._unfinished

    async def drained(self) -> None:
        """Return when every request has ended; something must go on calling :meth:`sweep`."""
        if self._unfinished:
            self._drained = asyncio.Event()
            await self._drained.wait()

    def sweep(self) -> None:
        """Give up requests that are over their time."""
        now = time.perf_counter()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for connection in list(self._open):
            if connection.exchange is not None and now - connection.exchange.sent > self._timeout:
                connection.abort("timeout")
        while self._waiting and now - self._waiting[0].scheduled > self._timeout:
            self._waiting[0].failure = "timeout"
            self.finished(self._waiting.popleft())

    async def close(self) -> None:
        """Give up what is in flight and close every connection."""
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in list(self._open):
            connection.abort("closed")
        while self._waiting:
            self._waiting[0].failure = "closed"
            self.finished(self._waiting.popleft())

    def finished(self, exchange: Exchange) -> None:
        """Hand an ended exchange to its owner."""
        exchange.finished = time.perf_counter()
        self._unfinished -= 1
        self._done(exchange)
        if self._drained is not None and not self._unfinished:
            self._drained.set()

    def released(self, connection: _Connection, *, usable: bool) -> None:
        """The connection has its answer: give it the next request, or keep it for one."""
        if usable and self._waiting:
            connection.send(self._waiting.popleft(), self._head)
        elif usable:
            connection.idle_since = time.perf_counter()
            self._idle.append(connection)
        else:
            self._open.discard(connection)
            self._grow()

    def lost(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may grow old and go
            if time.perf_counter() - connection.idle_since < _IDLE_SECONDS:
                return connection
            self._open.discard(connection)
            connection.close()
        return None

    def _grow(self) -> None:
        wanted = min(len(self._waiting), self._limit - len(self._open)) - len(self._connecting)
        for _ in range(wanted):
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[_Connection]) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            return
        if task.exception() is None:
            self.released(task.result(), usable=True)
        elif self._waiting:
            # One refused connection answers for one request: the rate of failures is the rate of requests.
            self._waiting[0].failure = "connect"
            self.finished(self._waiting.popleft())
        self._grow()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout):
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self._host, self._port, ssl=self._ssl
            )
        self._open.add(connection)
        connection.idle_since = time.perf_counter()
        return connection


class _Schedule:
    """Requests that fall due ``1 / rate`` seconds apart."""

    def __init__(self, pool: Pool, requests: Iterator[Exchange], rate: float, stop: asyncio.Event) -> None:
        self._pool = pool
        self._requests = requests
        self._interval = 1 / rate
        self._stop = stop
        self._start = time.perf_counter()
        self._sent = 0
        self.over = asyncio.Event()

    @property
    def next_due(self) -> float:
        return self._start + self._sent * self._interval

    def dispatch(self) -> None:
        now = time.perf_counter()
        while not self.over.is_set() and self.next_due <= now:
            exchange = None if self._stop.is_set() else next(self._requests, None)
            if exchange is None:
                self.over.set()
            else:
                exchange.scheduled = self.next_due
                self._sent += 1
                self._pool.submit(exchange)
        if self._stop.is_set():
            self.over.set()
        self._pool.sweep()


@contextlib.contextmanager
def _woken_by_thread(schedule: _Schedule) -> Iterator[None]:
    # Precise to some 50 µs; the event loop's own timers (1 ms) would be most of a fast server's latency.
    loop = asyncio.get_running_loop()
    ended = threading.Event()

    def metronome() -> None:
        while not ended.is_set():
            time.sleep(min(max(schedule.next_due - time.perf_counter(), _TICK_SECONDS), _SWEEP_SECONDS))
            loop.call_soon_threadsafe(schedule.dispatch)

    thread = threading.Thread(target=metronome, name="metronome", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _woken_by_spinning(schedule: _Schedule) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    ended = False

    def spin() -> None:
        schedule.dispatch()
        if not ended:
            loop.call_soon(spin)

    spin()
    try:
        yield
    finally:
        ended = True


async def run_schedule(
    pool: Pool, requests: Iterator[Exchange], rate: float, stop: asyncio.Event, *, spin: bool = False
) -> None:
    """Submit the requests ``1 / rate`` seconds apart, then wait until each has ended.

    Parameters
    ----------
    pool
        Where they go.
    requests
        Taken one by one as they fall due; the schedule ends with it.
    rate
        Requests per second.
    stop
        Ends the schedule early; requests in flight are still waited for.
    spin
        Never sleep: requests leave within some 20 µs of their time instead of 0.5 ms, for a whole core.
    """
    schedule = _Schedule(pool, requests, rate, stop)
    with _woken_by_spinning(schedule) if spin else _woken_by_thread(schedule):
        await schedule.over.wait()
        await pool.drained()
