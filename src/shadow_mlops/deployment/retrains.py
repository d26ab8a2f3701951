"""What no single key of ``retrain`` shows: actions beside each other, and what they need to be carried out at all."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from shadow_mlops.deployment.gates import Refuse
from shadow_mlops.domain.deployment import Deployment

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+")


def check_retrain(deployment: Deployment, refuse: Refuse) -> None:
    """Refuse two actions, and one that could never be carried out."""
    action, retrain = deployment.retrain.action, deployment.retrain
    given = list(action.given)
    if len(given) > 1:
        refuse(
            f"`retrain.action` has {' and '.join(given)}: name one, a trigger runs one thing",
            "retrain",
            "action",
            given[1],
        )
    if action.command is not None and not (action.command and action.command[0]):
        refuse("`retrain.action.command` is empty: name a program, then its arguments", "retrain", "action", "command")
    if action.webhook is not None and not _is_address(action.webhook):
        refuse(
            "`retrain.action.webhook` is no address that begins with http:// or https://",
            "retrain",
            "action",
            "webhook",
        )
    if action.github is not None and _REPOSITORY.fullmatch(action.github) is None:
        refuse(f"`retrain.action.github` is OWNER/REPO, not {action.github!r}", "retrain", "action", "github")
    if retrain.timeout <= 0:
        refuse("`retrain.timeout` is 0: every command would be killed at once", "retrain", "timeout")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False
