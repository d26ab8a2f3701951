"""A command as the action: run once for each attempt, to its end, though the monitor may be killed meanwhile."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from shadow_mlops.retraining import child
from shadow_mlops.retraining.actions import Limits, Result
from shadow_mlops.retraining.records import (
    REFUSED_VARIABLE,
    RunRecord,
    is_alive,
    is_locked,
    log_path,
    read_record,
    refused_path,
)
from shadow_mlops.state.triggers import Trigger

log = structlog.get_logger()

REFUSED = 75
"""Exit code (``EX_TEMPFAIL``) of a command whose own checks of the data forbid training: it is not tried again."""
FOLDER = "retraining"
"""In the data directory: records, locks and output of commands."""
_LIMITS = Limits(attempts=3, first_pause=60.0, longest_pause=3600.0)
_LOOK_SECONDS = 0.2
_OURS = frozenset({"PROMETHEUS_MULTIPROC_DIR", "SHADOW_SETTINGS"})
"""Of this process alone: a training that counts something would write into the files of our metrics."""
_REFUSAL_LETTERS = 400
_OVERDUE_SECONDS = 60.0  # the wrapper itself kills what is late; this is for when it was killed


class CommandAction:
    """Runs a program of this host.

    Parameters
    ----------
    command
        Program and arguments; no shell, and the working directory of this process.
    folder
        Where records and output go.
    timeout
        Seconds after which its process group is killed.
    environment
        Variables beside this process's own: where the traffic, the deployment and the registry are.
    """

    kind = "command"

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        timeout: float = 7200.0,
        environment: Mapping[str, str] | None = None,
        limits: Limits = _LIMITS,
    ) -> None:
        self._command = tuple(command)
        self._folder = folder.absolute()
        self._timeout = timeout
        self._environment = dict(environment or {})
        self.limits = limits

    @property
    def shown(self) -> str:
        """As a shell would take it."""
        return shlex.join(self._command)

    def run(self, trigger: Trigger, ended: threading.Event) -> Result | None:
        """See :class:`~shadow_mlops.retraining.actions.Action`.

        Raises
        ------
        StateError
            If the record of the run cannot be read.
        OSError
            If nothing can be written, or no process be started.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        wrapper: subprocess.Popen[bytes] | None = None
        while not ended.is_set():
            lives = (wrapper is not None and wrapper.poll() is None) or is_locked(self._folder, trigger.key)
            # Only now: what has ended by then has written how.
            record = read_record(self._folder, trigger.key)
            mine = record if record is not None and record.attempt >= trigger.attempts else None
            if mine is not None and mine.exit_code is not None:
                if wrapper is not None:
                    wrapper.wait()
                return self._result(mine)
            if lives:
                self._end_if_overdue(record)
                ended.wait(_LOOK_SECONDS)
            elif mine is not None:
                return Result(ending="failed", problem="it was killed, or the machine went down: no exit code is known")
            elif wrapper is not None and wrapper.returncode != child.BUSY:
                return Result(ending="failed", problem=f"it cannot be run (code {wrapper.returncode}), see its log")
            else:
                wrapper = self._start(trigger)
        return None

    def _start(self, trigger: Trigger) -> subprocess.Popen[bytes]:
        # In a group of its own, so that Ctrl-C does not reach it, yet not in a session of its own: there the kernel
        # would give it an equal share beside the gateway, however nice it is (ADR 0008).
        arguments = [str(self._folder), trigger.key, str(trigger.attempts), str(self._timeout), *self._command]
        with log_path(self._folder, trigger.key).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", child.__name__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                env={
                    **{name: value for name, value in os.environ.items() if name not in _OURS},
                    **self._environment,
                    "SHADOW_RETRAIN_KEY": trigger.key,
                    "SHADOW_RETRAIN_REASON": trigger.reason,
                    REFUSED_VARIABLE: str(refused_path(self._folder, trigger.key)),
                    "SHADOW_DEPLOYMENT": trigger.deployment,
                },
            )

    def _end_if_overdue(self, record: RunRecord | None) -> None:
        """Kill a command whose wrapper is gone: nobody else looks at its time any more."""
        if record is None or record.command is None or record.exit_code is not None or is_alive(record.wrapper):
            return
        if time.time() > record.began_at + self._timeout + _OVERDUE_SECONDS and is_alive(record.command):
            log.warning("retraining took too long and is killed", trigger=record.key)
            with suppress(ProcessLookupError):
                os.killpg(record.command.pid, signal.SIGKILL)

    def _result(self, record: RunRecord) -> Result:
        code = record.exit_code
        seconds = round((record.ended_at or record.began_at) - record.began_at, 1)
        details = {"exit_code": code, "seconds": seconds, "log": str(log_path(self._folder, record.key))}
        if code == 0:
            return Result(ending="done", details=details)
        why = _refusal(refused_path(self._folder, record.key))
        if code == REFUSED or why is not None:
            problem = why or f"the command's own checks refuse to train (exit code {REFUSED})"
            return Result(ending="refused", problem=problem, details=details)
        told = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return Result(ending="failed", problem=record.problem or told, details=details)


def _refusal(path: Path) -> str | None:
    """The reason that a command wrote; None: it did not refuse."""
    try:
        with path.open(encoding="utf-8", errors="replace") as text:
            return " ".join(text.read(_REFUSAL_LETTERS).split()) or "the command's own checks refuse to train"
    except FileNotFoundError:
        return None
