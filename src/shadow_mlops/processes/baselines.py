"""Setting and clearing the drift baseline of a data directory, with an entry in the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from shadow_mlops.domain.errors import ConflictError, ShadowError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.drift.baselines import baseline_from
from shadow_mlops.drift.livestate import Identity
from shadow_mlops.drift.references import (
    Baseline,
    baseline_path,
    clear_baseline,
    read_baseline,
    write_baseline,
)
from shadow_mlops.drift.sources import Source
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.reference import read_reference_profile
from shadow_mlops.models.serving import SERVING, read_serving
from shadow_mlops.processes.rollout import state_of
from shadow_mlops.processes.settings import Settings
from shadow_mlops.state import audit

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Champion:
    """Who serves."""

    card: ModelCard
    identity: Identity


def champion_of(settings: Settings) -> Champion:
    """The version that serves from this data directory.

    Raises
    ------
    ConflictError
        If none does.
    ModelError
        If what is published cannot be read.
    """
    serving = read_serving(settings.data_dir / SERVING)
    if serving is None:
        raise ConflictError(f"nothing is served from {settings.data_dir} yet: start with `shadow up`")
    card = read_card(settings.data_dir / serving.champion)
    identity = Identity(model=card.name, version=card.version, registry_version=card.registry_version, task=card.task)
    return Champion(card, identity)


def set_baseline(
    settings: Settings,
    champion: Champion,
    source: Source,
    *,
    bins: int,
    words: str,
    reason: str,
    who: str,
    details: dict[str, Any],
) -> Baseline:
    """Make rows the reference of the serving version, from the next bucket on.

    Raises
    ------
    DriftError
        If they cannot be; the reference is as before.
    StateError
        If the audit trail cannot be written; the reference is as before.
    """
    identity = champion.identity
    own = read_reference_profile(settings.data_dir / "models" / identity.model / identity.registry_version)

    def order() -> tuple[Baseline, dict[str, Any]]:
        baseline = baseline_from(
            source, identity, champion.card.signature, own, bins=bins, words=words, who=who, reason=reason
        )
        write_baseline(baseline_path(settings.data_dir), baseline)
        return baseline, {"rows": baseline.rows}

    details = {**details, "source": words, "version": identity.version}
    return _audited(settings, "drift_baseline", identity.model, order, reason=reason, who=who, details=details)


def drop_baseline(settings: Settings, model: str, *, reason: str, who: str, details: dict[str, Any]) -> bool:
    """Take the rows kept with the version again; False if no baseline was set.

    Raises
    ------
    DriftError
        If it cannot be removed.
    StateError
        If the audit trail cannot be written; the baseline stays.
    """

    def order() -> tuple[bool, dict[str, Any]]:
        return clear_baseline(baseline_path(settings.data_dir)), {}

    return _audited(settings, "drift_baseline_clear", model, order, reason=reason, who=who, details=details)


def baseline_now(settings: Settings) -> Baseline | None:
    """The baseline that is set; None: there is none.

    Raises
    ------
    DriftError
        If it cannot be read.
    """
    return read_baseline(baseline_path(settings.data_dir))


def _audited(
    settings: Settings,
    action: str,
    model: str,
    order: Callable[[], tuple[_T, dict[str, Any]]],
    *,
    reason: str,
    who: str,
    details: dict[str, Any],
) -> _T:
    state = state_of(settings)
    number = audit.record(state, action=action, who=who, model=model, reason=reason, details=details)
    try:
        answer, more = order()
    except ShadowError as error:
        audit.conclude(state, number, outcome="failed", details={"problem": str(error)})
        raise
    audit.conclude(state, number, outcome="done", details=more)
    return answer
