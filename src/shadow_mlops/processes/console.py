"""The console: ``python -m shadow_mlops.processes.console`` under the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop

from shadow_mlops.access import Keyring, operator_token
from shadow_mlops.comparison import LISTED, Comparison, Look, compare
from shadow_mlops.console import Answer, Console
from shadow_mlops.console.intake import Intake
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.lake.logs import LogsPage, page
from shadow_mlops.models.registry import Registry
from shadow_mlops.processes.drifting import drift_told
from shadow_mlops.processes.files import write_word
from shadow_mlops.processes.gateway import bind
from shadow_mlops.processes.gating import standing_of
from shadow_mlops.processes.lifetime import Lifetime, only_one
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.retraining import open_orders
from shadow_mlops.processes.rollout import open_rollout, state_of
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.processes.standin import resolving
from shadow_mlops.telemetry.logs import configure_logs
from shadow_mlops.telemetry.metrics import open_metrics

log = structlog.get_logger()

_HOST = "127.0.0.1"  # the gateway forwards; nobody else is meant to come here
_NICE = 5
_DRAIN_SECONDS = 5
_ORDER_SECONDS = 10.0  # the supervisor waits for 20
_LOOK_SECONDS = 0.1
_KEEP_ALIVE_SECONDS = 120  # longer than the gateway keeps an idle connection: it never writes into a closed one


def run(settings: Settings, *, parent: int | None = None) -> None:
    """Answer operators and analysts until asked to end.

    Where it answers is in ``<data-dir>/run/console.json``: ``{"url", "pid"}``.

    Parameters
    ----------
    parent
        Process id of the supervisor, with which this process ends; None if there is none.

    Raises
    ------
    ConflictError
        If a console is running on this data directory.
    SettingsError
        If its port is taken, or the operator's token cannot be kept.
    DeploymentError
        If the deployment file is wrong.
    StateError
        If the state database does not answer.
    """
    configure_logs("console", level=settings.log_level)
    lifetime = Lifetime(parent)
    with only_one(settings.data_dir / "run" / "console.lock", "the console"):
        os.nice(_NICE)
        deployment = load_deployment(settings.deployment_file)
        registry = Registry(settings.tracking_uri, settings.artifact_root)
        intake = open_intake(settings, deployment)
        with closing(intake), nullcontext() if parent is not None else resolving(settings):
            console = build(settings, deployment, registry, intake)
            listener = bind(_HOST, settings.console_port)
            threading.Thread(target=_warm_up, args=(registry, deployment.name), name="warm-up", daemon=True).start()
            word = settings.data_dir / "run" / "console.json"
            all_done = uvloop.run(_serve(console, listener, word, lifetime))
            word.unlink(missing_ok=True)
        log.info("console has ended")
        if not all_done:
            log.warning("a query or an order was cut off", hint="what became of an order: shadow models list")
            os._exit(0)  # its thread would keep the process


def open_intake(settings: Settings, deployment: Deployment) -> Intake:
    """What takes predictions that were answered elsewhere."""
    return Intake(
        open_log(settings, deployment),
        settings.data_dir,
        deployment,
        metrics=open_metrics(settings.data_dir / "run" / "metrics", "console"),
        most_rows=settings.max_batch_rows,
    )


def build(settings: Settings, deployment: Deployment, registry: Registry, intake: Intake) -> Console:
    """The console's parts, from settings and the deployment file.

    Raises
    ------
    SettingsError
        If the operator's token cannot be kept, or the keys cannot be read.
    StateError
        If the state database does not answer.
    """
    lake, accounting = settings.data_dir / "lake", settings.data_dir / "run" / "accounting.json"

    def compared(since: datetime | None, until: datetime | None, exact: bool) -> Comparison:
        return compare(lake, accounting=accounting, since=since, until=until, exact=exact)

    gate = deployment.gate

    def inspected(
        since: datetime | None, until: datetime | None, exact: bool, segments: bool, disagreements: bool
    ) -> Comparison:
        look = Look(segments=segments, disagreements=LISTED if disagreements else 0, loss=gate.metric, bound=gate.bound)
        return compare(lake, accounting=accounting, since=since, until=until, exact=exact, look=look)

    state = state_of(settings)
    configured = settings.operator_token.get_secret_value()
    operator_token(settings.data_dir, configured)  # made here, if it is to be made
    return Console(
        keys=Keyring(settings.data_dir, configured),
        compare=Answer(compared, Comparison),
        inspect=Answer(inspected, Comparison),
        drift=Answer(lambda with_values: drift_told(settings.data_dir, with_values=with_values), LiveDrift),
        gate=Answer(lambda: standing_of(settings, deployment, state).as_json(), dict[str, Any]),
        logs=Answer(lambda limit, after: page(lake, limit=limit, after=after), LogsPage),
        rollout=open_rollout(settings, deployment, registry, state),
        retrain=open_orders(settings, deployment, state),
        state=state,
        intake=intake,
        max_body=settings.max_body_bytes,
    )


def _warm_up(registry: Registry, name: str) -> None:
    """Import MLflow and open the registry: who rolls back is in a hurry, and this takes seconds."""
    try:
        registry.aliases(name)
    except ShadowError as error:
        log.warning("the registry does not answer yet", reason=str(error))


async def _serve(console: Console, listener: socket.socket, word: Path, lifetime: Lifetime) -> bool:
    """Serve until the lifetime ends; False if a function had not finished by then."""
    config = uvicorn.Config(
        console.asgi,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)

    async def watch() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        write_word(word, {"url": f"http://{_HOST}:{listener.getsockname()[1]}", "pid": os.getpid()})
        while not lifetime.ending():
            await asyncio.sleep(_LOOK_SECONDS)
        server.should_exit = True

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listener])
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return await console.drain(_ORDER_SECONDS)


if __name__ == "__main__":
    run(settings_from_environment(), parent=parent_from_environment())
