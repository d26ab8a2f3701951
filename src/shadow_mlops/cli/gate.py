"""``shadow gate``: what stands between a challenger and promotion, and why; evidence made again; canary steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.orders import origin, rollout_of
from shadow_mlops.deployment import load_deployment
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:  # DuckDB, Arrow and SQLAlchemy take a second to import: only who asks a gate pays for them
    from shadow_mlops.rollout.canary import CanaryChange
    from shadow_mlops.rollout.gate import Gates, GateStatus
    from shadow_mlops.rollout.standing import Standing

app = typer.Typer(no_args_is_help=True, help="The gate between a challenger and promotion, and canary steps.")
FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the audit trail.")]
_COLOURS = {"promote": "green", "reject": "red", "keep_watching": "yellow"}
_WORDS = {"promote": "promote", "reject": "reject", "keep_watching": "keep watching"}


@app.command()
def status(output: FormatOption = "text", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """What each gate says now.

    Exit codes: 0 told, also when there is none yet, 1 lake or database do not answer, 2 wrong arguments.

    Example: shadow gate status --format json
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    standing = _standing(settings)
    if output == "json":
        _print_json(standing.as_json())
        return
    console = Console(highlight=False)
    if not standing.gates:
        console.print(standing.nothing)
    for gate in standing.gates:
        for part in _status(gate):
            console.print(part)
    if standing.canary is not None:
        console.print(_canary_words(standing))


@app.command()
def explain(deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """What each gate asks, what it has seen, and what would change its mind, in sentences.

    Example: shadow gate explain
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    standing = _standing(settings)
    console = Console(highlight=False)
    for line in standing.explained():
        console.print(line)


@app.command()
def verify(
    evidence: Annotated[str, typer.Argument(metavar="ID", help="Id of the evidence, from shadow gate status.")],
    output: FormatOption = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a record of evidence again from the lake: the same bytes, and an unbroken chain.

    Exit codes: 0 it holds, 1 it does not, or lake or database do not answer.

    Example: shadow gate verify 0f3c5a7be1d24890
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    found = _gates(settings).verify(evidence)
    if output == "json":
        _print_json(msgspec.to_builtins(found))
    elif found.valid:
        print(f"evidence {evidence} holds: made again from the lake to the same bytes, chain intact")
    else:
        print(f"evidence {evidence} does NOT hold:")
        for problem in found.problems:
            print(f"  {problem}")
    if not found.valid:
        raise typer.Exit(1)


@app.command()
def start(
    role: Annotated[str, typer.Argument(help="Role of the challenger.")] = "challenger",
    reason: ReasonOption = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Let a challenger answer the first share of the entities.

    Exit codes: 0 done, 3 the state forbids it, 4 model or registry.

    Example: shadow gate start --reason "gate says promote"
    """
    rollout = rollout_of(load_settings(deployment_file=deployment, data_dir=data_dir))
    _print_change(rollout.canaries.start(role, reason=reason, **origin()))


@app.command()
def advance(reason: ReasonOption = "", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """Go to the canary's next share without waiting for its values.

    Example: shadow gate advance --reason "no complaints"
    """
    rollout = rollout_of(load_settings(deployment_file=deployment, data_dir=data_dir))
    _print_change(rollout.canaries.advance(reason=reason, **origin()))


@app.command()
def freeze(reason: ReasonOption = "", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """Hold the canary's share where it is; harm still ends it.

    Example: shadow gate freeze --reason "release stop over the weekend"
    """
    rollout = rollout_of(load_settings(deployment_file=deployment, data_dir=data_dir))
    _print_change(rollout.canaries.freeze(frozen=True, reason=reason, **origin()))


@app.command()
def resume(reason: ReasonOption = "", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """Let a frozen canary go on.

    Example: shadow gate resume --reason "Monday"
    """
    rollout = rollout_of(load_settings(deployment_file=deployment, data_dir=data_dir))
    _print_change(rollout.canaries.freeze(frozen=False, reason=reason, **origin()))


@app.command()
def abort(reason: ReasonOption = "", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """End the canary: the champion answers all again.

    Example: shadow gate abort --reason "complaints from support"
    """
    rollout = rollout_of(load_settings(deployment_file=deployment, data_dir=data_dir))
    _print_change(rollout.canaries.abort(reason=reason, **origin()))


def _status(gate: GateStatus) -> Iterator[RenderableType]:
    decision = gate.decision
    yield Text.assemble(
        (f"{gate.name} {gate.challenger}", "bold"),
        f" against champion {gate.champion}: ",
        (_WORDS[decision.decision], f"bold {_COLOURS[decision.decision]}"),
    )
    for reason in decision.reasons:
        yield f"  {reason}"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    table.add_row("metric", decision.metric)
    table.add_row("mean difference", "-" if decision.estimate is None else f"{decision.estimate:+.5g}")
    interval = "not yet shown" if decision.interval is None else "{:+.5g} to {:+.5g}".format(*decision.interval)
    table.add_row("confidence sequence", interval)
    table.add_row("evidence", f"{decision.e_value:.4g} (harm: {decision.e_value_harm:.4g})")
    needed = "-" if decision.labels_needed is None else f"{decision.labels_needed:,}"
    table.add_row("entities", f"{decision.labelled:,} so far, some {needed} more may do")
    table.add_row("cohorts", f"{gate.cohorts:,} closed; {gate.late:,} requests came after their cohort")
    for guard in decision.guardrails:
        table.add_row(f"guardrail {guard.name}", f"{guard.state}, evidence {guard.e_value:.4g}")
    if gate.evidence_id is not None:
        table.add_row("evidence id", gate.evidence_id)
    yield table
    yield ""


def _canary_words(standing: Standing) -> str:
    canary = standing.canary
    if canary is None:
        return ""
    frozen = ", frozen" if canary.frozen else ""
    step = standing.step
    seen = "" if step is None else f"; {step.values:,} values, {step.harmed:,} of {step.answered:,} answers harmed"
    return (
        f"canary {canary.version}: step {canary.step + 1} of {canary.steps}, {canary.share:.4g} of the entities{frozen}"
        f"{seen}"
    )


def _print_change(change: CanaryChange) -> None:
    canary = change.canary
    told = "there is no canary any more"
    if canary is not None:
        told = f"{canary.version} answers {canary.share:.4g} of the entities"
    print(f"{change.action}: {told}; {change.followed.detail} (audit entry {change.audit_id})")


def _standing(settings: Settings) -> Standing:
    from shadow_mlops.processes.gating import standing_of  # noqa: PLC0415 - as above
    from shadow_mlops.processes.rollout import state_of  # noqa: PLC0415

    return standing_of(settings, load_deployment(settings.deployment_file), state_of(settings))


def _gates(settings: Settings) -> Gates:
    from shadow_mlops.processes.gating import open_gates  # noqa: PLC0415 - as above
    from shadow_mlops.processes.rollout import state_of  # noqa: PLC0415

    return open_gates(settings, load_deployment(settings.deployment_file), state_of(settings))


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
