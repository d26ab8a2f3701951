"""Small files by which the processes of a host tell about themselves: replaced whole, read whenever."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from shadow_mlops.processes.settings import Settings

RATE_TABLE = "rate-limit.table"
"""Under ``run/``: made anew by each gateway parent, counted in by its workers."""


def write_word(path: Path, content: object) -> None:
    """Replace a JSON file so that a reader sees the old or the new one, never a part.

    A full disk must not take a process down with it: the old word then stays, and grows stale for all to see.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def gateway_url(settings: Settings) -> str:
    """Where the gateway of this data directory answers, as it last said; else the port of the settings."""
    try:
        word = msgspec.json.decode((settings.data_dir / "run" / "gateway.json").read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError):
        word = {}
    return f"http://127.0.0.1:{word.get('port', settings.api_port)}"
