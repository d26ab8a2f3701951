"""The line between the gateway's parent and one of its workers: a socket pair that both inherit.

The worker asks for the merged metrics and says that it is alive; the parent's end closing tells the worker that it is
an orphan.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable

import msgspec


class Message(msgspec.Struct, omit_defaults=True):
    """One line; ``size`` bytes of payload follow it."""

    kind: str
    id: int = 0
    size: int = 0
    text: str = ""


class WorkerChannel:
    """The worker's end."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def listen(self, on_orphaned: Callable[[], None]) -> None:
        """Read answers until the parent is gone."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        try:
            while line := await reader.readline():
                message = msgspec.json.decode(line, type=Message)
                payload = await reader.readexactly(message.size)
                future = self._waiting.pop(message.id, None)
                if future is not None and not future.done():
                    future.set_result(payload)
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
            pass  # whatever broke the line, there is no parent at its other end any more
        on_orphaned()

    def tell(self, kind: str, text: str = "") -> None:
        """Send a word that needs no answer; the parent reads it or is gone."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(Message(kind, text=text)) + b"\n")

    async def metrics(self) -> bytes:
        """Merged Prometheus text of the host.

        Raises
        ------
        ConnectionError
            The parent did not answer in time.
        """
        if self._writer is None:
            raise ConnectionError("the gateway's parent is not connected yet")
        number = next(self._ids)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._writer.write(msgspec.json.encode(Message("metrics", id=number)) + b"\n")
        try:
            return await asyncio.wait_for(future, timeout=5)
        except TimeoutError:
            raise ConnectionError("the gateway's parent did not answer in 5 s") from None
        finally:
            self._waiting.pop(number, None)


async def serve_worker(
    connection: socket.socket, metrics_text: Callable[[], bytes], heard: Callable[[Message], None]
) -> None:
    """The parent's end: answer one worker until it is gone."""
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        while line := await reader.readline():
            message = msgspec.json.decode(line, type=Message)
            heard(message)
            if message.kind == "metrics":
                payload = metrics_text()
                writer.write(
                    msgspec.json.encode(Message("metrics", id=message.id, size=len(payload))) + b"\n" + payload
                )
                await writer.drain()
    except (OSError, msgspec.DecodeError):
        pass  # the worker was killed; its parent notices by its exit
    finally:
        writer.close()
