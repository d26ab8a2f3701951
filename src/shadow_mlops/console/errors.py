"""Request ids and the one error shape, around the console's application."""

from __future__ import annotations

import secrets

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadow_mlops.access import SECURITY_HEADERS
from shadow_mlops.domain.errors import InvalidFieldsError, Problem, ShadowError
from shadow_mlops.domain.events import REQUEST_ID
from shadow_mlops.httperrors import error_response, http_error_response

log = structlog.get_logger()


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the one shape."""
    app.add_exception_handler(ShadowError, _own)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


class RequestIds:
    """ASGI wrapper: every request has an id (the caller's, if valid), every response carries it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["request_id"] = request_id

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS:
                    headers[name.decode()] = value.decode()
            await send(message)

        try:
            await self._app(scope, receive, marked)
        except Exception as error:  # answered already; what is left is to write it down
            log.error("a request failed", route=scope["path"], request_id=request_id, exc_info=error)


async def _own(request: Request, error: Exception) -> Response:
    status, body, headers = error_response(error, request.scope["request_id"])
    if status == 500:
        log.error("a request failed", route=request.url.path, reason=str(error))
    return Response(body, status_code=status, media_type="application/json", headers=headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    body = http_error_response(error.status_code, str(error.detail), request.scope["request_id"])
    headers = dict(error.headers or {})
    return Response(body, status_code=error.status_code, media_type="application/json", headers=headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    problems = [Problem(".".join(map(str, each["loc"][1:])), str(each["msg"])) for each in error.errors()]
    named = ", ".join(sorted({problem.field for problem in problems}))
    return await _own(request, InvalidFieldsError(f"query parameters are not understood: {named}", problems))


async def _unexpected(request: Request, error: Exception) -> Response:
    status, body, _ = error_response(error, request.scope["request_id"])
    return Response(body, status_code=status, media_type="application/json")
