"""What a run of a command leaves on disk: who runs it, and how it ended. Its lock says whether it still runs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import psutil

from shadow_mlops.domain.errors import StateError
from shadow_mlops.durable import replace_durably

REFUSED_VARIABLE = "SHADOW_RETRAIN_REFUSED"
"""Environment variable of a command: where it may write why it refuses to train."""
_SAME_SECONDS = 2.0  # the kernel counts from boot, and when that was moves with the clock


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process: its number alone may be another one's tomorrow."""

    pid: int
    started: float
    """Seconds since 1970."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``<data-dir>/retraining/<key>.json``: the newest attempt of a trigger."""

    key: str
    attempt: int
    wrapper: Process
    command: Process | None = None
    """Leader of the command's process group."""
    began_at: float
    """Seconds since 1970."""
    ended_at: float | None = None
    exit_code: int | None = None
    """None while it runs, and for ever if the wrapper was killed; below 0: the signal that ended the command."""
    problem: str = ""


def process_of(pid: int) -> Process:
    """A process that is there now."""
    try:
        return Process(pid=pid, started=psutil.Process(pid).create_time())
    except psutil.Error:  # it has ended already
        return Process(pid=pid, started=0.0)


def is_alive(process: Process) -> bool:
    """Whether that very process is there still."""
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started) < _SAME_SECONDS
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def record_path(folder: Path, key: str) -> Path:
    """Where the record of a trigger is."""
    return folder / f"{key}.json"


def log_path(folder: Path, key: str) -> Path:
    """Where the output of its commands goes."""
    return folder / f"{key}.log"


def refused_path(folder: Path, key: str) -> Path:
    """Where a command writes why it refuses; that it is there counts, whatever the exit code: ``make`` has but one."""
    return folder / f"{key}.refused"


def write_record(folder: Path, record: RunRecord) -> None:
    """Replace a record durably.

    Raises
    ------
    OSError
        It is the old one still.
    """
    replace_durably(record_path(folder, record.key), msgspec.json.encode(record))


def read_record(folder: Path, key: str) -> RunRecord | None:
    """The record of a trigger; None before its first attempt.

    Raises
    ------
    StateError
        If it is not understood.
    """
    path = record_path(folder, key)
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}") from None


def open_lock(folder: Path, key: str) -> int:
    """The file that whoever runs a trigger's command holds a lock on; it stays behind."""
    return os.open(folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)


def take_lock(descriptor: int) -> bool:
    """Lock it until this process, and all that inherit it, have ended; False if another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(folder: Path, key: str) -> bool:
    """Whether the command of a trigger, or what runs it, lives."""
    descriptor = open_lock(folder, key)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
