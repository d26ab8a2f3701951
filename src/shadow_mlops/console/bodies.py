"""The bodies of operators' requests."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from shadow_mlops.domain.errors import (
    BodyTooLargeError,
    ContentTypeError,
    InvalidFieldsError,
    MalformedBodyError,
    Problem,
)
from shadow_mlops.rollout import CanaryAction

Version = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Reason = Annotated[str, msgspec.Meta(max_length=2000, description="Kept in the audit trail.")]


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /promote``."""

    version: Version
    reason: Reason = ""


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /rollback``."""

    reason: Reason = ""


class CanaryOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /canary``."""

    action: CanaryAction
    role: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "challenger"
    """Only ``start`` asks for it."""
    reason: Reason = ""


class RetrainOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /retrain``."""

    reason: Reason = ""
    force: Annotated[bool, msgspec.Meta(description="Queue it though another retraining runs or waits.")] = False


_T = TypeVar("_T")


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises
    ------
    BodyTooLargeError
        It has more bytes than ``limit``.
    MalformedBodyError
        The client went away before its end.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise BodyTooLargeError(f"the body has more than {limit} bytes")
            parts.append(part)
    except ClientDisconnect:
        raise MalformedBodyError("the body ended too early") from None
    return b"".join(parts)


async def read_json(request: Request, kind: type[_T], limit: int) -> _T:
    """The body of a request, decoded.

    Raises
    ------
    ContentTypeError
        It is not declared as JSON.
    MalformedBodyError, InvalidFieldsError
        It is not JSON, or not of this kind.
    BodyTooLargeError
        It has more bytes than ``limit``.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise ContentTypeError(f"send Content-Type: application/json, not {declared[:100] or 'nothing'}")
    body = await read_bytes(request, limit)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        field = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else ""
        raise InvalidFieldsError(f"the body is not understood: {text}", [Problem(field, text)]) from None
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from None
