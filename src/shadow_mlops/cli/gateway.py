"""``shadow gateway``."""

from __future__ import annotations

from typing import Annotated

import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import load_settings


def gateway(
    port: Annotated[int | None, typer.Option(help="Port (API_PORT).", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (API_WORKERS).", show_default=False)] = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve predictions only: workers, the alias resolver, durable log. `shadow up` runs this and the rest.

    Exit codes: 0 ended on request, 2 wrong input.

    Example: shadow gateway --port 8000 --workers 2 --deployment shadow.yaml
    """
    from shadow_mlops.deployment import load_deployment  # noqa: PLC0415 - other commands need none of it
    from shadow_mlops.processes import gateway as process  # noqa: PLC0415

    settings = load_settings(api_port=port, api_workers=workers, deployment_file=deployment, data_dir=data_dir)
    load_deployment(settings.deployment_file)
    process.run(settings)
