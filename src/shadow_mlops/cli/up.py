"""``shadow up``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import Settings, load_settings


def up(  # noqa: PLR0917 - one parameter per option
    port: Annotated[int | None, typer.Option(help="Port (API_PORT).", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway workers (API_WORKERS).", show_default=False)] = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    feature_repo: Annotated[
        Path | None,
        typer.Option(help="Feast repository of the bundled example; without it the example has no feature store."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Replace workers when the code or the YAML changes.")
    ] = False,
) -> None:
    """Run everything: gateway, one process per challenger, monitor, console. Ctrl-C ends it cleanly.

    Where there is no deployment file, the bundled churn example is trained the first time and served.
    Exit codes: 0 ended on request, 1 a process had to be killed, 2 wrong input, 3 already running.

    Example: shadow up --port 8000 --workers 2 --deployment shadow.yaml
    """
    from shadow_mlops.processes import supervisor  # noqa: PLC0415 - other commands need none of it

    started = time.monotonic()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    settings = load_settings(api_port=port, api_workers=workers, deployment_file=deployment, data_dir=data_dir)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    settings = settings.model_copy(
        update={"deployment_file": _deployment_file(settings, deployment, feature_repo, console)}
    )
    whereabouts = _token_whereabouts(settings)
    watch = [settings.deployment_file, Path(__file__).resolve().parents[1]] if reload else []

    def ready(url: str) -> None:
        seconds = time.monotonic() - started
        console.print(
            f"[green]ready[/] in {seconds:.1f} s: {url}  (docs {url}/docs, health {url}/health; Ctrl-C ends it)"
        )
        console.print(f"operators: Authorization: Bearer TOKEN; {whereabouts}")

    raise typer.Exit(supervisor.run(settings, watch=watch, on_ready=ready))


def _token_whereabouts(settings: Settings) -> str:
    from shadow_mlops.access import operator_token, token_file  # noqa: PLC0415

    configured = settings.operator_token.get_secret_value()
    operator_token(settings.data_dir, configured)  # the file is there before anybody is told of it
    return "the token is OPERATOR_TOKEN's" if configured else f"the token is in {token_file(settings.data_dir)}"


def _deployment_file(settings: Settings, asked: Path | None, feature_repo: Path | None, console: Console) -> Path:
    if asked is not None or settings.deployment_file.exists():
        return settings.deployment_file.absolute()
    from shadow_mlops.cli.example import ensure_example  # noqa: PLC0415

    return ensure_example(settings, console, feature_repo=feature_repo).absolute()
