"""One error shape and one table of status codes for every route."""

from __future__ import annotations

from typing import Any

import msgspec

from shadow_mlops.domain.errors import (
    BodyTooLargeError,
    ConflictError,
    ContentTypeError,
    ForbiddenError,
    InvalidFieldsError,
    LakeError,
    MalformedBodyError,
    ModelNotFoundError,
    ModelRefusedError,
    RateLimitedError,
    RegistryError,
    RequestError,
    ShadowError,
    StateError,
    UnauthenticatedError,
    UnavailableError,
)

RETRY_AFTER_SECONDS = 1

_STATUS: tuple[tuple[type[ShadowError], int, str], ...] = (
    (MalformedBodyError, 400, "malformed_body"),
    (BodyTooLargeError, 413, "too_large"),
    (ContentTypeError, 415, "unsupported_media_type"),
    (InvalidFieldsError, 422, "invalid_fields"),
    (RateLimitedError, 429, "rate_limited"),
    (UnauthenticatedError, 401, "unauthenticated"),
    (ForbiddenError, 403, "forbidden"),
    (ConflictError, 409, "conflict"),
    (ModelNotFoundError, 404, "not_found"),
    (ModelRefusedError, 409, "model_refused"),
    (RegistryError, 503, "unavailable"),
    (StateError, 503, "unavailable"),
    (LakeError, 503, "unavailable"),
    (UnavailableError, 503, "unavailable"),
)
_HTTP_CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}


def error_response(error: BaseException, request_id: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and extra headers of an error.

    An error that the platform did not raise on purpose is a 500 without its text: it goes to the log, not to a
    stranger.
    """
    if isinstance(error, ShadowError):
        for kind, status, code in _STATUS:
            if isinstance(error, kind):
                problems = error.problems if isinstance(error, RequestError) else ()
                return (
                    status,
                    error_body(code, str(error), msgspec.to_builtins(problems), request_id),
                    _headers(error, status),
                )
    return (
        500,
        error_body("internal", "the server failed to answer; its log names this request id", [], request_id),
        {},
    )


def http_error_response(status: int, detail: str, request_id: str) -> bytes:
    """Body of an error that the web framework raised (no such route, wrong method)."""
    return error_body(_HTTP_CODES.get(status, "http_error"), detail, [], request_id)


def error_body(code: str, message: str, details: Any, request_id: str) -> bytes:
    """The one error shape."""
    return msgspec.json.encode(
        {"error": {"code": code, "message": message, "details": details, "request_id": request_id}}
    )


def _headers(error: ShadowError, status: int) -> dict[str, str]:
    if isinstance(error, RateLimitedError):
        return {
            "Retry-After": str(max(1, error.reset_seconds)),
            "RateLimit-Limit": str(error.limit),
            "RateLimit-Remaining": str(error.remaining),
            "RateLimit-Reset": str(error.reset_seconds),
        }
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
