"""The tables as the newest migration leaves them; a test holds both to each other."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

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
EPISODES = Table(
    "shadow_drift_episodes",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("deployment", String(200), nullable=False),
    Column("feature", Text, nullable=False),
    Column("reference", String(200), nullable=False),
    Column("version", String(200), nullable=False),
    Column("opened_bucket", BigInteger, nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("closed_bucket", BigInteger),  # null while it is open
    Column("closed_at", String(32)),
    Column("details", Text, nullable=False),  # JSON object
    Index("shadow_drift_episodes_deployment", "deployment", "opened_bucket"),
)
OUTBOX = Table(
    "shadow_alert_outbox",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(100), nullable=False),  # what receivers know a repeated delivery by
    Column("kind", String(20), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("problem", Text, nullable=False),  # of the last attempt; empty if there was none
    Column("payload", Text, nullable=False),  # JSON object
    UniqueConstraint("key", "kind", name="shadow_alert_outbox_key"),
    Index("shadow_alert_outbox_state", "state", "id"),
    sqlite_autoincrement=True,
)
GATES = Table(
    "shadow_gates",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(200), nullable=False),
    Column("name", String(200), nullable=False),  # of the challenger
    Column("champion", String(200), nullable=False),
    Column("challenger", String(200), nullable=False),
    Column("spec_hash", String(64), nullable=False),
    Column("challengers", Integer, nullable=False),  # by which alpha is divided
    Column("first_cohort", BigInteger, nullable=False),
    Column("next_cohort", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # JSON object
    Column("decision", String(20), nullable=False),
    Column("evidence", String(16)),  # of the decision; null while there is none
    UniqueConstraint("model", "name", "champion", "challenger", "spec_hash", name="shadow_gates_key"),
    sqlite_autoincrement=True,
)
GATE_SPENT = Table(
    "shadow_gate_spent",
    METADATA,
    Column("gate", Integer, ForeignKey("shadow_gates.id"), primary_key=True),
    Column("purpose", String(10), primary_key=True),
    Column("entity", LargeBinary(16), primary_key=True),  # hash
)
CANARY_STEPS = Table(
    "shadow_canary_steps",
    METADATA,
    Column("rollout", String(64), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("next_cohort", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # JSON object
)
EVIDENCE = Table(
    "shadow_evidence",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(16), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("previous", String(64), nullable=False, unique=True),  # a chain has no forks
    Column("record", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
RETRAIN_WATCH = Table(
    "shadow_retrain_watch",
    METADATA,
    Column("deployment", String(200), primary_key=True),
    Column("state", Text, nullable=False),  # JSON object
)
RETRAIN_TRIGGERS = Table(
    "shadow_retrain_triggers",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(64), nullable=False, unique=True),  # of the episode, or of a person's order
    Column("deployment", String(200), nullable=False),
    Column("cause", String(20), nullable=False),
    Column("who", String(200), nullable=False),
    Column("fired_at", String(32), nullable=False),  # drift: by the clock of the log
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON object
    Column("suppressed", Text, nullable=False),  # why it was held back at first; empty: it was not
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("problem", Text, nullable=False),  # of the last attempt; empty if there was none
    Column("began_at", String(32)),  # the last attempt
    Column("ended_at", String(32)),
    Column("audit", Integer),  # its entry in the audit trail
    Index("shadow_retrain_triggers_state", "deployment", "state", "id"),
    sqlite_autoincrement=True,
)
VERSION_TABLE = "shadow_schema_version"
