"""Orders from the command line: who gives them, and what carries them out."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Any

from shadow_mlops.deployment import load_deployment
from shadow_mlops.processes.settings import Settings

if TYPE_CHECKING:
    from shadow_mlops.rollout import Rollout


def rollout_of(settings: Settings) -> Rollout:
    """Promotion, rollback and canaries of the deployment; the log of the process is for errors only."""
    from shadow_mlops.models.registry import Registry  # noqa: PLC0415 - seconds that only an order pays
    from shadow_mlops.processes.rollout import open_rollout, state_of  # noqa: PLC0415
    from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs("models", level="ERROR")  # standard output is the answer's, and an error is told once
    registry = Registry(settings.tracking_uri, settings.artifact_root)
    return open_rollout(settings, load_deployment(settings.deployment_file), registry, state_of(settings))


def origin() -> dict[str, Any]:
    """Who gives the order and how, for the audit trail."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id that no account has
        user = str(os.getuid())
    return {"who": f"{user}@{socket.gethostname()}", "details": {"via": "cli"}}
