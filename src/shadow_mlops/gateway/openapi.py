"""One OpenAPI document: FastAPI's own routes, and the data plane's from the very types that decode and encode them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from fastapi import FastAPI

from shadow_mlops.access import with_rules
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.gateway.answers import answer_schema
from shadow_mlops.gateway.champion import Served
from shadow_mlops.gateway.outcomes import Outcome, Outcomes

_REF = "#/components/schemas/{name}"
_ERROR_STATUSES = {
    "400": "Not JSON.",
    "413": "Too many bytes or rows.",
    "415": "Not declared as JSON.",
    "422": "Fields are unknown, absent or of the wrong type; `details` names each.",
    "429": "Rate limit; see `Retry-After` and `RateLimit-*`.",
    "500": "The server failed.",
    "503": "Try again later; see `Retry-After`.",
}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details", "request_id"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
                "request_id": {"type": "string"},
            },
        }
    },
}


def document(app: FastAPI, deployment: Deployment, served: Served | None) -> dict[str, Any]:
    """The OpenAPI document with the fields that are accepted right now.

    Parameters
    ----------
    served
        The champion in force; without one the features are any JSON object.
    """
    base: dict[str, Any] = FastAPI.openapi(app)
    result = {**base, "paths": dict(base.get("paths", {}))}
    components = {**base.get("components", {}).get("schemas", {}), "Error": ERROR_SCHEMA}
    features, example = _features(deployment, served)
    components["Features"] = features
    answer, extra = answer_schema(deployment.task)
    (one, many), outcome_parts = msgspec.json.schema_components([Outcome, Outcomes], ref_template=_REF)
    components.update(extra)
    components.update(outcome_parts)
    request = {"$ref": "#/components/schemas/Features"}
    batch_in = {
        "type": "object",
        "required": ["instances"],
        "additionalProperties": False,
        "properties": {"instances": {"type": "array", "items": request}},
    }
    batch_out = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": answer}},
    }
    accepted = {
        "type": "object",
        "required": ["accepted"],
        "properties": {"accepted": {"type": "integer", "minimum": 0}},
    }
    result["paths"]["/predict"] = {
        "post": _operation("Predict", "Answer one request from the champion.", request, "200", answer, example)
    }
    result["paths"]["/predict/batch"] = {
        "post": _operation(
            "Predict a batch",
            "All instances, or none: one bad row is named by its index.",
            batch_in,
            "200",
            batch_out,
            {"instances": [example]},
        )
    }
    result["paths"]["/outcomes"] = {
        "post": _operation(
            "Report outcomes",
            "What really happened, by request id or by entity and time. Only the form is checked; matching is later.",
            {"oneOf": [one, many]},
            "202",
            accepted,
            {"request_id": "abc123-def456", "label": 1},
        )
    }
    result["components"] = {**base.get("components", {}), "schemas": components}
    return with_rules(result)


def merged(own: dict[str, Any], console: dict[str, Any] | None, forwarded: re.Pattern[str]) -> dict[str, Any]:
    """One document of the gateway's own routes and those that it forwards.

    Parameters
    ----------
    console
        The console's document; None while it is not there.
    forwarded
        Paths that are forwarded; no other path of the console is published.
    """
    if console is None:
        return own
    paths = {path: item for path, item in console.get("paths", {}).items() if forwarded.fullmatch(path)}
    parts: dict[str, Any] = {}
    for part in ("schemas", "securitySchemes"):
        both = {
            **console.get("components", {}).get(part, {}),
            **own.get("components", {}).get(part, {}),
        }
        if both:
            parts[part] = both
    return {
        **own,
        "paths": {**own["paths"], **paths},
        "components": {**own.get("components", {}), **parts},
    }


def _operation(  # noqa: PLR0917 - one argument per part of an OpenAPI operation
    summary: str,
    description: str,
    request: dict[str, Any],
    status: str,
    answer: dict[str, Any],
    example: dict[str, Any],
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    request_id = {
        "X-Request-ID": {
            "schema": {"type": "string"},
            "description": "The caller's, if valid; else a new one.",
        }
    }
    return {
        "summary": summary,
        "description": description,
        "tags": ["data plane"],
        "operationId": summary.lower().replace(" ", "_"),
        "parameters": [
            {
                "name": "X-Request-ID",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "At most 128 letters, digits and . _ : -; anything else is replaced.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": example}},
        },
        "responses": {
            status: {
                "description": "Done.",
                "headers": request_id,
                "content": {"application/json": {"schema": answer}},
            },
            **{
                code: {"description": text, "headers": request_id, "content": error}
                for code, text in _ERROR_STATUSES.items()
            },
        },
    }


def _features(deployment: Deployment, served: Served | None) -> tuple[dict[str, Any], dict[str, Any]]:
    if served is None:
        return {"type": "object", "description": "No champion is loaded yet."}, {}
    (_,), parts = msgspec.json.schema_components([_described(served)], ref_template=_REF)
    schema: dict[str, Any] = parts["Features"]
    properties: dict[str, Any] = schema["properties"]
    example: dict[str, Any] = {}
    if deployment.entity is not None:
        example[deployment.entity] = "CUST-001"
    required = []
    for feature in served.fields.signature.features:
        spec = deployment.features.get(feature.name)
        default = msgspec.UNSET if spec is None else spec.default
        properties[feature.name].pop("default", None)
        if default is msgspec.UNSET:
            required.append(feature.name)
            example[feature.name] = "text" if feature.kind == "string" else 1
        else:
            properties[feature.name]["default"] = default
            example[feature.name] = default
    schema["required"] = required
    return schema, example


def _described(served: Served) -> type[msgspec.Struct]:
    # The decoding type has sentinels as defaults, which are no JSON: describe the same fields without them.
    fields = msgspec.structs.fields(served.fields.row_type)
    return msgspec.defstruct(
        "Features",
        [(f.name, f.type, None) for f in fields],
        rename={f.name: f.encode_name for f in fields},
        forbid_unknown_fields=served.fields.row_type.__struct_config__.forbid_unknown_fields,
    )
