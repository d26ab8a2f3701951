"""CloudEvents as KServe's logger posts them: envelopes, and requests joined with their responses by id."""

from __future__ import annotations

import base64
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import msgspec
import structlog

from shadow_mlops.domain.errors import InvalidFieldsError, MalformedBodyError, Problem

log = structlog.get_logger()

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
_TYPE = "org.kubeflow.serving.inference."
Half: TypeAlias = Literal["request", "response"]
_LONGEST_ID = 200

MOST_HALVES = 20_000
MOST_BYTES = 32 * 2**20  # of bodies; decoded they take some ten times that
WAIT_SECONDS = 600.0  # KServe's logger posts both within seconds; its queue may hold them up while a sink is away
_REMEMBERED = 100_000  # ids of pairs: a logger that is not sure posts again


@dataclass(frozen=True, slots=True)
class InferenceEvent:
    """One half of an answered request."""

    id: str
    half: Half
    data: dict[str, Any]
    size: int
    """Bytes of the body that it came in."""
    time: datetime | None = None
    version: str = ""
    """Of the model, where the event has the extension attribute ``modelversion``."""


class Pair(NamedTuple):
    """Request and response of one id."""

    request: InferenceEvent
    response: InferenceEvent


class _Envelope(msgspec.Struct):
    """The attributes of a CloudEvent; further ones are extensions that nobody asks for."""

    id: str
    type: str
    specversion: str = "1.0"
    time: datetime | None = None
    modelversion: str = ""
    data: Any = None
    data_base64: str | None = None


def is_cloudevent(headers: Mapping[str, str], kind: str) -> bool:
    """Whether a request carries CloudEvents.

    Parameters
    ----------
    headers
        Names in lower case.
    kind
        Media type of the body.
    """
    return kind in {STRUCTURED, BATCHED} or "ce-type" in headers or "ce-id" in headers


def read_events(headers: Mapping[str, str], kind: str, body: bytes) -> list[InferenceEvent]:
    """The inference events in a request, in binary, structured or batched mode.

    Raises
    ------
    MalformedBodyError
        If the body is not JSON.
    InvalidFieldsError
        If it is no CloudEvent, or not of one of the two types.
    """
    if kind == BATCHED:
        several = _decoded(body)
        if not isinstance(several, list):
            raise InvalidFieldsError("a batch of CloudEvents is a JSON array")
        size = len(body) // max(len(several), 1)
        return [_structured(each, size, index) for index, each in enumerate(several)]
    if kind == STRUCTURED:
        return [_structured(_decoded(body), len(body), None)]
    attributes = {
        name: unquote(headers[f"ce-{name}"])
        for name in ("id", "type", "specversion", "time", "modelversion")
        if f"ce-{name}" in headers
    }
    return [_structured({**attributes, "data": _decoded(body)}, len(body), None)]


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from None


def _structured(event: Any, size: int, index: int | None) -> InferenceEvent:
    def refused(field: str, problem: str) -> InvalidFieldsError:
        return InvalidFieldsError("the CloudEvent is not understood", [Problem(field, problem, index)])

    try:
        envelope = msgspec.convert(event, _Envelope)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise refused(path.rstrip("`").removeprefix("$."), message) from None
    half = envelope.type.removeprefix(_TYPE)
    if half not in {"request", "response"}:
        raise refused("type", f"must be {_TYPE}request or {_TYPE}response, not {envelope.type[:100]!r}")
    if not 0 < len(envelope.id) <= _LONGEST_ID:
        raise refused("id", f"must have 1 to {_LONGEST_ID} characters")
    data = envelope.data
    if envelope.data_base64 is not None:
        try:
            data = _decoded(base64.b64decode(envelope.data_base64, validate=True))
        except ValueError as error:  # binascii.Error, and what letters outside of ASCII raise
            raise refused("data_base64", str(error)) from None
    if isinstance(data, str):  # JSON in a text, as some sinks write it
        data = _decoded(data.encode("utf-8", "surrogatepass"))
    if not isinstance(data, dict):
        raise refused("data", "must be a JSON object")
    return InferenceEvent(
        id=envelope.id,
        half="request" if half == "request" else "response",
        data=data,
        size=size,
        time=envelope.time if envelope.time is not None and envelope.time.tzinfo is not None else None,
        version=envelope.modelversion,
    )


@dataclass(slots=True)
class _Waiting:
    event: InferenceEvent
    since: float


class Pairing:
    """Halves that wait for the other one: whichever comes first, bounded in number, bytes and time.

    Parameters
    ----------
    given_up
        Called with half, reason (``expired``, ``crowded_out``, ``repeated``) and how many.
    clock
        Monotonic seconds.

    Examples
    --------
    >>> pairing = Pairing(given_up=print)
    >>> request, response = (InferenceEvent("a", half, {}, 10) for half in ("request", "response"))
    >>> pairs, alone = pairing.match([response])
    >>> pairing.settle(pairs, alone)
    >>> [pair.request.id for pair in pairing.match([request])[0]]
    ['a']
    """

    def __init__(
        self,
        *,
        given_up: Callable[[Half, str, int], object],
        most_halves: int = MOST_HALVES,
        most_bytes: int = MOST_BYTES,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given_up = given_up
        self._most_halves = most_halves
        self._most_bytes = most_bytes
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._bytes = 0
        self._settled: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def match(self, events: Sequence[InferenceEvent]) -> tuple[list[Pair], list[InferenceEvent]]:
        """Find the pairs that events complete; nothing is changed before :meth:`settle`.

        Returns
        -------
        pairs
            In the order in which they are completed.
        alone
            Events whose other half is not known.
        """
        pairs: list[Pair] = []
        alone: dict[str, InferenceEvent] = {}
        paired: set[str] = set()
        repeated: Counter[Half] = Counter()
        for event in events:
            held = self._waiting.get(event.id)
            other = alone.get(event.id) or (held.event if held is not None else None)
            if event.id in self._settled or event.id in paired or (other is not None and other.half == event.half):
                repeated[event.half] += 1
            elif other is None:
                alone[event.id] = event
            else:
                alone.pop(event.id, None)
                paired.add(event.id)
                pairs.append(Pair(event, other) if event.half == "request" else Pair(other, event))
        for half, count in repeated.items():
            self._given_up(half, "repeated", count)
        return pairs, list(alone.values())

    def settle(self, pairs: Sequence[Pair], alone: Sequence[InferenceEvent]) -> None:
        """The pairs are dealt with; the others wait."""
        for pair in pairs:
            self._remove(pair.request.id)
            self._settled[pair.request.id] = None
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)
        for event in alone:
            self._waiting[event.id] = _Waiting(event, self._clock())
            self._bytes += event.size
        self.sweep()

    def sweep(self) -> None:
        """Give up what has waited too long, or is too much."""
        lost: Counter[tuple[Half, str]] = Counter()
        oldest = self._clock() - self._wait_seconds
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.since < oldest:
                reason = "expired"
            elif len(self._waiting) > self._most_halves or self._bytes > self._most_bytes:
                reason = "crowded_out"
            else:
                break
            self._remove(first.event.id)
            lost[first.event.half, reason] += 1
        for (half, reason), count in lost.items():
            log.warning("inference events without their other half are given up", half=half, reason=reason, count=count)
            self._given_up(half, reason, count)

    def _remove(self, key: str) -> None:
        found = self._waiting.pop(key, None)
        if found is not None:
            self._bytes -= found.event.size
