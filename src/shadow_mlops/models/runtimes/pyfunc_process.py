"""The hold on a pyfunc's process: started, asked within a time-out, started again after a pause when it has failed."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.models.runtimes.detached import CallError

log = structlog.get_logger()

LOAD_SECONDS = 45.0  # MLflow alone takes 3 to 5 s from a cold disk
_CHILD = Path(__file__).with_name("pyfunc_child.py")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_LOOK = 0.5  # seconds between looks at a process that is not being asked
_LARGEST_ANSWER = 256 * 2**20
_PRIVATE = ("SHADOW_", "OPERATOR_TOKEN", "STATE_URL", "MLFLOW_TRACKING_")


class ModelProcess:
    """One child process with one pyfunc, kept alive by a thread of its own.

    The thread starts every process, and lives as long as any: Linux ends a child that asked for it with the thread that
    started it.

    Parameters
    ----------
    python
        Interpreter; needs MLflow, pandas and what the model wants.
    load
        The first message: which model, which features.
    load_seconds
        Within which the process must be ready.
    """

    def __init__(self, python: str, load: Mapping[str, Any], *, load_seconds: float = LOAD_SECONDS) -> None:
        self._python = python
        self._load = dict(load)
        self._load_seconds = load_seconds
        self._one = threading.Lock()
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = "is starting"
        self._refused = ""
        self._failures = 0
        self._stopping = False
        self.warm_up: bytes | None = None
        """A message that a new process must have answered before it counts as ready: its first answer is slow."""
        self._keeper = threading.Thread(target=self._keep, name="pyfunc-keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id; None while there is none that answers."""
        process = self._process
        return process.pid if process is not None and self._connection is not None else None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises
        ------
        ModelRefusedError
            If it cannot be started, or the model cannot be loaded, in time.
        """
        self._keeper.start()
        with self._changed:
            self._changed.wait_for(lambda: self._connection is not None or self._refused, self._load_seconds + 5)
            if self._connection is not None:
                return
            reason = self._refused or self._problem
        self.stop()
        raise ModelRefusedError(f"its process with {self._python} {reason}")

    def ask(self, message: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Header and payload of the answer to a message.

        Raises
        ------
        CallError
            If there is no process now, or it does not answer in time or not as it should; it is replaced then.
        """
        with self._one:
            connection = self._connection
            if connection is None:
                raise CallError("died", self._problem)
            try:
                return exchange(connection, message, seconds)
            except TimeoutError:
                self._lose("is started again: it did not answer in time")
                raise CallError("timeout", f"did not answer within {seconds:.3g} s") from None
            except (OSError, EOFError, ValueError, struct.error) as error:
                self._lose("is started again: it had ended")
                raise CallError("died", f"has ended ({type(error).__name__})") from error

    def stop(self) -> None:
        """End the process whatever it is doing, and start none again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        process = self._process
        if process is not None:
            process.kill()

    def _lose(self, problem: str) -> None:
        with self._changed:
            self._connection, self._problem = None, problem
            self._changed.notify_all()

    def _keep(self) -> None:
        while not self._stopping:
            begun = time.monotonic()
            with suppress(OSError):
                self._run_once()
            if time.monotonic() - begun > self._load_seconds + _LONGEST_PAUSE:
                self._failures = 0  # it did well for a while
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 20))
            self._failures += 1
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause)

    def _run_once(self) -> None:
        """Start a process, and return when it has ended or is of no more use."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                command = [self._python, "-I", "-B", str(_CHILD), str(theirs.fileno()), str(os.getpid())]
                try:
                    self._process = subprocess.Popen(
                        command,
                        pass_fds=(theirs.fileno(),),
                        stdin=subprocess.DEVNULL,
                        env=_environment(),
                        process_group=0,
                    )
                except OSError as error:
                    self._refuse(f"cannot be started: {error}")
                    return
            process = self._process
            try:
                self._greet(ours)
                while not self._stopping and self._connection is ours and process.poll() is None:
                    with self._changed:
                        self._changed.wait_for(lambda: self._stopping or self._connection is not ours, _LOOK)
                if process.poll() is not None:
                    self._lose(f"is started again: it had ended with {process.returncode}")
            finally:
                process.kill()
                process.wait()
                with self._changed:
                    if self._connection is ours:
                        self._connection = None
                if not self._stopping:
                    log.warning("a model's process is replaced", reason=self._problem, failures=self._failures)

    def _greet(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + self._load_seconds
        try:
            reply, _ = exchange(connection, message_of(self._load), self._load_seconds)
            if reply.get("is") != "ready":
                self._refuse(f"cannot load the model: {reply.get('problem')}")
                return
            if self.warm_up is not None:
                exchange(connection, self.warm_up, max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            self._refuse(f"has not loaded the model within {self._load_seconds:g} s")
            return
        except (OSError, EOFError, ValueError, struct.error) as error:
            self._refuse(f"has ended while it loaded the model ({type(error).__name__})")
            return
        process = self._process
        resident = psutil.Process(process.pid).memory_info().rss if process is not None else 0
        log.info(
            "a model's process is ready",
            pid=process and process.pid,
            python=reply.get("python"),
            mlflow=reply.get("mlflow"),
            resident_mb=resident >> 20,  # beside this process, once for each that serves or shadows the version
        )
        with self._changed:
            self._connection = connection
            self._changed.notify_all()

    def _refuse(self, reason: str) -> None:
        with self._changed:
            self._refused = self._problem = reason
            self._changed.notify_all()


def message_of(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """One message, as :mod:`~shadow_mlops.models.runtimes.pyfunc_child` describes it."""
    head = msgspec.json.encode(header)
    return struct.pack("!QI", 4 + len(head) + len(payload), len(head)) + head + payload


def exchange(connection: socket.socket, message: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
    """Send a message and read the answer, both within the seconds.

    Raises
    ------
    TimeoutError
        If that takes longer.
    EOFError, OSError
        If the other side has gone.
    ValueError, struct.error
        If what it sends is no message.
    """
    deadline = time.monotonic() + seconds
    connection.settimeout(max(seconds, 0.001))
    connection.sendall(message)
    (length,) = struct.unpack("!Q", _exactly(connection, 8, deadline))
    if not 4 <= length <= _LARGEST_ANSWER:
        raise ValueError(f"an answer of {length} bytes")
    whole = _exactly(connection, length, deadline)
    (head,) = struct.unpack("!I", whole[:4])
    header = msgspec.json.decode(whole[4 : 4 + head])
    if not isinstance(header, dict):
        raise ValueError("an answer whose header is no object")  # noqa: TRY004 - what was received, not how it was called
    return header, whole[4 + head :]


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(min(1 << 20, count - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _environment() -> dict[str, str]:
    """What a stranger's code may see: nothing that is a setting or a credential of ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_PRIVATE)}
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **kept, "MLFLOW_DISABLE_TELEMETRY": "true"}
