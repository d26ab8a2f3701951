"""``shadow replay``: what a version would have said, on traffic of the past."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.domain.deployment import Duration
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.settings import load_settings

if TYPE_CHECKING:
    from shadow_mlops.challenger.replay import OnProgress, Replayed


def moment(text: str, option: str) -> datetime:
    """A time on the command line: RFC 3339, a date, or an age such as ``24h``; UTC unless it names a zone.

    Raises
    ------
    SettingsError
        If it is none of these.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=Duration.parse(text))
        except (ValueError, OverflowError):
            raise SettingsError(
                f"{option} takes a time such as 2026-01-31T12:00:00Z or 2026-01-31, or an age such as 24h, not {text!r}"
            ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def progress_bar(name: str) -> tuple[Progress, OnProgress]:
    """A bar on standard error, if that is a terminal, and what moves it: part, rate, time left."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task(name, total=None, note="")
    began = 0.0

    def show(passed: int, total: int, scored: int) -> None:
        nonlocal began
        began = began or time.monotonic()  # loading the model is not scoring
        rate = scored / max(time.monotonic() - began, 1e-3)
        progress.update(task, completed=passed, total=total, note=f"{scored:,} scored, {rate:,.0f}/s")

    return progress, show


def render(done: Replayed) -> str:
    """What a replay did, as lines for a person."""
    what = f"of version {done.version}"
    if not done.events:
        lines = ["nothing to score: no sampled events are recorded of that span"]
    elif not done.scored and not done.interrupted:
        lines = [f"nothing to score: all {done.events:,} sampled events of that span have a result {what}"]
    else:
        rate = done.scored / max(done.seconds, 1e-9)
        lines = [f"scored    {done.scored:,} events in {done.seconds:.1f} s ({rate:,.0f}/s)"]
        counts = {"paired": done.paired, "timed out": done.timed_out, "errored": done.errored}
        lines.append("became    " + (", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "nothing"))
        if done.already_scored:
            lines.append(f"left      {done.already_scored:,} events that had a result {what}")
    if done.gone:
        lines.append(f"gone      {done.gone:,} events were removed from the log before they were archived")
    if done.interrupted:
        lines.append("interrupted; the same command goes on where it ended")
    return "\n".join(lines)


def replay(  # noqa: PLR0917 - one parameter per option
    model: Annotated[str, typer.Option(help="models:/NAME/VERSION (the human version) or models:/NAME@ALIAS.")],
    since: Annotated[
        str, typer.Option(help="Events from this time on: 2026-01-31T12:00:00Z, 2026-01-31, or an age: 24h.")
    ],
    until: Annotated[str | None, typer.Option(help="Events before this time. [default: now]")] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of the summary.")] = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Score recorded traffic with a version that was not there, as its live challenger would have done.

    Runs at full speed and normal priority. Events that the version has scored already are left alone: interrupt it
    whenever you like, the same command goes on. The monitor archives the results; `shadow compare` shows them. Exit
    codes: 0 done, 1 log or lake fails, 2 wrong arguments, 3 this version is being replayed, 4 no such model or it
    cannot be loaded, 5 the feature store does not answer, 130 interrupted.

    Example: shadow replay --model models:/churn/3.0.0-beta --since 24h
    """
    from shadow_mlops.processes import replay as process  # noqa: PLC0415 - other commands need none of it
    from shadow_mlops.processes.lifetime import Lifetime  # noqa: PLC0415 - as above
    from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415 - as above

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    configure_logs("replay", level="WARNING")  # a person reads what is printed at the end
    first, last = moment(since, "--since"), moment(until, "--until") if until else datetime.now(UTC)
    lifetime = Lifetime()
    progress, show = progress_bar("replaying")
    with progress:
        done = process.run(settings, model, since=first, until=last, stopping=lifetime.ending, on_progress=show)
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(done)) + b"\n")
    else:
        print(render(done))
    if done.interrupted:
        raise typer.Exit(130)
