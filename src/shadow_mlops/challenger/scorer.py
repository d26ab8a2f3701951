"""The challenger's hold on its scorer process: send rows, wait within limits, kill."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import psutil

from shadow_mlops.challenger.messages import Ready, Refused, Reply, Rows, Scores
from shadow_mlops.challenger.scoring import Scored, per_row
from shadow_mlops.domain.events import Status
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import Floats, Strings

LOADER = "shadow_mlops.models.loading:load_model"
_SLICE = 0.05  # seconds between looks at memory and at the reasons to stop while the model runs
_STUCK = struct.pack("ll", 5, 0)  # seconds a half-sent message may block: the other side is stopped
_STARVED = 10  # times the time-out, by the clock, after which queueing for a processor counts as hanging too


class Fate(Enum):
    """Why a scorer must be replaced; the value is the metric's label."""

    TIMED_OUT = "timeout"
    DIED = "died"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scorer may use."""

    batch_seconds: float
    """Per micro-batch. Time spent queueing for a processor is not charged, up to ten times as much."""
    load_seconds: float
    memory_bytes: int


class ScorerProcess:
    """One child process with one model version.

    Parameters
    ----------
    directory
        Of the model's card.
    loader
        ``module:function`` that turns the directory into a model, imported in the child.
    """

    def __init__(self, directory: Path, *, limits: Limits, loader: str = LOADER) -> None:
        self.directory = directory
        self.card: ModelCard | None = None
        """None until the model is loaded."""
        self.refusal = ""
        """Why it cannot be loaded; empty as long as it may be."""
        self._limits = limits
        self._started = time.monotonic()
        ours, theirs = socket.socketpair()
        with theirs:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, _STUCK)
            arguments = [str(theirs.fileno()), loader, str(directory), str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shadow_mlops.challenger.scorer_child", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # more threads than one would only take turns in the idle class
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ},
            )
        self._connection = Connection(ours.detach())
        self._memory = psutil.Process(self._process.pid)
        self._decoder = msgspec.msgpack.Decoder(Reply)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def loaded(self) -> bool:
        """Look, without waiting, whether the model is loaded; sets ``refusal`` when it never will be."""
        if self.card is not None:
            return True
        if self.refusal:
            return False
        try:
            reply = self._decoder.decode(self._connection.recv_bytes()) if self._connection.poll(0) else None
        except (EOFError, OSError, msgspec.MsgspecError):
            self.refusal = f"the scorer ended while loading ({self._ended()})"
            return False
        if isinstance(reply, Ready):
            self.card = reply.card
        elif isinstance(reply, Refused):
            self.refusal = reply.reason
        elif time.monotonic() - self._started > self._limits.load_seconds:
            self.refusal = f"not loaded within {self._limits.load_seconds:g} s"
        return self.card is not None

    def unfit(self) -> Fate | None:
        """Why the scorer must be replaced although no rows are with it."""
        if self._process.poll() is not None:
            return Fate.DIED
        return Fate.MEMORY if self._resident() > self._limits.memory_bytes else None

    def score(  # noqa: PLR0911 - one return for each fate of a batch
        self, numbers: Floats, strings: Strings, *, interrupted: Callable[[], bool]
    ) -> tuple[Scored | None, Fate | None, str]:
        """Score one micro-batch.

        Parameters
        ----------
        interrupted
            Asked every 50 ms or so; True breaks off.

        Returns
        -------
        scored
            None if broken off.
        fate
            Why this scorer must be replaced now; None if it may go on.
        problem
            What went wrong, in words, empty if nothing did.
        """
        if self.card is None:
            raise RuntimeError("rows were given to a scorer that has loaded no model")
        count, outputs = len(numbers), len(self.card.outputs)
        started, queued = time.monotonic(), self._queued_seconds()

        def all_rows(status: Status) -> Scored:
            return Scored.failed(count, outputs, status, time.monotonic() - started)

        try:
            self._connection.send_bytes(msgspec.msgpack.encode(Rows(count, numbers.tobytes(), strings.tolist())))
            left = self._limits.batch_seconds
            while not self._connection.poll(min(_SLICE, left)):
                elapsed = time.monotonic() - started
                charged = elapsed - (self._queued_seconds() - queued)
                left = max(self._limits.batch_seconds - charged, 0.001)
                if charged > self._limits.batch_seconds or elapsed > _STARVED * self._limits.batch_seconds:
                    return all_rows(Status.TIMED_OUT), Fate.TIMED_OUT, f"no answer after {elapsed:.2f} s"
                if self._resident() > self._limits.memory_bytes:
                    return all_rows(Status.ERRORED), Fate.MEMORY, "more memory than allowed"
                if interrupted():
                    return None, None, ""
            reply = self._decoder.decode(self._connection.recv_bytes())
        except UnicodeEncodeError as error:  # half a surrogate pair: no message can carry it
            return all_rows(Status.ERRORED), None, f"a text that is not Unicode: {error}"
        except (EOFError, OSError, msgspec.MsgspecError):
            return all_rows(Status.ERRORED), Fate.DIED, f"the scorer ended ({self._ended()})"
        if not isinstance(reply, Scores):
            return all_rows(Status.ERRORED), Fate.DIED, "the scorer spoke out of turn"
        return _read(reply, count, outputs), None, reply.problem

    def kill(self) -> None:
        """End the process whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _ended(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its socket is closed"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _resident(self) -> int:
        try:
            return int(self._memory.memory_info().rss)
        except psutil.Error:
            return 0  # it has ended; the socket tells so

    def _queued_seconds(self) -> float:
        # Linux counts how long a runnable task waited for a processor. In the idle class on a busy host that
        # is most of the time, and no fault of the model. Elsewhere the clock decides alone.
        try:
            text = Path(f"/proc/{self._process.pid}/schedstat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        return int(text.split()[1]) / 1e9


def _read(reply: Scores, count: int, outputs: int) -> Scored:
    failed = np.frombuffer(reply.failed, dtype=np.bool_)
    statuses = np.where(failed, np.uint8(Status.ERRORED), np.uint8(Status.PAIRED)).astype(np.uint8)
    scores = np.frombuffer(reply.scores).reshape(count, outputs)
    return Scored(statuses, scores, per_row(reply.seconds, count))
