"""Paths of the console, handed on to its process: DuckDB, SQL and the registry's client stay out of the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from shadow_mlops.domain.errors import MalformedBodyError, UnavailableError
from shadow_mlops.gateway.transport import client_of, read_body

if TYPE_CHECKING:
    import httpx2

log = structlog.get_logger()

FORWARDED = re.compile(r"/shadow/.*|/(?:drift|promote|rollback|canary|retrain|audit|events)", re.DOTALL)
ANSWER_SECONDS = 300.0  # a model may take a minute to load, and a query over a year of pairs longer
_CONNECT_SECONDS = 2.0
_DOCUMENT_SECONDS = 5.0
_CONNECTIONS = 16
_ORDERS = re.compile(
    rb"/(?:promote|rollback|canary|retrain|audit)\b"
)  # of their own: strangers' queries must not keep operators out
_IDLE_SECONDS = 60.0  # less than the console keeps an idle connection
# RFC 9110, 7.6.1; and what each of the two servers says for itself
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"date", b"server", b"x-request-id",
    }
)  # fmt: skip
_OF_THE_REQUEST = frozenset({b"host", b"accept-encoding", b"expect", b"forwarded", b"x-forwarded-for"})
_ABSENT = "the console does not run on this host: start it with `shadow up` or `shadow console`"

RawHeaders = list[tuple[bytes, bytes]]


class Forwarded(NamedTuple):
    """An answer of the console, without what concerns only its connection."""

    status: int
    headers: RawHeaders
    body: bytes


class _Word(msgspec.Struct):
    """``run/console.json``, as the console writes it."""

    url: str


class ConsoleClient:
    """Connections to the console of this host; the first use imports what is needed for them.

    Parameters
    ----------
    word
        File in which the console says where it is.
    """

    def __init__(self, word: Path) -> None:
        self._word = word
        self._transports: dict[bool, httpx2.AsyncHTTPTransport] = {}
        self._making = asyncio.Lock()

    async def ask(
        self, method: str, target: bytes, headers: RawHeaders, body: bytes, *, seconds: float = ANSWER_SECONDS
    ) -> Forwarded:
        """Send a request and read its answer.

        Parameters
        ----------
        target
            Path and query as the client wrote them.

        Raises
        ------
        UnavailableError
            The console is not there, is busy, or did not answer in time.
        MalformedBodyError
            The path is none, or a header cannot be handed on.
        """
        transport = await self._opened(order=_ORDERS.match(target) is not None)
        import httpx2  # noqa: PLC0415 - imported by now, in a thread

        try:
            url = httpx2.URL(self._url()).copy_with(raw_path=target)
        except httpx2.InvalidURL as error:
            raise MalformedBodyError(f"the path is not understood: {error}") from None
        timeouts = {"connect": _CONNECT_SECONDS, "read": seconds, "write": _CONNECT_SECONDS, "pool": _CONNECT_SECONDS}
        request = httpx2.Request(method, url, headers=headers, content=body, extensions={"timeout": timeouts})
        try:
            response = await transport.handle_async_request(request)
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise UnavailableError(_ABSENT) from None
        except httpx2.PoolTimeout:
            raise UnavailableError(f"the console is busy with {_CONNECTIONS} requests of this worker") from None
        except httpx2.LocalProtocolError as error:
            raise MalformedBodyError(f"the request cannot be handed on to the console: {error}") from None
        except httpx2.TransportError as error:
            raise UnavailableError(
                f"the console did not answer ({type(error).__name__});"
                " an order may have been carried out: GET /audit says so"
            ) from None
        return Forwarded(response.status_code, _passed_on(response.headers.raw, frozenset()), content)

    async def document(self) -> dict[str, Any] | None:
        """OpenAPI document of the console; None while it is not there."""
        try:
            answer = await self.ask("GET", b"/openapi.json", [], b"", seconds=_DOCUMENT_SECONDS)
            return msgspec.json.decode(answer.body, type=dict[str, Any])
        except (UnavailableError, msgspec.DecodeError) as error:
            log.info("the OpenAPI document lacks the console's routes", reason=str(error))
            return None

    async def close(self) -> None:
        """Close the connections."""
        for transport in self._transports.values():
            await transport.aclose()

    def _url(self) -> str:
        try:
            return msgspec.json.decode(self._word.read_bytes(), type=_Word).url
        except (OSError, msgspec.DecodeError):
            raise UnavailableError(_ABSENT) from None

    async def _opened(self, *, order: bool) -> httpx2.AsyncHTTPTransport:
        async with self._making:
            if order not in self._transports:  # importing takes longer than a client should wait
                self._transports[order] = await asyncio.to_thread(_open)
            return self._transports[order]


def _open() -> httpx2.AsyncHTTPTransport:
    import httpx2  # noqa: PLC0415 - a worker that never forwards does without

    # The transport alone: a client keeps cookies, follows redirects and adds headers of its own.
    limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=4, keepalive_expiry=_IDLE_SECONDS)
    return httpx2.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)


def _passed_on(headers: Iterable[tuple[bytes, bytes]], also: frozenset[bytes]) -> RawHeaders:
    """Headers that concern the message, not the connection."""
    lowered = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    named = {part.strip().lower() for name, value in lowered if name == b"connection" for part in value.split(b",")}
    dropped = _HOP_BY_HOP | also | named
    return [(name, value) for name, value in lowered if name not in dropped]


class Forwarder:
    """ASGI application: the console's paths there, every other path in the application behind.

    Parameters
    ----------
    rest
        Application of all other paths.
    max_body
        Largest body in bytes.
    count
        Called with the first part of a forwarded path and the status of its answer.
    """

    def __init__(
        self, rest: ASGIApp, console: ConsoleClient, *, max_body: int, count: Callable[[str, int], None]
    ) -> None:
        self._rest = rest
        self._console = console
        self._max_body = max_body
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection, whose scope has a ``request_id``.

        Raises
        ------
        UnavailableError
            The console gave no answer.
        BodyTooLargeError, MalformedBodyError
            The request is not forwarded.
        """
        if scope["type"] != "http" or not FORWARDED.fullmatch(scope["path"]):
            await self._rest(scope, receive, send)
            return
        body = await read_body(receive, dict(scope["headers"]), self._max_body)
        query: bytes = scope.get("query_string", b"")
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        request_id: bytes = scope["request_id"].encode()
        headers = [
            *_passed_on(scope["headers"], _OF_THE_REQUEST),
            (b"x-request-id", request_id),
            (b"x-forwarded-for", client_of(scope).encode()),
        ]
        answer = await self._console.ask(scope["method"], target, headers, body)
        self._count(_first_part(scope["path"]), answer.status)
        own = [(b"content-length", b"%d" % len(answer.body)), (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, *own]})
        await send({"type": "http.response.body", "body": answer.body})


def _first_part(path: str) -> str:
    """What metrics call a path: strangers must not be able to make new series.

    >>> _first_part("/shadow/comparison"), _first_part("/promote")
    ('/shadow', '/promote')
    """
    return f"/{path.split('/', 2)[1]}"
