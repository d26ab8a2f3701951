"""What a trigger sets going: the seam, and the two kinds that are somebody else's to run (webhook, GitHub)."""

from __future__ import annotations

import threading
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

import msgspec

from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.drift.alerts import post_json
from shadow_mlops.state.triggers import Trigger

Ending: TypeAlias = Literal["done", "refused", "failed"]
GITHUB_API = "https://api.github.com"
EVENT_TYPE = "shadow-retrain"
"""Of the ``repository_dispatch``: a workflow names it under ``on``."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended."""

    ending: Ending
    problem: str = ""
    again: bool = True
    """Whether another attempt may end otherwise; of a failed one."""
    details: dict[str, Any] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How often an action is tried."""

    attempts: int
    first_pause: float
    """Seconds; doubled after each attempt."""
    longest_pause: float


class Action(Protocol):
    """One way to retrain.

    ``kind`` is its key in the deployment file.
    """

    kind: str
    limits: Limits

    @property
    def shown(self) -> str:
        """What it would do, for people; no secret is in it."""

    def run(self, trigger: Trigger, ended: threading.Event) -> Result | None:
        """Carry out the attempt that the trigger is in, or go on with it if that was begun before.

        Parameters
        ----------
        ended
            Set when the process is to end.

        Returns
        -------
        Result or None
            None: the process is to end, and what was begun goes on without it.
        """


_HTTP = Limits(attempts=20, first_pause=1.0, longest_pause=900.0)  # about three hours, as for alerts


class WebhookAction:
    """Tells an address, which takes JSON by POST and knows a repeated trigger by its ``Idempotency-Key``.

    Parameters
    ----------
    url
        Its path may be a secret, and is never told.
    """

    kind = "webhook"

    def __init__(self, url: str, *, limits: Limits = _HTTP) -> None:
        self._url = url
        self.limits = limits

    @property
    def shown(self) -> str:
        """Without the path: it may be a secret."""
        return f"POST to {_host(self._url)}"

    def run(self, trigger: Trigger, ended: threading.Event) -> Result | None:  # noqa: ARG002 - it does not take long
        """See :class:`Action`."""
        return _posted(self._url, {"event": "retrain", **_told(trigger)}, {"Idempotency-Key": trigger.key})


class GithubAction:
    """Sends a ``repository_dispatch`` event, on which a workflow of the repository trains.

    Parameters
    ----------
    repository
        ``OWNER/REPO``.
    token
        A secret: it is in the header of the request, and nowhere else.
    """

    kind = "github"

    def __init__(self, repository: str, token: str, *, api: str = GITHUB_API, limits: Limits = _HTTP) -> None:
        self._url = f"{api.rstrip('/')}/repos/{repository}/dispatches"
        self._repository = repository
        self._token = token
        self.limits = limits

    @property
    def shown(self) -> str:
        """Repository and event."""
        return f"repository_dispatch {EVENT_TYPE} to {self._repository} at {_host(self._url)}"

    def run(self, trigger: Trigger, ended: threading.Event) -> Result | None:  # noqa: ARG002 - it does not take long
        """See :class:`Action`."""
        if not self._token:
            return Result(ending="failed", problem="GITHUB_TOKEN is not set", again=False)
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._token}",
            "X-GitHub-Api-Version": "2022-11-28",
            "Idempotency-Key": trigger.key,  # GitHub takes no notice of it; a proxy or a test does
        }
        told = _told(trigger)
        payload = {name: told[name] for name in ("key", "reason", "deployment", "features")}
        return _posted(self._url, {"event_type": EVENT_TYPE, "client_payload": payload}, headers)


def _posted(url: str, content: object, headers: dict[str, str]) -> Result:
    try:
        post_json(url, content, headers=headers)
    except UnavailableError as error:
        return Result(ending="failed", problem=f"{_host(url)}: {error}")
    return Result(ending="done")


def _told(trigger: Trigger) -> dict[str, Any]:
    """The same in every attempt."""
    return {
        "key": trigger.key,
        "deployment": trigger.deployment,
        "reason": trigger.reason,
        "cause": trigger.cause,
        "who": trigger.who,
        "fired_at": trigger.fired_at,
        "version": trigger.details.get("version", ""),
        "features": trigger.details.get("features", []),
    }


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
