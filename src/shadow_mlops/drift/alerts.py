"""Delivery of alerts: from the outbox to whoever is to be told, at least once, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import httpx2
import msgspec
import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import StateError, UnavailableError
from shadow_mlops.rounds import LOOK_SECONDS, Rounds
from shadow_mlops.state import outbox
from shadow_mlops.state.outbox import Alert

log = structlog.get_logger()

LOG = "log"
WEBHOOK = "webhook"
SLACK = "slack"
MOST_ATTEMPTS = 20
"""With the pauses between them about three hours: a night's outage of a receiver outlasts it, a restart does not."""
_TIMEOUT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 900.0


class Receiver(Protocol):
    """Somebody who is told."""

    def deliver(self, alert: Alert) -> None:
        """Hand a message over.

        Raises
        ------
        UnavailableError
            It was not taken, or nobody knows. The text does not name an address: that may be a secret.
        """


class LogReceiver:
    """The monitor's own log."""

    def deliver(self, alert: Alert) -> None:
        """Write one line."""
        told = {name: value for name, value in alert.payload.items() if name not in {"event", "text"}}
        log.warning(str(alert.payload.get("event", alert.key)), alert=alert.key, **told)


class HttpReceiver:
    """An address that takes JSON by POST: any 2xx means that it did.

    Parameters
    ----------
    url
        A secret: it is never told, not even in an error.
    only_text
        Send ``{"text": …}`` alone, as Slack and what imitates it want.
    timeout
        Seconds for each step of a request: to connect, to send, to wait.
    """

    def __init__(self, url: str, *, only_text: bool = False, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._url = url
        self._only_text = only_text
        self._timeout = timeout

    def deliver(self, alert: Alert) -> None:
        """Post a message. Redirects are refused, and of the answer only the status is read.

        Raises
        ------
        UnavailableError
            No answer, or not a 2xx.
        """
        content = {"text": alert.payload["text"]} if self._only_text else alert.payload
        post_json(self._url, content, headers={"Idempotency-Key": alert.key}, timeout=self._timeout)


def post_json(url: str, content: object, *, headers: Mapping[str, str], timeout: float = _TIMEOUT_SECONDS) -> None:
    """Post JSON to an address that may be a secret. Redirects are refused, and of the answer only the status is read.

    Parameters
    ----------
    headers
        Beside those that every message has.
    timeout
        Seconds for each step: to connect, to send, to wait.

    Raises
    ------
    UnavailableError
        No answer, or not a 2xx. The text names neither address nor headers.
    """
    sent = {"Content-Type": "application/json", "User-Agent": "shadow-mlops", **headers}
    try:
        with (
            httpx2.Client(timeout=timeout, follow_redirects=False) as client,
            client.stream("POST", url, content=msgspec.json.encode(content), headers=sent) as answer,
        ):
            status = answer.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UnavailableError(f"no answer ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise UnavailableError(f"answered {status}")


class Courier(Rounds):
    """Delivers what the outbox holds until it is told to end.

    Parameters
    ----------
    receivers
        Kind -> who takes messages of that kind.
    told
        Called with kind and result (``delivered``, ``retried``, ``failed``) after each attempt, in the thread.
    clock
        Monotonic seconds.
    """

    name = "alerts"
    complaint = "alerts cannot be delivered"
    wrong = (StateError,)

    def __init__(
        self,
        state: Engine,
        receivers: Mapping[str, Receiver],
        *,
        told: Callable[[str, str], None] = lambda _kind, _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._state = state
        self._receivers = dict(receivers)
        self._told = told
        self._clock = clock
        self._due: dict[int, float] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of receivers that there are."""
        return tuple(self._receivers)

    def round(self) -> float:
        """Try whatever is due.

        Returns
        -------
        float
            Seconds until something is due again, at most.
        """
        waiting = outbox.pending(self._state)
        self._due = {alert.id: self._due.get(alert.id, 0.0) for alert in waiting}
        for alert in waiting:
            if self._ended.is_set():
                break
            if self._due[alert.id] <= self._clock():
                self._try(alert)
        return min([max(due - self._clock(), 0.0) for due in self._due.values()], default=LOOK_SECONDS)

    def _try(self, alert: Alert) -> None:
        receiver = self._receivers.get(alert.kind)
        try:
            if receiver is None:
                raise UnavailableError(f"no receiver of kind {alert.kind} is set any more")  # noqa: TRY301 - as others
            receiver.deliver(alert)
        except UnavailableError as error:
            self._failed(alert, str(error), final=receiver is None or alert.attempts + 1 >= MOST_ATTEMPTS)
            return
        outbox.note(self._state, alert.id, state="delivered")
        self._due.pop(alert.id)
        self._told(alert.kind, "delivered")

    def _failed(self, alert: Alert, problem: str, *, final: bool) -> None:
        outbox.note(self._state, alert.id, state="failed" if final else "pending", problem=problem)
        self._told(alert.kind, "failed" if final else "retried")
        attempts = alert.attempts + 1
        if final:
            self._due.pop(alert.id)
            log.error("alert was not delivered", kind=alert.kind, alert=alert.key, attempts=attempts, problem=problem)
            return
        self._due[alert.id] = self._clock() + min(_FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1), _LONGEST_PAUSE_SECONDS)
        if attempts == 1:
            log.warning("alert is delivered later", kind=alert.kind, alert=alert.key, problem=problem)
