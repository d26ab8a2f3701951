"""``shadow retrain``: how the retraining trigger stands, what it has set going, and retraining by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import psutil
import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.orders import origin
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:  # SQLAlchemy and what drift needs take a second to import: only who asks pays for them
    from sqlalchemy import Engine

    from shadow_mlops.retraining.standing import Standing
    from shadow_mlops.state.triggers import Trigger

app = typer.Typer(no_args_is_help=True, help="The retraining trigger: how it stands, what it did, and by hand.")
FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")]


@app.command()
def run(  # noqa: PLR0917 - one parameter per option
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run and how the trigger stands.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Queue it though another one runs or waits.")] = False,
    output: FormatOption = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Retrain now, whatever cool-down and budget say: the monitor runs what the deployment file names.

    Exit codes: 0 recorded (or told, with --dry-run), 1 the database does not answer, 2 wrong arguments, 3 another one
    runs or waits, or no action is configured.

    Example: shadow retrain run --reason "new price list since Monday"
    """
    from shadow_mlops.processes.retraining import open_orders  # noqa: PLC0415 - as above

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    named = load_deployment(settings.deployment_file)
    if dry_run:
        _print_standing(_standing(settings, named), output, dry=True)
        return
    order = open_orders(settings, named, _state(settings)).order(reason=reason, force=force, **origin())
    if output == "json":
        _print_json(order)
        return
    when = "within seconds" if _monitor_runs(settings.data_dir) else "once it is started (`shadow up`)"
    print(f"{order.key}: recorded; the monitor of {settings.data_dir} runs {when}: {order.action}")
    for note in order.notes:
        print(f"  by hand all the same: {note}")


@app.command()
def status(output: FormatOption = "text", deployment: DeploymentOption = None, data_dir: DataDirOption = None) -> None:
    """How the trigger stands: checks in a row, episode, cool-down, what runs, and why it would or would not fire now.

    Exit codes: 0 told, 1 the database does not answer, 2 wrong arguments.

    Example: shadow retrain status --format json
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    _print_standing(_standing(settings, load_deployment(settings.deployment_file)), output, dry=False)


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most triggers, the newest first.")] = 20,
    output: FormatOption = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """What has fired or was held back, and what came of it.

    Example: shadow retrain history --limit 5
    """
    from shadow_mlops.state import triggers  # noqa: PLC0415 - as above

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    name = load_deployment(settings.deployment_file).name
    found = triggers.recent(_state(settings), name, limit)
    if output == "json":
        _print_json(found)
    elif not found:
        print(f"nothing has called for retraining {name} yet")
    else:
        for trigger in found:
            _print_trigger(trigger)


def _print_trigger(trigger: Trigger) -> None:
    tried = "never tried" if trigger.attempts == 0 else f"tried {trigger.attempts} x"
    print(f"{trigger.fired_at}  {trigger.key}  {trigger.state}, {tried}, by {trigger.who}")
    print(f"  {trigger.reason or 'no reason given'}")
    if trigger.suppressed:
        print(f"  held back at first: {trigger.suppressed}")
    if trigger.problem:
        print(f"  last problem: {trigger.problem}")


def _print_standing(found: Standing, output: str, *, dry: bool) -> None:
    if output == "json":
        _print_json({"dry_run": dry, **msgspec.to_builtins(found)})
        return
    if dry:
        print(f"would run: {found.action}")
        if found.running or found.waiting:
            print(f"  refused without --force: {found.running or found.waiting[0]} runs or waits already")
        print("  cool-down and budget do not hold back a person; nothing has been recorded")
    else:
        print(f"{found.deployment}: {found.kind or 'no action'}: {found.action}")
    print(f"trigger of drift {'would fire' if found.would_fire else 'does not fire'} now: {found.why}")
    pace = f"one each {found.interval_hours:g} h of the log's time"
    print(f"  checks in a row   {found.drifted} of {found.windows}, {pace}")
    print(f"  last check        {found.looked_at or 'none'}; the next from {found.next_check or 'the first window'} on")
    print(f"  last fired        {found.last_fired_at or 'never'}{f'; {found.held_back}' if found.held_back else ''}")
    if found.episode is not None:
        told = f"fired {found.episode.fired_at}" if found.episode.fired_at else f"held back ({found.episode.held_back})"
        print(f"  open episode      {found.episode.key} since {found.episode.since}, {told}")
    print(f"  running           {found.running or 'nothing'}; waiting: {', '.join(found.waiting) or 'nothing'}")


def _standing(settings: Settings, deployment: Deployment) -> Standing:
    from shadow_mlops.processes.retraining import standing_of  # noqa: PLC0415 - as above

    return standing_of(settings, deployment, _state(settings))


def _state(settings: Settings) -> Engine:
    from shadow_mlops.processes.rollout import state_of  # noqa: PLC0415 - as above
    from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415

    configure_logs("retrain", level="ERROR")  # standard output is the answer's
    return state_of(settings)


def _monitor_runs(data_dir: Path) -> bool:
    """Whether the process that holds the monitor's lock is there; for a sentence, no more."""
    try:
        return psutil.pid_exists(int((data_dir / "run" / "monitor.lock").read_text()))
    except (OSError, ValueError):
        return False


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
