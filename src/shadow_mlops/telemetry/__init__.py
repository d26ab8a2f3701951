"""Logs and metrics: what a process tells about itself."""
