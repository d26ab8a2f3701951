"""Errors become one line on standard error and an exit code, here and nowhere else."""

from __future__ import annotations

from shadow_mlops.domain.errors import (
    ConflictError,
    DeploymentError,
    DriftError,
    ImportFileError,
    ModelError,
    SettingsError,
    ShadowError,
    TrainingError,
    UnavailableError,
)

_CODES: tuple[tuple[type[ShadowError], int], ...] = (
    (DeploymentError, 2),
    (SettingsError, 2),
    (TrainingError, 2),
    (ImportFileError, 2),
    (DriftError, 2),
    (ConflictError, 3),
    (ModelError, 4),
    (UnavailableError, 5),
)


def exit_code(error: ShadowError) -> int:
    """2 wrong input, 3 the state forbids it, 4 model or registry, 5 try again later, 1 anything else."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)
