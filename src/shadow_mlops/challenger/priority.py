"""Stepping back: a challenger runs only when nobody else wants the processor."""

from __future__ import annotations

import os


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
    return "SCHED_IDLE"
