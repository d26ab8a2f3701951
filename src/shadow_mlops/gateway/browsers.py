"""What concerns browsers alone: headers that every answer has, and pages of other origins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Send

from shadow_mlops.access import SECURITY_HEADERS, page_policy
from shadow_mlops.gateway.transport import request_id_of
from shadow_mlops.httperrors import http_error_response

PAGES = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
_TAKEN = ["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"]
_SHOWN = ["X-Request-ID", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]


def hardened(send: Send) -> Send:
    """A ``send`` that adds the headers which every answer has, unless the answer has them already."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", []))
            given = {name.lower() for name, _ in own}
            added = [each for each in SECURITY_HEADERS if each[0] not in given]
            message = {**message, "headers": [*own, *added]}
        await send(message)

    return sending


async def with_page_policy(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer; a page of the documentation says what it may load."""
    response = await call_next(request)
    response.headers["X-Request-ID"] = request.scope.get("request_id", "")
    if request.url.path not in PAGES or response.status_code != 200:
        return response
    html = b"".join([part async for part in response.body_iterator])  # type: ignore[attr-defined]
    headers = {**response.headers, "Content-Security-Policy": page_policy(html).decode()}
    return Response(html, status_code=200, headers=headers)


class CrossOrigin(CORSMiddleware):
    """Lets pages of named origins call the API; their browsers keep every other page out.

    No credentials that a browser would send by itself (cookies, Basic) are allowed: a page must have a key to show it.

    Parameters
    ----------
    origins
        ``scheme://host[:port]`` of each.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=_TAKEN, expose_headers=_SHOWN
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Whether the browser may send the request, with what every answer has."""
        response = super().preflight_response(request_headers)
        request_id = request_id_of(dict(request_headers.raw))
        if response.status_code != 200:
            refusal = http_error_response(response.status_code, str(bytes(response.body), "utf-8"), request_id)
            kept = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
            response = Response(refusal, response.status_code, kept, media_type="application/json")
        response.headers["X-Request-ID"] = request_id
        for name, value in SECURITY_HEADERS:
            response.headers[name.decode()] = value.decode()
        return response


_OF_THE_BODY = {"content-length", "content-type"}
