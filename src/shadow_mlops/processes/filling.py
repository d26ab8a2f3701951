"""What completes recorded events for a model that was not there: one way for live challengers and for replays."""

from __future__ import annotations

from shadow_mlops.challenger.scoring import Fill
from shadow_mlops.challenger.stored import StoredFeatures
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.processes.settings import Settings


def stored_fill(settings: Settings, deployment: Deployment) -> Fill | None:
    """Reads from the deployment's feature store what events lack; None if it has no store.

    The store is opened when the first event needs it.
    """
    if deployment.feature_store is None or deployment.entity is None:
        return None
    from shadow_mlops.processes.features import open_store  # noqa: PLC0415 - asyncio and more, for a store only

    return StoredFeatures(lambda: open_store(deployment, settings.deployment_file)).fill
