"""The facts of the log: what was predicted, what shadows said, what really happened."""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from typing import Literal, TypeAlias

import msgspec

from shadow_mlops.domain.models import Task

Stream: TypeAlias = str
EVENTS: Stream = "events"
OUTCOMES: Stream = "outcomes"
RESULTS_PREFIX = "results/"
REPLAYS_PREFIX = "replays/"
_STREAM_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-")
_LONGEST_NAME = 200  # a file name has at most 255 bytes


def results_stream(challenger: str) -> Stream:
    """Stream into which the challenger of that name writes.

    >>> results_stream("challenger")
    'results/challenger'
    """
    return RESULTS_PREFIX + challenger


def replays_stream(version: str) -> Stream:
    """Stream into which a replay with that version writes; another version has another stream.

    >>> replays_stream("3.0.0-beta"), replays_stream("1/2 ü")
    ('replays/3.0.0-beta', 'replays/1_2f2_20_c3_bc')
    """
    data = version.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if chr(byte) in _STREAM_LETTERS else f"_{byte:02x}" for byte in data)
    if name.startswith((".", "-")):
        name = f"_{data[0]:02x}{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}__{hashlib.sha256(data).hexdigest()[:32]}"
    return REPLAYS_PREFIX + (name or "_")


REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
"""What a caller's ``X-Request-ID`` must match in full to be taken over."""


def event_id(segment: int, sequence: int) -> str:
    """Text of an event's id: the segment it was appended to and its row in it.

    >>> event_id(255, 3)
    '00000000000000ff00000003'
    """
    return f"{segment:016x}{sequence:08x}"


def parse_event_id(text: str) -> tuple[int, int]:
    """Segment and row of an event id.

    Raises
    ------
    ValueError
        If the text is not 24 hexadecimal digits.

    >>> parse_event_id("00000000000000ff00000003")
    (255, 3)
    """
    if len(text) != 24:
        raise ValueError(f"an event id has 24 hexadecimal digits, not {text!r}")
    return int(text[:16], 16), int(text[16:], 16)


class Origin(IntEnum):
    """Where the value of a feature came from."""

    REQUEST = 0
    STORE = 1
    DEFAULT = 2
    MISSING = 3
    FALLBACK = 4
    """The default (or a missing value) because the store could not be asked."""
    ABSENT = 5
    """The default (or a missing value), and nobody has looked in the store yet: only a challenger takes the feature."""


NO_AGE = 2**32 - 1
"""Stands where a value has no age: it does not come from a store."""


class Status(IntEnum):
    """What became of one event at one challenger."""

    PAIRED = 0
    TIMED_OUT = 1
    ERRORED = 2
    UNSAMPLED = 3


class EventSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of an event frame mean, and which model answered."""

    deployment: str
    task: Task
    model: str
    version: str
    registry_version: str
    numbers: tuple[str, ...]
    strings: tuple[str, ...]
    outputs: tuple[str, ...]
    """Score columns: class labels, or ``("value",)``."""
    positive: str = ""
    threshold: float = 0.5
    role: Literal["champion", "challenger"] = "champion"
    """Role of the model that answered; ``challenger`` in a canary step."""


class ResultSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Who scored the rows of a result frame."""

    deployment: str
    challenger: str
    model: str
    version: str
    registry_version: str
    outputs: tuple[str, ...]
    swapped: bool = False
    """True: the challenger had answered, in a canary step, and this is the champion, which shadowed it."""


class OutcomeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome frames have one shape; the schema names their deployment."""

    deployment: str


class Span(msgspec.Struct, frozen=True):
    """Consecutive rows of one event segment that a result frame accounts for."""

    segment: int
    first: int
    count: int
    sampled: int
    """How many of the rows were in the challenger's sample."""
    shed: bool = False
    """True: nobody scored them (lag beyond the limit, or the segment was gone); the frame has no rows for them."""
