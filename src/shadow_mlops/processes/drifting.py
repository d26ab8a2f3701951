"""Live drift with the settings of this process: wired for the monitor."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.drift.alerts import LOG, SLACK, WEBHOOK, Courier, HttpReceiver, LogReceiver, Receiver
from shadow_mlops.drift.clock import Birth
from shadow_mlops.drift.live import LiveFold, watching_of
from shadow_mlops.drift.livereport import LiveDrift, without_values
from shadow_mlops.drift.livestate import read_state
from shadow_mlops.drift.references import References
from shadow_mlops.eventlog.layout import boot_counter, kernel_boot_id, segment_header
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.monitor.drifting import Drifting
from shadow_mlops.monitor.drifttelling import DriftGauges
from shadow_mlops.processes.settings import Settings
from shadow_mlops.state import upgrade
from shadow_mlops.telemetry.metrics import Metrics

LIVE_STATE = "live.state"
"""In ``<data-dir>/drift``."""
WORD = "drift.json"
"""In ``<data-dir>/run``: the body of ``GET /drift``."""


def open_drifting(settings: Settings, deployment: Deployment, state: Engine, metrics: Metrics) -> Drifting:
    """What the monitor does about drift."""
    gauges = DriftGauges(metrics, settings.data_dir / "run" / "metrics")
    receivers = receivers_of(settings)
    state_path = settings.data_dir / "drift" / LIVE_STATE

    def fold() -> LiveFold:
        root = settings.data_dir / "log"
        watching = watching_of(deployment, psi=settings.drift_psi_threshold)
        boot = boot_counter(root, kernel_boot_id())

        def birth(segment: int) -> Birth | None:
            header = segment_header(root, EVENTS, segment)
            return None if header is None else Birth(header.name.created_ns, header.created_us)

        return LiveFold(
            SegmentLog(root),
            watching,
            References(settings.data_dir),
            read_state(state_path, deployment=deployment.name, bucket_us=watching.bucket_us),
            task=deployment.task,
            birth=birth,
            now=lambda: (boot, time.monotonic_ns()),
        )

    def database() -> tuple[Engine, Courier]:
        upgrade(state)
        return state, Courier(state, receivers, told=gauges.delivered)

    return Drifting(
        fold,
        database,
        gauges,
        state_path=state_path,
        word=settings.data_dir / "run" / WORD,
        lake=settings.data_dir / "lake",
        models=settings.data_dir / "models",
    )


def drift_told(data_dir: Path, *, with_values: bool) -> LiveDrift:
    """What the monitor has told last.

    Parameters
    ----------
    with_values
        With bins and whatever else may show a value of a row.

    Raises
    ------
    UnavailableError
        If it has told nothing, or that cannot be read.
    """
    path = data_dir / "run" / WORD
    try:
        report = msgspec.json.decode(path.read_bytes(), type=LiveDrift)
    except FileNotFoundError:
        raise UnavailableError(
            f"nobody watches drift in {data_dir} yet: `shadow up` and `shadow monitor` do, soon after they start"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise UnavailableError(f"{path} cannot be read ({error}); the monitor writes it anew") from error
    return report if with_values else without_values(report)


def receivers_of(settings: Settings) -> dict[str, Receiver]:
    """Who is told of episodes: the log, and whatever addresses are set."""
    receivers: dict[str, Receiver] = {LOG: LogReceiver()}
    webhook, slack = (each.get_secret_value() for each in (settings.alert_webhook_url, settings.alert_slack_url))
    if webhook:
        receivers[WEBHOOK] = HttpReceiver(webhook)
    if slack:
        receivers[SLACK] = HttpReceiver(slack, only_text=True)
    return receivers
