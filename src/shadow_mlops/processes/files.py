"""Small files by which the processes of a host tell about themselves: replaced whole, read whenever."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

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
