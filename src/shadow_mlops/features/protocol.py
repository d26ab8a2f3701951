"""What gateway workers and the feature process say to each other: MessagePack behind a length, over a Unix socket."""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

import msgspec

from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.features.seam import Value

MAX_KEYS = 256
"""In one question: more are split, so that no question holds a thread of the store for long."""
_MOST_BYTES = 64 * 2**20
_LENGTH = struct.Struct("<I")
_Message = TypeVar("_Message", "Question", "Reply")


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Read features of entities."""

    id: int
    names: tuple[str, ...]
    keys: list[str]
    times: list[int] | None
    """None: the newest values; else the moments as of which they are wanted."""
    deadline: float
    """Monotonic seconds, the same on both sides of a host, after which nobody waits any more."""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Rows in the order of the keys, or why there are none."""

    id: int
    values: list[list[Value]]
    held: list[bytes]
    times: list[list[int]]
    problem: str = ""


class Whereabouts(msgspec.Struct, frozen=True):
    """``run/features.json``: where the feature process listens, and what its store has."""

    socket: str
    pid: int
    names: tuple[str, ...]
    status: str = "ok"
    detail: str = ""


def pack(message: Question | Reply) -> bytes:
    """Bytes of a message."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


async def receive(reader: asyncio.StreamReader, kind: type[_Message]) -> _Message:
    """The next message.

    Raises
    ------
    UnavailableError
        The other side has gone, or talks something else.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > _MOST_BYTES:
            raise UnavailableError(f"a message of {length} bytes")
        return msgspec.msgpack.decode(await reader.readexactly(length), type=kind)
    except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError) as error:
        raise UnavailableError(f"the feature process has gone ({type(error).__name__})") from error
