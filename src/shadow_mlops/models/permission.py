"""Whether this process may run MLflow pyfuncs, whose loading runs code from their artefacts."""

from __future__ import annotations

import os
import sys

from shadow_mlops.domain.errors import ModelRefusedError

PYTHON_VARIABLE = "SHADOW_PYFUNC_PYTHON"
"""Names the interpreter where settings allow pyfuncs (``ALLOW_PICKLE``); empty or absent: they are refused."""


def permitted_python() -> str:
    """The interpreter that runs pyfuncs.

    Raises
    ------
    ModelRefusedError
        If this process may run none.
    """
    python = os.environ.get(PYTHON_VARIABLE, "")
    if not python:
        raise ModelRefusedError(
            "it is an MLflow pyfunc, and loading one runs code from its artefacts: set ALLOW_PICKLE=true if you trust"
            " whoever registers models"
        )
    return python


def environment(python: str, *, allowed: bool) -> dict[str, str]:
    """What the environment of every process that may load models must say.

    Parameters
    ----------
    python
        Interpreter; empty: this process's own.
    """
    return {PYTHON_VARIABLE: (python or sys.executable) if allowed else ""}
