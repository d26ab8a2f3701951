"""Which class a label's text names, by the schema of the event that it is for."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from shadow_mlops.domain.events import EventSchema

PLAIN_MACRO = """
CREATE OR REPLACE TEMP MACRO plain_label(given) AS
CASE lower(given) WHEN 'true' THEN '1' WHEN 'false' THEN '0'
ELSE CASE WHEN ends_with(given, '.0') THEN left(given, length(given) - 2) ELSE given END END
"""
"""The same as :func:`plain_label`, for DuckDB."""

_CLASSES = pa.schema([("schema", pa.string()), ("given", pa.string()), ("class", pa.string())])
_SCHEMAS = pa.schema(
    [("schema", pa.string()), ("task", pa.string()), ("positive", pa.string()), ("outputs", pa.list_(pa.string()))]
)


def plain_label(given: str) -> str:
    """A label without its writer's habits: ``true`` and ``1.0`` are ``1``.

    >>> [plain_label(text) for text in ("True", "0.0", "churned")]
    ['1', '0', 'churned']
    """
    return {"true": "1", "false": "0"}.get(given.lower(), given.removesuffix(".0"))


def class_names(schema: EventSchema) -> dict[str, str]:
    """Texts of labels, plain or exactly as a class is called, and the class that each names.

    In a binary task of which no class is called 0 or 1, these mean the other class and the positive one.

    >>> schema = EventSchema(
    ...     deployment="d", task="binary", model="m", version="1", registry_version="1",
    ...     numbers=(), strings=(), outputs=("No", "Yes"), positive="Yes",
    ... )  # fmt: skip
    >>> class_names(schema)
    {'No': 'No', 'Yes': 'Yes', '1': 'Yes', '0': 'No'}
    """
    if schema.task == "regression":
        return {}
    names = {name: name for name in schema.outputs}
    for name in schema.outputs:
        names.setdefault(plain_label(name), name)
    others = [name for name in schema.outputs if name != schema.positive]
    if schema.task == "binary" and len(others) == 1 and names.keys().isdisjoint({"0", "1"}):
        names |= {"1": schema.positive, "0": others[0]}
    return names


def class_table(schemas: Mapping[str, EventSchema]) -> pa.Table:
    """Columns schema (hash), given, class: :func:`class_names` of every schema."""
    rows = [
        {"schema": key, "given": given, "class": name}
        for key, schema in schemas.items()
        for given, name in class_names(schema).items()
    ]
    return pa.Table.from_pylist(rows, _CLASSES)


def schema_table(schemas: Mapping[str, EventSchema]) -> pa.Table:
    """Columns schema (hash), task, positive, outputs."""
    rows = [
        {"schema": key, "task": schema.task, "positive": schema.positive, "outputs": schema.outputs}
        for key, schema in schemas.items()
    ]
    return pa.Table.from_pylist(rows, _SCHEMAS)
