"""``shadow models``: what the registry holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.orders import origin, rollout_of
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.preparation import prepared_directory
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:
    from shadow_mlops.rollout import Switch

app = typer.Typer(help="Model versions in the registry.", no_args_is_help=True)

NameOption = Annotated[
    str, typer.Option("--name", help="Registered model; by default the deployment's.", show_default=False)
]
FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail.", show_default=False)]


class Listed(msgspec.Struct, kw_only=True):
    """One version as ``shadow models list --format json`` prints it."""

    name: str
    version: str
    registry_version: str
    aliases: tuple[str, ...]
    runtime: str | None
    """None for a version that another tool registered; known once it is prepared."""
    metrics: dict[str, float]


@app.command("list")
def list_versions(
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    name: NameOption = "",
    format: FormatOption = "text",  # noqa: A002 - the flag's name
) -> None:
    """List the versions of the deployment's model, oldest first, with their aliases and metrics.

    Exit codes: 0 listed, 2 wrong input, 4 no such model or no answer from the registry.

    Example: shadow models list --format json
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    registry = _registry(settings)
    listed = [_listed(registry, found) for found in registry.versions(name or _model_name(settings))]
    if format == "json":
        typer.echo(msgspec.json.encode(listed).decode())
        return
    table = Table("version", "number", "aliases", "runtime", "metrics", box=None, pad_edge=False)
    for each in listed:
        table.add_row(
            each.version,
            each.registry_version,
            ", ".join(each.aliases),
            each.runtime or "",
            "  ".join(f"{key} {value:.4g}" for key, value in sorted(each.metrics.items())),
        )
    Console(soft_wrap=True).print(table)


@app.command("show")
def show_version(
    version: Annotated[str, typer.Argument(help="Human version, or the registry's number of an untagged one.")],
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    name: NameOption = "",
) -> None:
    """Show one version as JSON: aliases, tags, metrics, and its card once it has been prepared on this host.

    Exit codes: 0 shown, 2 wrong input, 4 no such version or no answer from the registry.

    Example: shadow models show 2.1.0
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    registry = _registry(settings)
    model = name or _model_name(settings)
    wanted = registry.version(model, version).number
    found = next(each for each in registry.versions(model) if each.number == wanted)
    card = _card(settings, found)
    shown = {
        **msgspec.to_builtins(_listed(registry, found)),
        "tags": found.tags,
        "run_id": found.run_id,
        "card": card and msgspec.to_builtins(card),
    }
    typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Human version, or the registry's number of an untagged one.")],
    reason: ReasonOption = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    format: FormatOption = "text",  # noqa: A002 - the flag's name
) -> None:
    """Make a version champion; the old champion becomes `previous` and a challenger.

    The version is loaded in a process of its own first, where it must give the outputs that were recorded at its
    registration; otherwise nothing changes. Whatever comes of it is in the audit trail.

    Exit codes: 0 promoted, 2 wrong input, 3 pinned, or champion already, 4 no such version, refused, or no
    answer from the registry, 5 promoted, but this host's gateway does not serve it yet.

    Example: shadow models promote 3.0.0-beta --reason "better log loss for a week"
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    _report(rollout_of(settings).promote(version, reason=reason, **origin()), format)


@app.command()
def rollback(
    reason: ReasonOption = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    format: FormatOption = "text",  # noqa: A002 - the flag's name
) -> None:
    """Make the version with the alias `previous` champion again; a second rollback undoes the first.

    Exit codes: 0 rolled back, 2 wrong input, 3 pinned, or nothing to roll back to, 4 refused, or no answer from the
    registry, 5 rolled back, but this host's gateway does not serve it yet.

    Example: shadow models rollback --reason "complaints"
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    _report(rollout_of(settings).rollback(reason=reason, **origin()), format)


def _report(switch: Switch, form: str) -> None:
    if form == "json":
        typer.echo(msgspec.json.encode(switch).decode())
    else:
        verb = "promoted to" if switch.action == "promote" else "rolled back to"
        shadowing = ", ".join(f"{role} {version}" for role, version in switch.roles.challengers.items()) or "nobody"
        typer.echo(f"{switch.roles.model}: {verb} {switch.to_version} (before: {switch.from_version or 'none'})")
        typer.echo(f"shadowing: {shadowing}")
        typer.echo(f"{switch.followed.detail} (audit entry {switch.audit_id})")
    if switch.followed.gateway and not switch.followed.served:
        raise typer.Exit(5)


def _registry(settings: Settings) -> Registry:
    return Registry(settings.tracking_uri, settings.artifact_root)


def _model_name(settings: Settings) -> str:
    return load_deployment(settings.deployment_file).name


def _listed(registry: Registry, found: RegisteredVersion) -> Listed:
    return Listed(
        name=found.name,
        version=found.human,
        registry_version=found.number,
        aliases=found.aliases,
        runtime=found.tags.get("runtime"),
        metrics=registry.metrics(found),
    )


def _card(settings: Settings, found: RegisteredVersion) -> ModelCard | None:
    try:
        return read_card(prepared_directory(settings.data_dir, found.name, found.number))
    except ModelRefusedError:
        return None  # never served here
