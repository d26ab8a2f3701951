"""``shadow monitor``."""

from __future__ import annotations

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import load_settings


def monitor(
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run the monitor in the foreground: retention and accounting of the event log.

    Ctrl-C ends it; `shadow up` runs one. Exit codes: 0 ended on request, 2 wrong input, 3 one is running.

    Example: shadow monitor --data-dir .shadow
    """
    from shadow_mlops.processes import monitor as process  # noqa: PLC0415 - other commands need none of it

    process.run(load_settings(deployment_file=deployment, data_dir=data_dir))
