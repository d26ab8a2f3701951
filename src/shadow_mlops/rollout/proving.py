"""Whether a version may become champion: prepared, fit for the deployment, loaded once elsewhere."""

from __future__ import annotations

from pathlib import Path

from shadow_mlops.deployment.fields import AcceptedFields
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import DeploymentError, ModelError, ModelRefusedError, UnavailableError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.domain.positive import positive_class
from shadow_mlops.models.foreign import RecentRows
from shadow_mlops.models.loading import load_elsewhere
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.prepared import file_sha256, read_card
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.models.serving import SERVING, read_serving


def prove(
    registry: Registry,
    version: RegisteredVersion,
    deployment: Deployment,
    *,
    data_dir: Path,
    allow_pickle: bool,
    recent_rows: RecentRows,
    in_force_suffices: bool,
) -> Path:
    """Prepare a version, and load it in a process of its own, where it must give its recorded outputs.

    Parameters
    ----------
    in_force_suffices
        True: a version that serves or shadows on this host right now has proved itself before, and needs only be the
        same file still. Whoever rolls back is in a hurry, and each worker loads and checks the model itself again.

    Returns
    -------
    Path
        Its prepared directory.

    Raises
    ------
    ModelRefusedError
        If it cannot be prepared or loaded, answers its recorded rows otherwise, or does not fit the deployment.
    UnavailableError
        If this host cannot write it down.
    RegistryError
        If its artefacts cannot be had now.
    """
    try:
        directory = prepare(registry, version, data_dir=data_dir, allow_pickle=allow_pickle, recent_rows=recent_rows)
        card = read_card(directory)
        _fit(deployment, card)
        if in_force_suffices and _in_force(data_dir, directory) and file_sha256(directory / card.file) == card.sha256:
            return directory
        load_elsewhere(directory)
    except OSError as error:
        raise UnavailableError(f"version {version.human} cannot be prepared on this host: {error}") from error
    return directory


def _fit(deployment: Deployment, card: ModelCard) -> None:
    if card.task != deployment.task:
        raise ModelRefusedError(
            f"{card.name} {card.version} is a {card.task} model, the deployment's task is {deployment.task}"
        )
    try:
        positive_class(deployment, card)
        AcceptedFields(deployment, [card.signature])
    except DeploymentError as error:
        raise ModelRefusedError(str(error)) from error


def _in_force(data_dir: Path, directory: Path) -> bool:
    try:
        serving = read_serving(data_dir / SERVING)
    except ModelError:
        return False
    return serving is not None and str(directory.relative_to(data_dir)) in {
        serving.champion,
        *serving.challengers.values(),
    }
