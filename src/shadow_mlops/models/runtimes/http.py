"""Remote models: scores by HTTP, within a time-out, and none of a remote's bad days is a bad answer of ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ssl
import threading
import weakref
from pathlib import Path

import httpx2
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.breaker import Breaker
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.endpoint import Endpoint, read_endpoint
from shadow_mlops.models.outputs import OutputsError
from shadow_mlops.models.runtimes import Tally
from shadow_mlops.models.runtimes.detached import CallError, Calls, RowsRefusedError
from shadow_mlops.models.runtimes.inference import request_of, scores_in

_LARGEST_ANSWER = 16 * 2**20  # bytes; 1,000 rows of 100 classes are 2 MiB
_ROWS_REFUSED = frozenset({400, 422})
_LONGEST_PAUSE = 5.0  # seconds that it is left alone at most; each costs a champion's clients an error
_KEEP_ALIVE = 60.0
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


class HttpRuntime:
    """Scores rows by a remote model.

    A :class:`~shadow_mlops.models.runtimes.Detached` runtime. One call of ``predict`` lasts no longer than the
    endpoint's time-out, whatever happens in it. 400 and 422 are about the rows. A time-out, another status, an answer
    that is no scores, or none at all is :class:`~shadow_mlops.domain.errors.UnavailableError` for all rows, and counts
    for the breaker.
    """

    def __init__(self, endpoint: Endpoint, card: ModelCard, *, breaker: Breaker | None = None) -> None:
        self._endpoint = endpoint
        self._card = card
        self._seconds = endpoint.timeout_ms / 1000
        self._calls = Calls(f"the remote model {endpoint.shown}", breaker=breaker or Breaker(longest=_LONGEST_PAUSE))
        self._caller = _Caller(endpoint)
        self._finalizer = weakref.finalize(self, self._caller.stop)

    def tally(self) -> Tally:
        """See :meth:`shadow_mlops.models.runtimes.Detached.tally`."""
        return self._calls.tally()

    def close(self) -> None:
        """See :meth:`shadow_mlops.models.runtimes.Detached.close`."""
        self._finalizer()

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        return self._calls.score(self._ask, numbers, strings, width=len(self._card.outputs), seconds=self._seconds)

    def _ask(self, numbers: NDArray[np.float64], strings: NDArray[np.object_], seconds: float) -> NDArray[np.float64]:
        protocol = self._endpoint.protocol
        try:
            status, body = self._caller.post(request_of(protocol, self._card.signature, numbers, strings), seconds)
        except TimeoutError:
            raise CallError("timeout", f"did not answer within {self._seconds:g} s") from None
        except UnicodeEncodeError as error:  # half a surrogate pair: no request can carry it
            raise RowsRefusedError(str(error)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise CallError("unreachable", f"cannot be reached ({type(error).__name__})") from error
        if status in _ROWS_REFUSED:
            raise RowsRefusedError(f"status {status}")
        if not 200 <= status < 300:
            raise CallError("status", f"answers with status {status}")
        try:
            return scores_in(protocol, body, len(numbers), self._card)
        except OutputsError as error:
            raise CallError("garbage", str(error)[:300]) from error


class _Caller:
    """A client with connections that it keeps, on an event loop in a thread of its own.

    Time-outs of a synchronous client are for each read: a server that sends one byte a second would hold the caller for
    ever. A task on a loop can be cancelled wherever it is.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.url
        verify = ssl.create_default_context() if endpoint.url.startswith("https:") else False
        limits = httpx2.Limits(max_connections=4, max_keepalive_connections=4, keepalive_expiry=_KEEP_ALIVE)
        # a proxy of the environment is for the internet; redirects could lead anywhere
        self._client = httpx2.AsyncClient(
            verify=verify, limits=limits, trust_env=False, follow_redirects=False, timeout=None
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="remote-model", daemon=True).start()

    def post(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises
        ------
        TimeoutError
            If it is not there, as a whole, within the seconds.
        httpx2.HTTPError
            If the remote cannot be reached, or breaks off.
        """
        if self._loop.is_closed():
            raise TimeoutError
        asked = asyncio.run_coroutine_threadsafe(self._post(body, seconds), self._loop)
        try:
            return asked.result(seconds + 1.0)
        except concurrent.futures.CancelledError:
            raise TimeoutError from None
        finally:
            asked.cancel()

    async def _post(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        async with asyncio.timeout(seconds):
            try:
                return await self._exchange(body)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                # a kept connection that the server has just closed; to ask for scores twice does no harm
                return await self._exchange(body)

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        async with self._client.stream("POST", self._url, content=body, headers=_HEADERS) as response:
            parts: list[bytes] = []
            size = 0
            async for part in response.aiter_raw():
                size += len(part)
                if size > _LARGEST_ANSWER:
                    raise CallError("garbage", f"answers with more than {_LARGEST_ANSWER} bytes")
                parts.append(part)
            return response.status_code, b"".join(parts)

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def stop(self) -> None:
        """Close the connections and end the thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop)

    async def _close(self) -> None:
        await self._client.aclose()
        self._loop.stop()


def load(directory: Path, card: ModelCard) -> HttpRuntime:
    """Connect to the remote model that ``card.file`` names; nothing is asked of it yet.

    Raises
    ------
    ModelRefusedError
        If the file names no address that may be called.
    """
    return HttpRuntime(read_endpoint(directory / card.file), card)
