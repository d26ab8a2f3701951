"""The JSON Schema of the deployment file, for editors and for other languages."""

from __future__ import annotations

from typing import Any

import msgspec

from shadow_mlops.domain.deployment import Deployment, Duration, Size


def _custom(kind: type) -> dict[str, Any]:
    if kind is Duration:
        return {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\d+(\.\d+)?[smhdw]$"},
            ]
        }
    if kind is Size:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGT]i?)?B?$"},
            ]
        }
    message = f"no JSON Schema for {kind!r}"
    raise TypeError(message)


def deployment_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the deployment file."""
    schema = msgspec.json.schema(Deployment, schema_hook=_custom)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Shadow MLOps deployment",
        **schema,
    }
