"""``POST /events``: predictions that were answered elsewhere, from a request's body into the log."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.console.checking import Checker
from shadow_mlops.console.cloudevents import InferenceEvent, Pair, Pairing, is_cloudevent, read_events
from shadow_mlops.console.inference import reported
from shadow_mlops.console.reported import ReportedEvent
from shadow_mlops.console.writing import EventWriter
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import (
    BodyTooLargeError,
    ConflictError,
    ContentTypeError,
    DeploymentError,
    InvalidFieldsError,
    MalformedBodyError,
    Problem,
    RequestError,
)
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import EventLog
from shadow_mlops.telemetry.metrics import Metrics

WRITER = "console"
NDJSON = "application/x-ndjson"
_FIELDS = ReportedEvent.__struct_fields__


class Intake:
    """Takes events as JSON, as lines of JSON, and as CloudEvents of KServe's logger.

    Parameters
    ----------
    event_log
        Whose events the accepted ones are.
    data_dir
        Folder of ``serving.json`` and of the prepared models: they say which features and outputs there are.
    most_rows
        Most events in one body, or completed by one.
    """

    def __init__(
        self,
        event_log: EventLog,
        data_dir: Path,
        deployment: Deployment,
        *,
        metrics: Metrics,
        most_rows: int = 1000,
        pairing: Pairing | None = None,
    ) -> None:
        self._checker = Checker(data_dir, deployment)
        self._accepted = metrics.events_accepted
        self._most_rows = most_rows
        self._pairing = pairing or Pairing(
            given_up=lambda half, reason, count: metrics.unpaired_halves.labels(half, reason).inc(count)
        )
        self._lock = threading.Lock()
        self._writer = EventWriter(event_log, writer=WRITER, each_beat=self._sweep)

    def accept(self, headers: Mapping[str, str], body: bytes) -> tuple[int, object]:
        """Check and log the events of a request: all of them, or none.

        Parameters
        ----------
        headers
            Names in lower case.

        Returns
        -------
        tuple
            202 and ``{"accepted": n}``; of CloudEvents also ``waiting``, those kept until the other half comes.

        Raises
        ------
        RequestError
            The body is wrong; the message says how.
        UnavailableError
            No model is known yet, or the log cannot be written: send the events again.
        ConflictError
            Deployment and champion do not fit each other.
        """
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if is_cloudevent(headers, kind):
                return 202, self._take_inference(read_events(headers, kind, body))
            events = parse_events(read_json(kind, body), self._most_rows)
            if events:
                self._writer.append(self._checker.batches(events))
        except DeploymentError as error:
            raise ConflictError(str(error)) from None
        self._accepted.labels("json").inc(len(events))
        return 202, {"accepted": len(events)}

    def close(self) -> None:
        """Seal what was written."""
        self._writer.close()

    def _take_inference(self, found: Sequence[InferenceEvent]) -> dict[str, int]:
        self._writer.start()  # which also gives up what waits too long
        with self._lock:
            pairs, alone = self._pairing.match(found)
            batches = self._batches_of(pairs)
            if batches:
                self._writer.append(batches)
            self._pairing.settle(pairs, alone)
        accepted = sum(len(batch) for batch in batches)
        self._accepted.labels("cloudevents").inc(accepted)
        return {"accepted": accepted, "waiting": len(alone)}

    def _batches_of(self, pairs: Sequence[Pair]) -> list[EventBatch]:
        """What pairs are in the log; a wrong one is forgotten: sending it again would help nobody."""
        if not pairs:
            return []
        champion = self._checker.accepted.champion
        events: list[ReportedEvent] = []
        owners: list[Pair] = []
        for pair in pairs:
            try:
                own = reported(pair, champion, most_rows=self._most_rows)
            except RequestError:
                self._pairing.settle([pair], [])
                raise
            events += own
            owners += [pair] * len(own)
            if len(events) > self._most_rows:
                raise BodyTooLargeError(
                    f"the CloudEvents of the body complete more than {self._most_rows} predictions: send fewer at once"
                )
        try:
            return self._checker.batches(events) if events else []
        except InvalidFieldsError as error:
            wrong = {each.index for each in error.problems if each.index is not None}
            self._pairing.settle([owners[index] for index in wrong], [])
            raise

    def _sweep(self) -> None:
        if self._lock.acquire(blocking=False):  # the beat must not wait for events that are being checked
            try:
                self._pairing.sweep()
            finally:
                self._lock.release()


def read_json(kind: str, body: bytes) -> list[Any]:
    """The events of a body: one, a list, or ``{"events": [...]}``; or a line of JSON each.

    Raises
    ------
    ContentTypeError
        If it is declared as something else.
    MalformedBodyError
        If it is not JSON.
    """
    try:
        if kind == NDJSON:
            return [msgspec.json.decode(line) for line in body.splitlines() if line.strip()]
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise ContentTypeError(f"send Content-Type: application/json, not {kind[:100] or 'nothing'}")
        content = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from None
    if isinstance(content, dict) and "events" in content:
        if unknown := [name for name in content if name != "events"]:
            raise InvalidFieldsError("the body is not understood", [Problem(unknown[0][:200], "unknown field")])
        content = content["events"]
        if not isinstance(content, list):
            raise InvalidFieldsError("the body is not understood", [Problem("events", "must be a list of events")])
    return content if isinstance(content, list) else [content]


def parse_events(content: Sequence[Any], most_rows: int) -> list[ReportedEvent]:
    """Events of the right form.

    Raises
    ------
    BodyTooLargeError
        If there are more than ``most_rows``.
    InvalidFieldsError
        Naming what is wrong with each event.
    """
    if len(content) > most_rows:
        raise BodyTooLargeError(f"the body has {len(content)} events, at most {most_rows} are allowed")
    events: list[ReportedEvent] = []
    problems: list[Problem] = []
    for index, each in enumerate(content):
        unknown = [name for name in each if name not in _FIELDS] if isinstance(each, dict) else []
        problems += [Problem(name[:200], _unknown(name), index) for name in unknown]
        if unknown:
            continue
        try:
            events.append(msgspec.convert(each, ReportedEvent))
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `")
            problems.append(Problem(path.rstrip("`").removeprefix("$."), message, index))
    if problems:
        raise InvalidFieldsError("the events are invalid; none of them was accepted", problems)
    return events


def _unknown(name: str) -> str:
    close = get_close_matches(name, _FIELDS, n=1, cutoff=0.6)
    return f"unknown field; did you mean `{close[0]}`?" if close else "unknown field"
