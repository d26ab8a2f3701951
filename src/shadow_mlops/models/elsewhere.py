"""Work on a stranger's model in a process of its own: it may hang, crash, eat memory or leave threads behind there."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from shadow_mlops.domain.errors import ModelRefusedError, ShadowError

_REFUSED = "refused: "
_PR_SET_PDEATHSIG = 1


def run_elsewhere(module: str, arguments: Sequence[str], *, what: str, seconds: float) -> None:
    """Run ``python -m module arguments``, which ends with :func:`report`, and wait for it.

    Parameters
    ----------
    what
        What it does, for the error's sentence: ``loading DIRECTORY``.
    seconds
        After which it is killed.

    Raises
    ------
    ModelRefusedError
        With the reason that it gave, or because it died or took too long.
    """
    command = [sys.executable, "-m", module, *arguments, str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ModelRefusedError(f"{what} takes more than {seconds:g} s") from None
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.splitlines() if line.strip()]
    given = [line.removeprefix(_REFUSED) for line in said if line.startswith(_REFUSED)]
    if given:
        raise ModelRefusedError(given[-1])
    ended = f"{what} ended with {done.returncode}"
    raise ModelRefusedError(f"{ended}: {said[-1]}" if said else ended)


def report(work: Callable[[], object]) -> None:
    """Do the work as the whole of a process that :func:`run_elsewhere` started, and end the process.

    Its last argument is the process id of the parent, with which it ends, even while the model hangs in C code.
    """
    _bind_to_parent(int(sys.argv[-1]))
    code = 0
    try:
        work()
    except ShadowError as error:
        sys.stderr.write(f"\n{_REFUSED}{' '.join(str(error).split())}\n")
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads that a model has started must not keep this process: its answer is all that was wanted


def _bind_to_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
