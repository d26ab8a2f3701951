"""What must be kept in transactions: one SQL database, whose tables Alembic makes and changes."""

from shadow_mlops.state.database import open_state, upgrade

__all__ = ["open_state", "upgrade"]
