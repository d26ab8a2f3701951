"""Which version is champion: promotion and rollback as moves of registry aliases, proved, audited, and followed."""

from shadow_mlops.rollout.canary import CanaryAction, CanaryChange
from shadow_mlops.rollout.following import Followed
from shadow_mlops.rollout.switching import Rollout, Status, Switch

__all__ = ["CanaryAction", "CanaryChange", "Followed", "Rollout", "Status", "Switch"]
