"""The command line, put together: one small module per command."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from shadow_mlops.cli import (
    access,
    challenger,
    compare,
    console,
    demo,
    doctor,
    drift,
    events,
    features,
    gate,
    gateevaluate,
    gateway,
    models,
    monitor,
    outcomes,
    remote,
    replay,
    retrain,
    retraintrain,
    traffic,
    up,
)
from shadow_mlops.cli.exits import exit_code
from shadow_mlops.domain.errors import ShadowError

app = typer.Typer(
    name="shadow",
    help="Shadow deployment and drift detection for ML models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(gateway.gateway)
app.command()(challenger.challenger)
app.command()(monitor.monitor)
app.command()(console.console)
app.command()(compare.compare)
app.command()(traffic.traffic)
app.command()(replay.replay)
app.command()(doctor.doctor)
models.app.command("register-remote")(remote.register_remote)
app.add_typer(models.app, name="models")
app.add_typer(access.app, name="access")
app.add_typer(outcomes.app, name="outcomes")
app.add_typer(events.app, name="events")
app.add_typer(features.app, name="features")
gate.app.command("evaluate")(gateevaluate.evaluate)
app.add_typer(gate.app, name="gate")
app.add_typer(drift.app, name="drift")
app.add_typer(demo.app, name="demo")
retrain.app.command("train")(retraintrain.train)
app.add_typer(retrain.app, name="retrain")


def main() -> None:
    """Run the command; an error is one line on standard error and an exit code."""
    try:
        app()
    except ShadowError as error:
        Console(stderr=True, soft_wrap=True).print(f"shadow: {error}", style="red", markup=False, highlight=False)
        sys.exit(exit_code(error))
