"""What the console's routes take and give, for the one OpenAPI document that the gateway publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

from shadow_mlops.access import with_rules
from shadow_mlops.console.bodies import CanaryOrder, Promotion, RetrainOrder, Rollback
from shadow_mlops.console.reported import ReportedEvent
from shadow_mlops.retraining.ordering import Ordered
from shadow_mlops.rollout import CanaryChange, Switch
from shadow_mlops.state.audit import Entries

_REF = "#/components/schemas/{name}"
_ERRORS = {
    400: "Not JSON.",
    404: "No such version.",
    409: "The state forbids it; the message says what does.",
    413: "Too many bytes.",
    415: "Not declared as JSON.",
    422: "Fields or parameters are unknown, absent or of the wrong type; `details` names each.",
    429: "Rate limit; see `Retry-After` and `RateLimit-*`.",
    500: "The server failed.",
    503: "Try again later; see `Retry-After`.",
}
_REQUEST_ID = {"X-Request-ID": {"schema": {"type": "string"}, "description": "The caller's, if valid; else a new one."}}
_ACCEPTED = {
    "type": "object",
    "required": ["accepted"],
    "properties": {
        "accepted": {"type": "integer", "minimum": 0},
        "waiting": {"type": "integer", "minimum": 0, "description": "CloudEvents whose other half has not come yet."},
    },
}
_ONE = {"$ref": _REF.format(name="ReportedEvent")}
_MANY = {"type": "array", "items": _ONE}
_EVENTS = {
    "anyOf": [_ONE, _MANY, {"type": "object", "required": ["events"], "properties": {"events": _MANY}}],
}
_EVENT_EXAMPLE = {"request_id": "abc123-def456", "features": {"tenure": 24}, "version": "2.1.0", "score": 0.42}


def responses(status: int, schema: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: its answer, the errors of its own, and those that any route may give."""
    found: dict[int | str, dict[str, Any]] = {status: _response("Done.", schema)}
    for code in sorted({*errors, 422, 429, 500, 503}):
        found[code] = _response(_ERRORS[code], "Error")
    return found


def _response(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(name=schema)}}}
    return {"description": description, "headers": _REQUEST_ID, "content": content}


def json_body(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that takes JSON."""
    content = {"application/json": {"schema": {"$ref": _REF.format(name=schema)}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def events_body() -> dict[str, Any]:
    """The ``openapi_extra`` of ``POST /events``."""
    content = {
        "application/json": {"schema": _EVENTS, "example": _EVENT_EXAMPLE},
        "application/cloudevents+json": {"schema": {"type": "object"}},
        "application/cloudevents-batch+json": {"schema": {"type": "array"}},
        "application/x-ndjson": {"schema": {"type": "string"}},
    }
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI, answers: Mapping[str, Any]) -> dict[str, Any]:
    """The console's OpenAPI document.

    Parameters
    ----------
    answers
        Schema name -> type of the answers that other rooms give.
    """
    base: dict[str, Any] = FastAPI.openapi(app)
    kinds: dict[str, Any] = {
        "Promotion": Promotion,
        "Rollback": Rollback,
        "Switch": Switch,
        "CanaryOrder": CanaryOrder,
        "CanaryChange": CanaryChange,
        "RetrainOrder": RetrainOrder,
        "Retraining": Ordered,
        "AuditTrail": Entries,
        "ReportedEvent": ReportedEvent,
    }
    kinds |= answers
    tops, parts = msgspec.json.schema_components(kinds.values(), ref_template=_REF)
    schemas = {**base.get("components", {}).get("schemas", {}), **parts, "Accepted": _ACCEPTED}
    for name, top in zip(kinds, tops, strict=True):
        schemas.setdefault(name, top)
    return with_rules({**base, "components": {**base.get("components", {}), "schemas": schemas}})
