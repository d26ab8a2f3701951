"""A tiny HTTP/1.1 server whose answers a test decides: what the load client sees, and what it sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    path: str
    request_id: str
    body: Any
    authorization: str | None = None


Answer = Callable[[Seen], Awaitable[bytes | None]]
"""Bytes to write, or None to close the connection without a word."""


def reply(status: int, body: object = None) -> bytes:
    content = json.dumps(body if body is not None else {"model_version": "2.1.0"}).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content)


async def accept_all(seen: Seen) -> bytes:
    return reply(202, {"accepted": 1}) if seen.path == "/outcomes" else reply(200)


@dataclass
class Server:
    """Runs in a thread of its own, so that a synchronous command can talk to it."""

    answer: Answer = accept_all
    document: dict[str, Any] | None = None
    """What it answers to a GET."""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    most_open: int = 0
    url: str = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                if head.startswith("GET "):
                    writer.write(reply(404 if self.document is None else 200, self.document or {}))
                    break
                body = await reader.readexactly(int(headers["Content-Length"]))
                seen = Seen(head.split(" ")[1], headers["X-Request-ID"], json.loads(body), headers.get("Authorization"))
                self.seen.append(seen)
                answer = await self.answer(seen)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_now -= 1
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        ready = threading.Event()
        loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(loop)
            server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            loop.run_forever()
            server.close()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def bodies(self, path: str) -> list[Any]:
        return [seen.body for seen in self.seen if seen.path == path]
