"""Retraining with the settings of this process: wired for the monitor, the console and the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.monitor.retraining import Retraining, count_run
from shadow_mlops.processes.drifting import WORD, drift_told
from shadow_mlops.processes.settings import Settings
from shadow_mlops.retraining.actions import Action, GithubAction, WebhookAction
from shadow_mlops.retraining.commands import FOLDER, CommandAction
from shadow_mlops.retraining.ordering import RetrainOrders
from shadow_mlops.retraining.running import Runner
from shadow_mlops.retraining.standing import Standing, standing
from shadow_mlops.retraining.trigger import Rule, rule_of
from shadow_mlops.state import upgrade
from shadow_mlops.telemetry.metrics import Metrics


def action_of(settings: Settings, deployment: Deployment) -> Action | None:
    """What the deployment file names; None: nothing."""
    action = deployment.retrain.action
    if action.command is not None:
        # Flags of `shadow up` reach its children only: a command that is started by them reads the environment.
        whereabouts = {
            "DATA_DIR": str(settings.data_dir.absolute()),
            "DEPLOYMENT_FILE": str(settings.deployment_file.absolute()),
            "MLFLOW_TRACKING_URI": settings.tracking_uri,
        }
        return CommandAction(
            action.command,
            settings.data_dir / FOLDER,
            timeout=deployment.retrain.timeout,
            environment=whereabouts,
        )
    if action.webhook is not None:
        return WebhookAction(action.webhook)
    if action.github is not None:
        return GithubAction(action.github, settings.github_token.get_secret_value(), api=settings.github_api_url)
    return None


def open_retraining(settings: Settings, deployment: Deployment, state: Engine, metrics: Metrics) -> Retraining | None:
    """What the monitor does about retraining; None where the deployment file names no action."""
    action = action_of(settings, deployment)
    if action is None:
        return None

    def database() -> tuple[Engine, Runner]:
        upgrade(state)
        metrics.retrain_running.set(0)  # the process before this one may have been killed while something ran
        return state, Runner(state, deployment.name, action, told=partial(count_run, metrics))

    return Retraining(_Newest(settings.data_dir), database, _rule(settings, deployment), metrics)


def open_orders(settings: Settings, deployment: Deployment, state: Engine) -> RetrainOrders:
    """What takes orders of people."""
    return RetrainOrders(state, _rule(settings, deployment), action_of(settings, deployment))


def standing_of(settings: Settings, deployment: Deployment, state: Engine) -> Standing:
    """How the trigger of a deployment stands; nothing is changed.

    Raises
    ------
    StateError
        If the database does not answer.
    """
    try:
        report = drift_told(settings.data_dir, with_values=False)
    except UnavailableError:
        report = None
    return standing(state, _rule(settings, deployment), action_of(settings, deployment), report)


def _rule(settings: Settings, deployment: Deployment) -> Rule:
    return rule_of(deployment, interval_hours=settings.drift_check_interval_hours)


class _Newest:
    """The report that the monitor has published last, once."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._seen: tuple[int, int] | None = None

    def __call__(self) -> LiveDrift | None:
        try:
            found = (self._data_dir / "run" / WORD).stat()
        except FileNotFoundError:
            return None
        if (found.st_mtime_ns, found.st_ino) == self._seen:
            return None
        report = drift_told(self._data_dir, with_values=True)
        self._seen = (found.st_mtime_ns, found.st_ino)
        return report
