"""The feature process: ``python -m shadow_mlops.processes.features``, started where a feature store is declared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import FeatureStoreError
from shadow_mlops.features.feast import FeastFeatures
from shadow_mlops.features.protocol import Whereabouts
from shadow_mlops.features.server import FeatureServer, listen
from shadow_mlops.processes.files import write_word
from shadow_mlops.processes.lifetime import Lifetime, only_one
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.telemetry.logs import configure_logs

log = structlog.get_logger()

WORD = "features.json"
"""In ``<data-dir>/run``."""
_SWITCH_SECONDS = 0.0005
_LOOK_SECONDS = 0.2
_LONGEST_PATH = 100  # a Unix socket's address has 108 bytes, on macOS 104


def open_store(deployment: Deployment, deployment_file: Path) -> FeastFeatures:
    """The feature store of a deployment; a relative path is one beside the deployment file, or below this folder.

    Raises
    ------
    FeatureStoreError
        There is none, or it cannot be opened.
    """
    declared = deployment.feature_store
    if declared is None or deployment.entity is None:
        lacking = "`feature_store`" if declared is None else "`entity`, whose features the store has"
        raise FeatureStoreError(f"{deployment_file} has no {lacking}")
    beside = deployment_file.parent / declared.path
    return FeastFeatures(beside if beside.is_dir() else Path(declared.path), deployment.entity)


def run(settings: Settings, *, parent: int | None = None) -> None:
    """Read features for this host's processes until asked to end.

    Where it listens, and what the store has, is in ``<data-dir>/run/features.json``.

    Raises
    ------
    FeatureStoreError
        If the store cannot be opened; the word says why until it can.
    """
    configure_logs("features", level=settings.log_level)
    lifetime = Lifetime(parent)
    word = settings.data_dir / "run" / WORD
    with only_one(settings.data_dir / "run" / "features.lock", "the feature process"):
        # The loop that takes questions would wait 5 ms, Python's default, for each turn of a thread that reads.
        sys.setswitchinterval(_SWITCH_SECONDS)
        deployment = load_deployment(settings.deployment_file)
        server = FeatureServer(lambda: open_store(deployment, settings.deployment_file))
        try:
            names = tuple(sorted(open_store(deployment, settings.deployment_file).declared))
            server.warm(names)
        except FeatureStoreError as error:
            write_word(word, {"socket": "", "pid": os.getpid(), "names": [], "status": "failed", "detail": str(error)})
            log.error("the feature store cannot be opened", reason=str(error))
            raise
        with _socket_path(settings.data_dir / "run") as path, listen(path) as listener:
            write_word(word, Whereabouts(str(path), os.getpid(), names, detail=f"{len(names)} features"))
            log.info("features can be read", features=len(names))
            asyncio.run(_serve(server, listener, lifetime))
        word.unlink(missing_ok=True)


async def _serve(server: FeatureServer, listener: socket.socket, lifetime: Lifetime) -> None:
    ended = asyncio.Event()
    serving = asyncio.create_task(server.serve(listener, ended))
    while not lifetime.ending() and not serving.done():
        await asyncio.sleep(_LOOK_SECONDS)
    ended.set()
    await serving


@contextlib.contextmanager
def _socket_path(run: Path) -> Iterator[Path]:
    path = run / "features.sock"
    if len(str(path)) <= _LONGEST_PATH:
        yield path
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder:
        yield Path(folder) / "features.sock"


if __name__ == "__main__":
    run(settings_from_environment(), parent=parent_from_environment())
    sys.stderr.flush()
    os._exit(0)  # a thread that a hanging store holds must not keep this process: there is nothing left to do
