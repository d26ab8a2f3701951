"""Whether processes of this deployment may run MLflow pyfuncs, and with which interpreter."""

from __future__ import annotations

import os

from shadow_mlops.models.permission import environment
from shadow_mlops.processes.settings import Settings


def pyfunc_environment(settings: Settings) -> dict[str, str]:
    """Variables for a process that may load models; an inherited permission does not outlive the setting."""
    return environment(settings.pyfunc_python, allowed=settings.allow_pickle)


def permit_pyfuncs(settings: Settings) -> None:
    """Say it to this process and those that it starts: for commands that no supervisor has started."""
    os.environ.update(pyfunc_environment(settings))
