"""Drift episodes, and the alerts that are to be delivered about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "shadow_drift_episodes",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("deployment", sa.String(200), nullable=False),
        sa.Column("feature", sa.Text, nullable=False),
        sa.Column("reference", sa.String(200), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("opened_bucket", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.String(32), nullable=False),
        sa.Column("closed_bucket", sa.BigInteger),
        sa.Column("closed_at", sa.String(32)),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("shadow_drift_episodes_deployment", "shadow_drift_episodes", ["deployment", "opened_bucket"])
    op.create_table(
        "shadow_alert_outbox",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.UniqueConstraint("key", "kind", name="shadow_alert_outbox_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("shadow_alert_outbox_state", "shadow_alert_outbox", ["state", "id"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("shadow_alert_outbox")
    op.drop_table("shadow_drift_episodes")
