"""One challenger: ``python -m shadow_mlops.processes.challenger NAME`` under the supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

from shadow_mlops.challenger.championside import ChampionSide
from shadow_mlops.challenger.consumer import Consumer, Policy
from shadow_mlops.challenger.priority import run_when_idle
from shadow_mlops.challenger.reporting import Reporter
from shadow_mlops.challenger.scorer import LOADER, Limits, ScorerProcess
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.deployment import load_deployment
from shadow_mlops.models.serving import read_serving
from shadow_mlops.processes.filling import stored_fill
from shadow_mlops.processes.lifetime import Lifetime, only_one
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.pyfuncs import permit_pyfuncs
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.telemetry.logs import configure_logs
from shadow_mlops.telemetry.metrics import open_metrics

log = structlog.get_logger()

_LOAD_SECONDS = 60.0


def run(settings: Settings, name: str, *, parent: int | None = None, loader: str = LOADER) -> None:
    """Shadow with the challenger of that name until asked to end.

    Parameters
    ----------
    name
        Alias in the registry: ``challenger``, ``challenger-NAME``.
    parent
        Process id of the supervisor, with which this process ends; None if there is none.
    loader
        ``module:function`` that loads a prepared directory in the scorer's process.

    Raises
    ------
    ConflictError
        If a challenger of that name is running.
    DeploymentError
        If the deployment file is wrong.
    """
    permit_pyfuncs(settings)
    identity = f"challenger-{name}"
    configure_logs(identity, level=settings.log_level)
    lifetime = Lifetime(parent)
    run_directory = settings.data_dir / "run"
    with only_one(run_directory / f"{identity}.lock", f"challenger {name!r}"):
        deployment = load_deployment(settings.deployment_file)
        metrics = open_metrics(run_directory / "metrics", identity)
        log.info("stepped back", priority=run_when_idle())
        reporter = Reporter(run_directory / f"{identity}.json", metrics, challenger=name)
        limits = Limits(
            batch_seconds=deployment.shadow.timeout_ms / 1000,
            load_seconds=_LOAD_SECONDS,
            memory_bytes=settings.challenger_memory_mb * 2**20,
        )

        def start(directory: Path) -> ScorerProcess:
            return ScorerProcess(directory, limits=limits, loader=loader)

        policy = Policy(
            deployment=deployment.name,
            challenger=name,
            batch_rows=settings.challenger_batch_rows,
            max_lag=deployment.shadow.max_lag,
        )

        def wanted() -> Path | None:
            serving = read_serving(settings.data_dir / "serving.json")
            directory = serving.challengers.get(name) if serving is not None else None
            return settings.data_dir / directory if directory is not None else None

        def champion() -> Path | None:
            serving = read_serving(settings.data_dir / "serving.json")
            return settings.data_dir / serving.champion if serving is not None else None

        consumer = Consumer(
            open_log(settings, deployment),
            policy,
            seat=Seat(start, replaced=reporter.replaced),
            champion=ChampionSide(Seat(start, replaced=reporter.replaced), champion),
            reporter=reporter,
            wanted=wanted,
            stopping=lifetime.ending,
            fill=stored_fill(settings, deployment),
        )
        try:
            consumer.run()
        finally:
            consumer.close()
        log.info("challenger has ended")


if __name__ == "__main__":
    run(settings_from_environment(), sys.argv[1], parent=parent_from_environment())
