"""Retraining: what watches the checks of each deployment, and the triggers that came of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "shadow_retrain_watch",
        sa.Column("deployment", sa.String(200), primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "shadow_retrain_triggers",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(64), nullable=False, unique=True),
        sa.Column("deployment", sa.String(200), nullable=False),
        sa.Column("cause", sa.String(20), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("fired_at", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("suppressed", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("began_at", sa.String(32)),
        sa.Column("ended_at", sa.String(32)),
        sa.Column("audit", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("shadow_retrain_triggers_state", "shadow_retrain_triggers", ["deployment", "state", "id"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("shadow_retrain_triggers")
    op.drop_table("shadow_retrain_watch")
