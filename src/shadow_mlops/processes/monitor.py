"""The monitor: ``python -m shadow_mlops.processes.monitor`` under the supervisor."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass

import structlog

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import ModelError
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.archive import Archiver
from shadow_mlops.models.serving import read_serving
from shadow_mlops.monitor.archiving import Archiving
from shadow_mlops.monitor.drifting import Drifting
from shadow_mlops.monitor.gating import Gating
from shadow_mlops.monitor.ledger import Ledger
from shadow_mlops.monitor.loop import Monitor
from shadow_mlops.monitor.publishing import Publisher
from shadow_mlops.monitor.retention import Limits, Retainer
from shadow_mlops.monitor.retraining import Retraining
from shadow_mlops.monitor.state import read_state
from shadow_mlops.processes.drifting import open_drifting
from shadow_mlops.processes.gating import open_gating
from shadow_mlops.processes.lifetime import Lifetime, only_one
from shadow_mlops.processes.retraining import open_retraining
from shadow_mlops.processes.rollout import state_engine
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.telemetry.logs import configure_logs
from shadow_mlops.telemetry.metrics import merged_samples, open_metrics

log = structlog.get_logger()

_NICE = 10
_EVERY = 1.0
_PAUSE = 0.05


def run(settings: Settings, *, parent: int | None = None) -> None:
    """Look after the log until asked to end.

    Parameters
    ----------
    parent
        Process id of the supervisor, with which this process ends; None if there is none.

    Raises
    ------
    ConflictError
        If a monitor is running.
    DeploymentError
        If the deployment file is wrong.
    """
    configure_logs("monitor", level=settings.log_level)
    lifetime = Lifetime(parent)
    run_directory = settings.data_dir / "run"
    with only_one(run_directory / "monitor.lock", "the monitor"):
        os.nice(_NICE)
        parts = build(settings)
        monitor = parts.monitor
        try:
            log.info("monitor starts", events=parts.ledger.state.events)
            due = time.monotonic()
            while not lifetime.ending():
                monitor.archive()  # first: what the lake has may go from the log
                if parts.gating is not None:
                    parts.gating.step()
                parts.drifting.step()
                if parts.retraining is not None:
                    parts.retraining.step()
                if time.monotonic() >= due:
                    monitor.round()
                    due = max(due + _EVERY, time.monotonic())
                time.sleep(_PAUSE)
            monitor.save()
        finally:
            parts.ledger.close()
            parts.archiving.close()
            parts.drifting.close()
            if parts.retraining is not None:
                parts.retraining.close()
            if parts.gating is not None:
                parts.gating.close()
        log.info("monitor has ended")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the monitor's process consists of."""

    monitor: Monitor
    ledger: Ledger
    archiving: Archiving
    drifting: Drifting
    gating: Gating | None
    """None where the deployment file has no gate."""
    retraining: Retraining | None
    """None where it names no action."""


def build(settings: Settings) -> Parts:
    """The monitor's parts, from settings and the deployment file.

    Raises
    ------
    DeploymentError
        If the deployment file is wrong.
    """
    deployment = load_deployment(settings.deployment_file)
    run_directory, root = settings.data_dir / "run", settings.data_dir / "log"
    state_path = settings.data_dir / "monitor" / "accounting.json"
    for directory in (run_directory, state_path.parent):
        directory.mkdir(parents=True, exist_ok=True)
    metrics = open_metrics(run_directory / "metrics", "monitor")
    publisher = Publisher(run_directory / "accounting.json", metrics, merged_samples(run_directory / "metrics"))
    ledger = Ledger(SegmentLog(root, on_set_aside=publisher.set_aside), read_state(state_path))
    limits = Limits(max_bytes=deployment.log.max_bytes, max_age_seconds=deployment.log.retain_days * 86400)
    archiver = Archiver(
        SegmentLog(root),
        settings.data_dir / "lake",
        labels=deployment.labels,
        retain_days=deployment.lake.retain_days,
    )
    archiving = Archiving(archiver, publisher)
    retainer = Retainer(
        Retention(root),
        ledger,
        limits,
        removed=publisher.removed,
        unarchived=archiving.unarchived,
        lost=publisher.lost,
    )

    def serving() -> Collection[str] | None:
        try:
            now = read_serving(settings.data_dir / "serving.json")
        except ModelError as error:
            log.warning("who serves cannot be read", problem=str(error))
            return None
        return now.challengers.keys() if now is not None else None

    monitor = Monitor(ledger, retainer, publisher, path=state_path, serving=serving, archiving=archiving)
    state = state_engine(settings)
    drifting = open_drifting(settings, deployment, state, metrics)
    gating = open_gating(settings, deployment, state, metrics)
    retraining = open_retraining(settings, deployment, state, metrics)
    return Parts(monitor, ledger, archiving, drifting, gating, retraining)


if __name__ == "__main__":
    run(settings_from_environment(), parent=parent_from_environment())
