"""Runs one command to its end, whatever becomes of the monitor: ``python -m shadow_mlops.retraining.child``.

Each attempt is begun once at most, whoever starts this program how often: it holds the trigger's lock, and it has
written that it begins before it does. The exit code is on disk before the lock is free.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec

from shadow_mlops.retraining.records import (
    RunRecord,
    log_path,
    open_lock,
    process_of,
    read_record,
    refused_path,
    take_lock,
    write_record,
)

BUSY = 98
"""Exit code: another process runs this trigger's command."""
NOT_FOUND = 127
"""Recorded where there is no such program, as a shell would."""
TIMED_OUT = 124
"""Recorded for a command that was killed because it took too long, as ``timeout`` does."""
TERMINATED = 128 + signal.SIGTERM
_NICE = 19  # training takes what serving leaves
_LOCK_SECONDS = 2.0  # who looks whether it is locked holds it for an instant
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_WRITE_SECONDS = 3600.0  # a disk may be full: how a training of hours ended is worth the wait


class _Asked:
    """Whether somebody asked this process to end: then its command must end too."""

    def __init__(self) -> None:
        self.yet = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is closed ends no training

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.yet = True


def main(folder: Path, key: str, attempt: int, timeout: float, command: Sequence[str]) -> int:
    """Run the command, unless this attempt was begun before.

    Parameters
    ----------
    folder
        Of records, locks and output.
    timeout
        Seconds after which the command's process group is killed.

    Returns
    -------
    int
        0, whatever the command's exit code, which is in the record; ``BUSY``.
    """
    asked = _Asked()
    os.nice(_NICE)
    lock = open_lock(folder, key)
    deadline = time.monotonic() + _LOCK_SECONDS
    while not take_lock(lock):
        if time.monotonic() > deadline:
            return BUSY
        time.sleep(_LOOK_SECONDS / 10)
    known = read_record(folder, key)
    if known is not None and known.attempt >= attempt:
        return 0
    record = RunRecord(key=key, attempt=attempt, wrapper=process_of(os.getpid()), began_at=time.time())
    refused_path(folder, key).unlink(missing_ok=True)  # of the attempt before
    write_record(folder, record)
    with log_path(folder, key).open("ab") as output:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=(lock,),  # were this process killed, nobody would start a second one beside the command
            )
        except OSError as error:
            _write_at_last(folder, _ended(record, NOT_FOUND, f"the command cannot be started: {error.strerror}"))
            return 0
        record = msgspec.structs.replace(record, command=process_of(process.pid))
        with suppress(OSError):  # the command runs: only how it ends matters now
            write_record(folder, record)
        code, problem = _wait(process, timeout, asked)
    _write_at_last(folder, _ended(record, code, problem))
    return 0


def _wait(process: subprocess.Popen[bytes], timeout: float, asked: _Asked) -> tuple[int, str]:
    deadline = time.monotonic() + timeout
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_SECONDS), ""
        if asked.yet:
            _kill(process)
            return TERMINATED, "the machine, or a person, asked it to end"
        if time.monotonic() > deadline:
            _kill(process)
            return TIMED_OUT, f"it took longer than {timeout:g} s and was killed"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the command's whole group: politely, then not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended(record: RunRecord, code: int, problem: str) -> RunRecord:
    return msgspec.structs.replace(record, exit_code=code, problem=problem, ended_at=time.time())


def _write_at_last(folder: Path, record: RunRecord) -> None:
    deadline = time.monotonic() + _WRITE_SECONDS
    while True:
        try:
            write_record(folder, record)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]))
