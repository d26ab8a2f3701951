"""The rules of the routes in an OpenAPI document."""

from __future__ import annotations

from typing import Any

from shadow_mlops.access.rules import CLOSER, RULES, May

_BEARER = {"type": "http", "scheme": "bearer"}
_SCHEMES: dict[str, dict[str, str]] = {
    "client": {**_BEARER, "description": "A client's key, once there is one."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "viewer": {**_BEARER, "description": "A viewer's key."},
    "operator": {**_BEARER, "description": "The operators' token, or an operator's key."},
}
_SECURITY: dict[May, list[dict[str, list[str]]]] = {
    "client": [{}, {"client": []}, {"apiKey": []}],  # {}: without, while there is no client's key
    "viewer": [{"viewer": []}, {"operator": []}],
    "operator": [{"operator": []}],
}
_REFUSALS = {"401": "No key, or none that is in force.", "403": "A key of another role."}


def with_rules(document: dict[str, Any]) -> dict[str, Any]:
    """The document, in which each route says who may use it and how it refuses the others."""
    paths = {
        path: {method: _described(f"{method.upper()} {path}", operation) for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    components = document.get("components", {})
    return {**document, "paths": paths, "components": {**components, "securitySchemes": _SCHEMES}}


def _described(route: str, operation: dict[str, Any]) -> dict[str, Any]:
    may = RULES[route]
    if may == "open" and route not in CLOSER:
        return operation
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    request_id = {"X-Request-ID": {"schema": {"type": "string"}}}
    refusals = {
        code: {"description": text, "headers": request_id, "content": shape} for code, text in _REFUSALS.items()
    }
    found = {**operation, "responses": {**operation["responses"], **refusals}}
    return found if may == "open" else {**found, "security": _SECURITY[may]}
