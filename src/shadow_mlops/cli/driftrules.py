"""Which thresholds are in force: of the command line, else the deployment file, else the environment."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.settings import Settings

if TYPE_CHECKING:  # SciPy takes a second to import: only who checks for drift pays for it
    from shadow_mlops.drift.rules import Rules

_HIGHEST = {"psi": 100.0, "ks": 1.0, "js": 1.0}


def psi_threshold(text: str) -> float:
    """Value of ``--psi-threshold``; SettingsError if it is none."""
    return _threshold(text, "psi")


def ks_threshold(text: str) -> float:
    """Value of ``--ks-threshold``; SettingsError if it is none."""
    return _threshold(text, "ks")


def js_threshold(text: str) -> float:
    """Value of ``--js-threshold``; SettingsError if it is none."""
    return _threshold(text, "js")


def _threshold(text: str, method: str) -> float:
    found = number(text, f"--{method}-threshold")
    if not 0 < found <= _HIGHEST[method]:
        raise SettingsError(f"--{method}-threshold must be above 0 and at most {_HIGHEST[method]:g}, not {text}")
    return found


def number(text: str, option: str) -> float:
    """A finite number on the command line.

    Raises
    ------
    SettingsError
        If it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SettingsError(f"{option} takes a number such as 0.2, not {text!r}")
    return found


def deployment_in_force(settings: Settings) -> Deployment | None:
    """The deployment file, if one is named or ``./shadow.yaml`` is there.

    Raises
    ------
    DeploymentError
        If it is wrong, or one is named that is not there.
    """
    if "deployment_file" not in settings.model_fields_set and not settings.deployment_file.exists():
        return None
    return load_deployment(settings.deployment_file)


def rules_in_force(
    settings: Settings,
    deployment: Deployment | None,
    *,
    psi: float | None = None,
    ks: float | None = None,
    js: float | None = None,
) -> Rules:
    """The rules to judge by.

    Parameters
    ----------
    psi, ks, js
        Thresholds of the command line: they hold for every feature, also for one with a threshold of its own.
    """
    from shadow_mlops.drift.rules import Rules, rules_of  # noqa: PLC0415 - as above

    if deployment is None:
        rules = Rules(psi=settings.drift_psi_threshold)
    else:
        rules = rules_of(deployment, psi=settings.drift_psi_threshold)
        if deployment.entity is not None:  # who a row is of is no feature
            rules = replace(rules, unchecked=rules.unchecked | {deployment.entity})
    given = {method: value for method, value in (("psi", psi), ("ks", ks), ("js", js)) if value is not None}
    kept = {
        feature: {method: value for method, value in own.items() if method not in given}
        for feature, own in rules.overrides.items()
    }
    return replace(
        rules,
        psi=given.get("psi", rules.psi),
        ks=given.get("ks", rules.ks),
        js=given.get("js", rules.js),
        overrides={feature: own for feature, own in kept.items() if own},
    )
