"""What every request has in common: its id, its client, its body within bounds."""

from __future__ import annotations

import itertools
import os
from typing import Any, TypeAlias

from starlette.types import Receive, Scope, Send

from shadow_mlops.access import DATA_HEADERS, SECURITY_HEADERS
from shadow_mlops.domain.errors import BodyTooLargeError, ContentTypeError
from shadow_mlops.domain.events import REQUEST_ID

Headers: TypeAlias = dict[bytes, bytes]

_prefix = os.urandom(6).hex()
_numbers = itertools.count(1)


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


def request_id_of(headers: Headers) -> str:
    """The caller's ``X-Request-ID`` if it is valid, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None:
        text = given.decode("latin-1")
        if REQUEST_ID.fullmatch(text):
            return text
    return f"{_prefix}-{next(_numbers):06x}"


def client_of(scope: Scope) -> str:
    """Address of the peer."""
    client: Any = scope.get("client")
    return client[0] if client else "local"


def require_json(headers: Headers) -> None:
    """Refuse a body that is declared as something else than JSON.

    Raises
    ------
    ContentTypeError
        The header is absent or names another type.
    """
    kind = headers.get(b"content-type", b"")
    if kind == b"application/json":
        return
    name = kind.split(b";", 1)[0].strip().lower()
    if name != b"application/json" and not (name.startswith(b"application/") and name.endswith(b"+json")):
        shown = kind.decode("latin-1")[:100] or "nothing"
        raise ContentTypeError(f"send Content-Type: application/json, not {shown}")


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    """Read a request body of at most ``limit`` bytes.

    Raises
    ------
    BodyTooLargeError
        As soon as it is known, before the rest is read.
    ClientGoneError
        The client went away.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise BodyTooLargeError(f"the body has {int(declared)} bytes, at most {limit} are allowed")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise BodyTooLargeError(f"the body has more than {limit} bytes")
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        if size > limit:
            raise BodyTooLargeError(f"the body has more than {limit} bytes")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise BodyTooLargeError(f"the body has more than {limit} bytes")
    return b"".join(parts)


async def respond(send: Send, status: int, body: bytes, request_id: str, headers: dict[str, str] | None = None) -> None:
    """Send a JSON response.

    Parameters
    ----------
    headers
        More of them, of a refusal; None: the answer that a client wanted, whose time counts.
    """
    raw = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *(DATA_HEADERS if headers is None else SECURITY_HEADERS),
    ]
    if headers:
        raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
