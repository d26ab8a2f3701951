"""What knowing a caller, and the headers for browsers, cost one prediction.

    python benchmarks/access.py

Nanoseconds a request of each, the smallest of several rounds: look-ups in this process, and the bytes of an answer's
head as uvicorn writes them. A prediction on one core takes some 40,000.
"""

from __future__ import annotations

import re
import tempfile
import timeit
from pathlib import Path

from shadow_mlops.access import DATA_HEADERS, SECURITY_HEADERS, Keyring, add_key

ROUNDS, CALLS = 7, 200_000
BARE = [(b"content-type", b"application/json"), (b"content-length", b"150"), (b"x-request-id", b"0123456789ab-000001")]
HEADER = re.compile(b'[\x00-\x1f\x7f()<>@,;:[]={} \t\\\\"]')
VALUE = re.compile(b"[\x00-\x08\x0a-\x1f\x7f]")


def nanoseconds(call) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e9


def head(headers) -> bytes:
    """The work that uvicorn does for each header."""
    content = [b"HTTP/1.1 200 OK\r\n"]
    for name, value in headers:
        if HEADER.search(name) or VALUE.search(value):
            raise RuntimeError
        lowered = name.lower()
        if lowered in {b"content-length", b"transfer-encoding", b"connection"}:
            pass
        content.extend([lowered, b": ", value, b"\r\n"])
    return b"".join(content)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without = Keyring(folder)
        secret = ""
        for number in range(100):
            secret = add_key(folder, f"client-{number}", "client", by="benchmark")[1]
        ring = Keyring(folder)
        headers = {b"host": b"localhost", b"authorization": f"Bearer {secret}".encode()}
        print(f"no keys                     {nanoseconds(lambda: without.admit('client', {})):6.0f} ns")
        print(f"a key of 100, remembered    {nanoseconds(lambda: ring.admit('client', headers)):6.0f} ns")
    bare = nanoseconds(lambda: head(BARE))
    for what, more in (("of predictions", DATA_HEADERS), ("of other answers", SECURITY_HEADERS)):
        added = nanoseconds(lambda more=more: head([*BARE, *more])) - bare
        print(f"{len(more)} headers {what:<18}{added:6.0f} ns")


if __name__ == "__main__":
    main()
