"""Rooms take plain arguments."""

from shadow_mlops.processes import settings
