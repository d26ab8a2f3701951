"""A PostgreSQL server of a test's own: an unprivileged one on a free port of the loopback, gone when the test is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "drift"
PASSWORD = "k:eep/it?s@fe"  # what a URL must quote


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def postgres() -> Iterator[int]:
    """A running server; its port. User ``USER`` with ``PASSWORD`` owns the database ``postgres``."""
    # initdb refuses root, and nobody cannot enter pytest's own folder
    account = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    home = Path(tempfile.mkdtemp(prefix="shadow-postgres-"))
    try:
        secret = home / "password"
        secret.write_text(PASSWORD)
        if account:
            shutil.chown(home, "nobody", "nogroup")
            shutil.chown(secret, "nobody", "nogroup")
        data, port = home / "data", _free_port()
        made = [
            _program("initdb"),
            "-D",
            data,
            "-U",
            USER,
            "--pwfile",
            secret,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]
        subprocess.run(made, check=True, capture_output=True, timeout=120, cwd=home, **account)
        served = [_program("postgres"), "-D", data, "-p", str(port), "-k", home, "-h", "127.0.0.1", "-F"]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(served, stdout=log, stderr=log, cwd=home, **account)
        try:
            _wait(server, port, home / "log")
            yield port
        finally:
            server.send_signal(2)  # fast shutdown: ends sessions
            server.wait(60)
    finally:
        shutil.rmtree(home)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False, timeout=10).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not answer: {log.read_text()}")
        time.sleep(0.05)
