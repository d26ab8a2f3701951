"""``shadow challenger``."""

from __future__ import annotations

from typing import Annotated

import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import load_settings


def challenger(
    name: Annotated[str, typer.Argument(help="Its alias in the registry: challenger or challenger-NAME.")],
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Shadow with one challenger in the foreground, at idle priority.

    It reads the event log at its own pace and appends its results, as under `shadow up`; Ctrl-C ends it.
    Exit codes: 0 ended on request, 2 wrong input, 3 a challenger of that name is already running.

    Example: shadow challenger challenger --data-dir .shadow
    """
    from shadow_mlops.processes import challenger as process  # noqa: PLC0415 - other commands need none of it

    process.run(load_settings(deployment_file=deployment, data_dir=data_dir), name)
