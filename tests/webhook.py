"""A webhook receiver whose answers a test decides, in a thread or as a process of its own.

``python -m tests.webhook FILE PORT`` appends each request to the file, one line of JSON, before it answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Taken:
    path: str
    key: str
    body: Any


def _handler(take: Callable[[Taken], tuple[int, dict[str, str], bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, content = take(Taken(self.path, self.headers.get("Idempotency-Key", ""), json.loads(body)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

        def log_message(self, *args):
            """Tests are quiet."""

    return Handler


@dataclass
class Webhook:
    """Answers with the next of ``answers``, and 200 when they are used up."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    url: str = ""

    def _take(self, taken: Taken) -> tuple[int, dict[str, str], bytes]:
        self.taken.append(taken)
        return self.answers.pop(0) if self.answers else (200, {}, b"ok")

    @contextlib.contextmanager
    def running(self) -> Iterator[Webhook]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._take))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def main(file: Path, port: int) -> None:
    lock = threading.Lock()

    def take(taken: Taken) -> tuple[int, dict[str, str], bytes]:
        with lock, file.open("a") as output:
            output.write(json.dumps({"key": taken.key, "body": taken.body}) + "\n")
            output.flush()
            os.fsync(output.fileno())
        return 200, {}, b"ok"

    ThreadingHTTPServer(("127.0.0.1", port), _handler(take)).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
