"""``shadow models register-remote``: a model that runs elsewhere becomes a version like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.deployment import load_deployment
from shadow_mlops.models.endpoint import TIMEOUT_MS, endpoint_of
from shadow_mlops.models.registry import Registry
from shadow_mlops.processes.settings import load_settings


def register_remote(  # noqa: PLR0917 - one parameter per option
    version: Annotated[str, typer.Option("--version", help="Human version, new to the model.")],
    url: Annotated[
        str,
        typer.Option("--url", help="Where it is: the server, or the whole address (…/infer, …/invocations)."),
    ],
    signature: Annotated[
        Path,
        typer.Option(
            "--signature",
            help="JSON file with features, task, classes and a few rows to probe with; or a prepared directory.",
            exists=True,
        ),
    ],
    protocol: Annotated[
        Literal["v2", "mlflow"],
        typer.Option("--protocol", help="Open Inference Protocol v2, or MLflow's /invocations."),
    ] = "v2",
    name: Annotated[
        str, typer.Option("--name", help="Registered model; by default the deployment's.", show_default=False)
    ] = "",
    timeout_ms: Annotated[
        int, typer.Option("--timeout-ms", help="Within which it must answer, as a whole.")
    ] = TIMEOUT_MS,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="Role to give it; may be repeated.", show_default=False)
    ] = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Register a model that runs elsewhere as a version, after it has answered a few rows.

    What it answers now is what it must answer whenever it is loaded. Give it an alias to make it champion or
    challenger, here or later; `shadow models promote` works too. Exit codes: 0 registered, 2 wrong input, 3 the version
    exists, 4 its answers are no scores, or no answer from the registry, 5 the remote model does not answer.

    Example: shadow models register-remote --version 4.0 --url http://models:8080 --protocol v2 --signature churn.json
    """
    from shadow_mlops.models import remotes  # noqa: PLC0415 - other commands need no HTTP client

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    model = name or load_deployment(settings.deployment_file).name
    endpoint = endpoint_of(model, url=url, protocol=protocol, timeout_ms=timeout_ms)
    found, rows = remotes.read_remote_signature(signature)
    card = remotes.register_remote(
        Registry(settings.tracking_uri, settings.artifact_root),
        name=model,
        version=version,
        endpoint=endpoint,
        signature=found,
        rows=rows,
        aliases=tuple(alias or ()),
    )
    typer.echo(f"registered {model} {version} (number {card.registry_version}), served by {endpoint.shown}")
