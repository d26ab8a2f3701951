"""Errors become one line on standard error and an exit code, here and nowhere else."""

from __future__ import annotations

import sys
from types import TracebackType

from shadow_mlops.domain.errors import (
    ConflictError,
    DataRefusedError,
    DeploymentError,
    DriftError,
    FeatureStoreError,
    ImportFileError,
    ModelError,
    SettingsError,
    ShadowError,
    TrainingError,
    UnavailableError,
)
from shadow_mlops.drift.wording import sentence

_CODES: tuple[tuple[type[ShadowError], int], ...] = (
    (DeploymentError, 2),
    (SettingsError, 2),
    (DataRefusedError, 75),  # what a trigger's command says so: it is not tried again
    (TrainingError, 2),
    (ImportFileError, 2),
    (DriftError, 2),
    (FeatureStoreError, 2),
    (ConflictError, 3),
    (ModelError, 4),
    (UnavailableError, 5),
)


def exit_code(error: ShadowError) -> int:
    """2 wrong input, 3 state forbids it, 4 model or registry, 5 try again later, 75 data refused, 1 anything else."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


class ErrorsExitTwo:
    """Within it every error ends in exit code 2, for commands whose 1 is an answer.

    Raises
    ------
    DriftError
        In place of any other error of the platform; names from the data are safe to print in its message.
    SystemExit
        With 2 after the traceback of a defect, with 130 when interrupted.
    """

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Turn what was raised into exit code 2."""
        if kind is None or error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, ShadowError):
            raise DriftError(sentence(str(error))) from error
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        sys.excepthook(kind, error, trace)
        raise SystemExit(2) from error
