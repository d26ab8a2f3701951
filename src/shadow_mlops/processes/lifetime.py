"""How a background process is the only one of its name, and when it ends."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from shadow_mlops.domain.errors import ConflictError


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock for as long as the block runs; the kernel lets it go however the process ends.

    Parameters
    ----------
    path
        Lock file; it stays behind, so that no two processes ever lock different files of one name.
    what
        Subject of the error's sentence.

    Raises
    ------
    ConflictError
        If another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConflictError(f"{what} is already running (process {holder}, lock {path})") from None
        with suppress(OSError):  # who holds it is a courtesy; a full disk must keep nobody from starting
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Lifetime:
    """Notices when the process should end: SIGTERM, SIGINT, or the end of the parent that started it.

    Parameters
    ----------
    parent
        Process id of the supervisor; None for a process that a person started.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._parent = parent
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def ending(self) -> bool:
        """True once the process should end."""
        return self._asked or (self._parent is not None and os.getppid() != self._parent)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
