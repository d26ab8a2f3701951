"""Open-loop load in a thread of its own, that remembers what it was answered."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Self

import uvloop

from shadow_mlops.cli.loadclient import Exchange, Pool, run_schedule
from shadow_mlops.cli.trafficrows import example_rows


def example_bodies(rows: int, seed: int = 77) -> list[bytes]:
    """Bodies of ``/predict`` requests."""
    return [row.body for row in islice(example_rows(seed=seed), rows)]


class Load:
    """Requests at a fixed rate until stopped; request ``n`` has id ``PREFIX-n`` and the n-th body, in turn.

    Attributes
    ----------
    answered
        Numbers of the requests whose 2xx answer was read completely.
    failed
        Status or kind of failure -> requests.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float,
        bodies: Sequence[bytes],
        prefix: str = "load",
        seen: Callable[[int, Exchange], None] | None = None,
    ) -> None:
        self.prefix = prefix
        self.sent = 0
        self.answered: list[int] = []
        self.failed: Counter[str] = Counter()
        self._url = url
        self._rate = rate
        self._bodies = bodies
        self._seen = seen
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-{prefix}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, wait for what is in flight."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        if self._error is not None:
            raise self._error

    @property
    def ids(self) -> set[str]:
        """Ids of the answered requests."""
        return {f"{self.prefix}-{number}" for number in self.answered}

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that stops it
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        pool = Pool(self._url, self._done)
        try:
            await run_schedule(pool, self._requests(), self._rate, self._stop)
        finally:
            await pool.close()

    def _requests(self) -> Iterator[Exchange]:
        for number in count():
            self.sent += 1
            yield Exchange("/predict", self._bodies[number % len(self._bodies)], f"{self.prefix}-{number}")

    def _done(self, exchange: Exchange) -> None:
        if exchange.failure:
            self.failed[exchange.failure] += 1
            return
        number = int(exchange.request_id.rsplit("-", 1)[1])
        self.answered.append(number)
        if self._seen is not None:
            self._seen(number, exchange)
