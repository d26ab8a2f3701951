"""Rooms take plain arguments."""

from shadow_mlops.processes.settings import Settings
