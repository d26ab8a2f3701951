"""Promotion and rollback with the settings of this process: wired alike for the console and the command line."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Engine

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.resolver import CHALLENGER, CHAMPION
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.pyfuncs import permit_pyfuncs
from shadow_mlops.processes.resolver import recent_rows
from shadow_mlops.processes.settings import Settings
from shadow_mlops.rollout import Rollout
from shadow_mlops.state import open_state, upgrade


def state_of(settings: Settings) -> Engine:
    """The state database of the settings, its tables brought up to date.

    Raises
    ------
    StateError
        If it does not answer, or is newer than this version of the platform.
    """
    engine = state_engine(settings)
    upgrade(engine)
    return engine


def state_engine(settings: Settings) -> Engine:
    """The same, its tables not looked at: for who must start though the database does not answer yet.

    Raises
    ------
    StateError
        If the URL is none.
    """
    return open_state(settings.state_url or f"sqlite:///{settings.data_dir.absolute() / 'state.db'}")


def open_rollout(settings: Settings, deployment: Deployment, registry: Registry, state: Engine) -> Rollout:
    """Promotion and rollback of a deployment."""
    permit_pyfuncs(settings)
    events = SegmentLog(settings.data_dir / "log", segment_bytes=settings.segment_bytes)
    return Rollout(
        registry,
        deployment,
        data_dir=settings.data_dir,
        state=state,
        alone=partial(only_one, settings.data_dir / "run" / "rollout.lock", "a promotion or rollback"),
        pins={CHAMPION: settings.model_champion_version, CHALLENGER: settings.model_challenger_version},
        allow_pickle=settings.allow_pickle,
        recent_rows=lambda signature: recent_rows(events, signature),
    )
