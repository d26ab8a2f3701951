"""Stepping back: a challenger runs only when nobody else wants the processor."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def run_when_idle() -> str:
    """Put this process, and the children that it starts from now on, into the idle scheduling class.

    Returns
    -------
    str
        ``SCHED_IDLE``, or ``nice 19`` where that class is not allowed or not known.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)
        return "nice 19"
    _weigh_session_down()
    return "SCHED_IDLE"


def _weigh_session_down() -> None:
    """Lower the session too: where the kernel groups tasks by session, a class counts only within its own."""
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # the kernel does not group by session, or not here: then the class is enough
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")
