"""``shadow console``."""

from __future__ import annotations

from typing import Annotated

import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import load_settings


def console(
    port: Annotated[
        int | None, typer.Option(help="Loopback port; 0 takes a free one (CONSOLE_PORT).", show_default=False)
    ] = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run the console in the foreground: comparison, logs, promotion, audit, for the gateway to forward to.

    Ctrl-C ends it; `shadow up` runs one. Exit codes: 0 ended on request, 2 wrong input, 3 one is running.

    Example: shadow console --data-dir .shadow
    """
    from shadow_mlops.processes import console as process  # noqa: PLC0415 - other commands need none of it

    process.run(load_settings(console_port=port, deployment_file=deployment, data_dir=data_dir))
