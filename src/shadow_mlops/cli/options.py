"""Options that every command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DeploymentOption: TypeAlias = Annotated[
    Path | None, typer.Option("--deployment", help="Deployment file (DEPLOYMENT_FILE).", show_default=False)
]
DataDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the log, the models and the registry live (DATA_DIR).", show_default=False),
]
