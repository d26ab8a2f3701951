"""Files that are replaced whole and survive a loss of power."""

from __future__ import annotations

import os
from pathlib import Path


def replace_durably(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file so that whoever reads it, also after a crash or a loss of power, sees the old one or the new one.

    Parameters
    ----------
    mode
        Who may read it, before a byte of it is there; None: what the process's umask says.

    Raises
    ------
    OSError
        It is the old one still.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power.

    Raises
    ------
    OSError
        They may not.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
