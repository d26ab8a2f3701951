"""One gateway worker: ``python -m shadow_mlops.processes.worker LISTEN_FD CHANNEL_FD``, as its parent starts it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
import uvloop

from shadow_mlops.access import Keyring
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import ConflictError, ShadowError
from shadow_mlops.gateway import Gateway, Limits
from shadow_mlops.processes.channel import WorkerChannel
from shadow_mlops.processes.files import RATE_TABLE
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.settings import Settings, origins_of
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.telemetry.logs import configure_logs
from shadow_mlops.telemetry.metrics import open_metrics

ALIVE_SECONDS = 1.0
DRAIN_SECONDS = 10
ORPHAN_SECONDS = 20.0  # a new parent starts its workers within a few seconds, even on a busy machine

log = structlog.get_logger()


def _identity(run: Path, held: contextlib.ExitStack) -> str:
    # The lowest free number, held by a lock: a restarted worker goes on with its predecessor's counters, two live
    # ones never share any.
    for number in range(1024):
        with contextlib.suppress(ConflictError):
            held.enter_context(only_one(run / f"gateway-{number}.lock", f"gateway worker {number}"))
            return f"gateway-{number}"
    raise ConflictError("1,024 gateway workers are running on this data directory")


def build(settings: Settings, identity: str, channel: WorkerChannel) -> Gateway:
    """Wire a worker from settings."""
    metrics = open_metrics(settings.data_dir / "run" / "metrics", identity)
    deployment = load_deployment(settings.deployment_file)
    return Gateway(
        deployment,
        settings.data_dir,
        open_log(settings, deployment),
        metrics,
        writer=identity,
        metrics_text=channel.metrics,
        keys=Keyring(settings.data_dir, settings.operator_token.get_secret_value()),
        origins=origins_of(settings.cors_origins),
        title=settings.api_title,
        limits=Limits(
            body_bytes=settings.max_body_bytes,
            batch_rows=settings.max_batch_rows,
            requests=settings.rate_limit_requests if settings.rate_limit_enabled else None,
            window_seconds=settings.rate_limit_window_seconds,
            table=settings.data_dir / "run" / RATE_TABLE,
        ),
        sync=settings.event_log_sync == "full",
    )


def succeeded(run: Path, parent: int) -> bool:
    """True when another gateway parent than the given one has workers that answer."""
    try:
        word = msgspec.json.decode((run / "gateway.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return False
    return word.get("pid") != parent and any(word.get("generations", {}).values())


async def serve(gateway: Gateway, channel: WorkerChannel, listen_fd: int, identity: str, run: Path) -> None:
    """Serve until a signal, or until the parent is gone and another one has taken over."""
    config = uvicorn.Config(
        gateway.asgi,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,  # nobody may choose the address by which he is limited
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)

    parent = parent_from_environment()

    def orphaned() -> None:
        tasks.append(asyncio.create_task(bridge()))

    async def bridge() -> None:
        # Whoever restarts the parent holds the socket: go on answering until the new parent's workers do.
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not succeeded(run, parent) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        server.should_exit = True

    async def alive() -> None:
        told, due = -1, 0.0
        while True:
            served = gateway.follower.served
            generation = served.serving.generation if served else 0
            if generation != told or time.monotonic() >= due:  # a promotion waits for the word of every worker
                channel.tell("alive", text=f"{os.getpid()} {identity} {generation}")
                told, due = generation, time.monotonic() + ALIVE_SECONDS
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(channel.listen(orphaned)), asyncio.create_task(alive())]
    await server.serve(sockets=[socket.socket(fileno=listen_fd)])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Run the worker; the exit code tells the parent whether to try again."""
    settings = settings_from_environment()
    listen_fd, channel_fd = int(sys.argv[1]), int(sys.argv[2])
    with contextlib.ExitStack() as held:
        identity = _identity(settings.data_dir / "run", held)
        configure_logs(identity, level=settings.log_level)
        channel = WorkerChannel(channel_fd)
        try:
            gateway = build(settings, identity, channel)
        except ShadowError as error:
            log.error("the worker cannot start", reason=str(error))
            return 2
        gc.collect()
        # What a request allocates dies by its reference count; looking for cycles every 700 objects, Python's default,
        # cost 7 % of the throughput.
        gc.set_threshold(20_000, 50, 100)
        gc.freeze()  # what was imported lives for ever: keep the collector from walking it in the middle of a request
        uvloop.run(serve(gateway, channel, listen_fd, identity, settings.data_dir / "run"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
