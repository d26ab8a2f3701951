"""Gates, the entities that they have spent, canary steps, and the evidence of decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "shadow_gates",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("champion", sa.String(200), nullable=False),
        sa.Column("challenger", sa.String(200), nullable=False),
        sa.Column("spec_hash", sa.String(64), nullable=False),
        sa.Column("challengers", sa.Integer, nullable=False),
        sa.Column("first_cohort", sa.BigInteger, nullable=False),
        sa.Column("next_cohort", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decision", sa.String(20), nullable=False),
        sa.Column("evidence", sa.String(16)),
        sa.UniqueConstraint("model", "name", "champion", "challenger", "spec_hash", name="shadow_gates_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "shadow_gate_spent",
        sa.Column("gate", sa.Integer, sa.ForeignKey("shadow_gates.id"), primary_key=True),
        sa.Column("purpose", sa.String(10), primary_key=True),
        sa.Column("entity", sa.LargeBinary(16), primary_key=True),
    )
    op.create_table(
        "shadow_canary_steps",
        sa.Column("rollout", sa.String(64), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("next_cohort", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "shadow_evidence",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(16), nullable=False, unique=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False, unique=True),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("shadow_evidence")
    op.drop_table("shadow_canary_steps")
    op.drop_table("shadow_gate_spent")
    op.drop_table("shadow_gates")
