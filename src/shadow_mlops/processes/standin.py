"""A resolver where no gateway runs: beside existing serving, challengers still have to learn which version they are."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from shadow_mlops.processes.gateway import BackOff
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import signal_quietly, start

log = structlog.get_logger()

_LOOK_SECONDS = 0.5
_END_SECONDS = 10.0


@contextmanager
def resolving(settings: Settings) -> Iterator[None]:
    """Keep a resolver running while the block runs and no gateway of this data directory, which has its own, does."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(settings, ended), name="resolver", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep(settings: Settings, ended: threading.Event) -> None:
    child: subprocess.Popen[bytes] | None = None
    backoff = BackOff()
    while not ended.wait(_LOOK_SECONDS):
        if child is not None and child.poll() is not None:
            log.warning("the resolver ended, restarting it", code=child.returncode)
            child = None
            backoff.note(0.0)
        gateway = gateway_runs(settings.data_dir / "run" / "gateway.json")
        if child is None and not gateway and backoff.over:
            log.info("no gateway runs here: a resolver follows the registry")
            child = start("shadow_mlops.processes.resolver", settings)
        elif child is not None and gateway:
            _end(child)
            child = None
    if child is not None:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    signal_quietly(child, signal.SIGTERM)
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        signal_quietly(child, signal.SIGKILL)
        child.wait()


def gateway_runs(word: Path) -> bool:
    """Whether the gateway's parent that wrote its word last is alive."""
    with suppress(OSError, msgspec.DecodeError, psutil.Error, KeyError, TypeError):
        written: dict[str, Any] = msgspec.json.decode(word.read_bytes(), type=dict)
        # a process that is younger than the word only has the same number
        return psutil.Process(written["pid"]).create_time() <= word.stat().st_mtime + 1.0
    return False
