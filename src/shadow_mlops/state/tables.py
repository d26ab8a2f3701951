"""The tables as the newest migration leaves them; a test holds both to each other."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()
AUDIT = Table(
    "shadow_audit",  # the prefix lets the tables live in a database that has others, such as the registry's
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),  # UTC, RFC 3339 with microseconds: sorts as it reads
    Column("who", String(200), nullable=False),
    Column("action", String(50), nullable=False),
    Column("model", String(200), nullable=False),
    Column("from_version", String(200)),
    Column("to_version", String(200)),
    Column("reason", Text, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("details", Text, nullable=False),  # JSON object
    Index("shadow_audit_model", "model", "id"),
    sqlite_autoincrement=True,  # the number of an entry is never given again
)
VERSION_TABLE = "shadow_schema_version"
