"""Which of a model's classes the deployment means by its positive one."""

from __future__ import annotations

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import DeploymentError
from shadow_mlops.domain.models import ModelCard


def positive_class(deployment: Deployment, card: ModelCard) -> str:
    """Text of the positive class among the model's classes; empty when the task is not binary.

    Raises
    ------
    DeploymentError
        If the model has no class of that name.

    Notes
    -----
    ``1``, ``1.0``, ``true`` and ``"1"`` name the same class: YAML, Python and registries write labels differently.
    """
    if deployment.task != "binary":
        return ""
    wanted = _plain(str(deployment.positive))
    for label in card.classes:
        if _plain(label) == wanted:
            return label
    raise DeploymentError(
        f"`positive: {deployment.positive}` is no class of {card.name} {card.version}: {', '.join(card.classes)}"
    )


def _plain(label: str) -> str:
    text = {"true": "1", "false": "0"}.get(label.lower(), label)
    return text.removesuffix(".0")
