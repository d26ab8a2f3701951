"""``shadow outcomes``: what really happened, from a file into the log."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.outcomefiles import OutcomeFile, OutcomeRows
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.events import OUTCOMES, OutcomeSchema
from shadow_mlops.eventlog.records import OutcomeBatch
from shadow_mlops.eventlog.seam import Appender
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.settings import load_settings

WRITER = "import"
_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 120.0  # without one outcome archived: a round over a large lake takes less
_MONITOR_CHECK_POLLS = 8  # a look at the monitor's lock holds it for microseconds; every two seconds is often enough

app = typer.Typer(help="Outcomes: what really happened after the predictions.", no_args_is_help=True)

OnRows = Callable[[int], None]


class Summary(msgspec.Struct, kw_only=True):
    """What an import did; with ``--format json`` this is what is printed."""

    file: str
    outcomes: int
    seconds: float
    archived: bool
    """False: the log has them, and they are joined when the monitor comes to them; the counts below are then 0."""
    joined: int = 0
    repeated: int = 0
    contradicting: int = 0
    late: int = 0
    invalid: int = 0
    unmatched: int = 0


class Progressing:
    """Bars on standard error, if that is a terminal: count or part, rate, time left."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def bar(self, name: str, total: float) -> Callable[[float, str], None]:
        """A bar; the function that is returned moves it to a value and shows a note."""
        began = time.perf_counter()
        task = self.progress.add_task(name, total=total, note="")

        def show(value: float, note: str = "") -> None:
            rate = value / max(time.perf_counter() - began, 1e-9)
            self.progress.update(task, completed=value, note=f"{rate:,.0f}/s {note}" if total > 1 else note)

        return show


def check_file(file: OutcomeFile, progressing: Progressing) -> int:
    """Read the file once, so that nothing of a wrong one is logged.

    Returns
    -------
    int
        Rows in it.

    Raises
    ------
    ImportFileError
        Naming the first row that is wrong.
    """
    show = progressing.bar("checking", 1.0)
    return sum(len(rows.labels) for rows in file.rows(lambda part: show(part, "")))


def append_outcomes(
    file: OutcomeFile, appender: Appender, deployment: str, on_rows: OnRows | None = None
) -> dict[int, int]:
    """Append every row of a file to the log, and sync it.

    Returns
    -------
    dict
        Segment -> row after the last one that was appended to it.

    Raises
    ------
    ImportFileError
        If the file has become another one since it was checked; what stood before that row is in the log.
    AppendError
        If the log cannot be written; what was appended before stays, and importing again changes nothing of it.
    """
    schema = OutcomeSchema(deployment=deployment)
    ends: dict[int, int] = {}
    for rows in file.rows():
        segment, first = appender.append(_batch(schema, rows))
        ends[segment] = first + len(rows.labels)
        if on_rows is not None:
            on_rows(len(rows.labels))
    appender.sync()
    return ends


def _batch(schema: OutcomeSchema, rows: OutcomeRows) -> OutcomeBatch:
    return OutcomeBatch(
        schema=schema,
        received=np.full(len(rows.labels), time.time_ns() // 1000, dtype=np.int64),
        times=rows.times,
        labels=rows.labels,
        request_ids=rows.request_ids,
        entities=rows.entities,
    )


def monitor_runs(data_dir: Path) -> bool:
    """Whether a monitor runs on this data directory."""
    try:
        descriptor = os.open(data_dir / "run" / "monitor.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none has ever run, or we may not know
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_until_archived(data_dir: Path, ends: dict[int, int], progressing: Progressing) -> None:
    """Return when the lake has these rows.

    Parameters
    ----------
    ends
        As :func:`append_outcomes` returns them.

    Raises
    ------
    UnavailableError
        If the monitor has ended before.
    LakeError
        If the lake cannot be read.
    """
    from shadow_mlops.lake.manifest import read_manifest  # noqa: PLC0415 - the other commands need no lake

    lake = data_dir / "lake"
    before = read_manifest(lake).counts.get("joined", 0)
    firsts = read_manifest(lake).positions.get(OUTCOMES, {})
    total = sum(end - firsts.get(segment, 0) for segment, end in ends.items())
    show = progressing.bar("joining", total)
    polls = 0
    reached: dict[int, int] = {}
    fewest, moved = total + 1, time.monotonic()
    while True:
        manifest = read_manifest(lake)
        now = manifest.positions.get(OUTCOMES, {})
        # The manifest forgets a segment that the log has forgotten, which happens to no segment before it is archived.
        gone = {segment: ends[segment] for segment in reached.keys() - now.keys()}
        reached |= {segment: now[segment] for segment in ends.keys() & now.keys()} | gone
        left = sum(max(end - reached.get(segment, 0), 0) for segment, end in ends.items())
        if left < fewest:
            fewest, moved = left, time.monotonic()
        elif time.monotonic() - moved > _PATIENCE_SECONDS:
            raise UnavailableError(
                f"nothing was archived for {_PATIENCE_SECONDS:.0f} s, see the monitor's log and shadow_lake_failing;"
                f" {left:,} outcomes are in the log and are joined when it can"
            )
        show(total - left, f"{manifest.counts.get('joined', 0) - before:,} joined")
        if not left:
            return
        polls += 1
        if polls % _MONITOR_CHECK_POLLS == 0 and not monitor_runs(data_dir):
            raise UnavailableError(
                f"the monitor has ended; {left:,} outcomes are in the log and are joined when one runs again"
            )
        time.sleep(_POLL_SECONDS)


def render(summary: Summary) -> str:
    """The summary as lines for a person."""
    rate = summary.outcomes / max(summary.seconds, 1e-9)
    lines = [f"imported  {summary.outcomes:,} outcomes of {summary.file} in {summary.seconds:.1f} s ({rate:,.0f}/s)"]
    if not summary.archived:
        return "\n".join([*lines, "pending   they are in the log and are joined when the monitor comes to them"])
    names = ("joined", "repeated", "contradicting", "late", "invalid", "unmatched")
    counts = {name: getattr(summary, name) for name in names}
    lines.append("became    " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
    if summary.unmatched:
        lines.append("hint      unmatched ones are kept and tried again when later predictions are archived")
    return "\n".join(lines)


@app.command("import")
def import_file(  # noqa: PLR0917 - one parameter per option
    file: Annotated[Path, typer.Argument(help="CSV (.csv, .tsv, also .gz) or Parquet file with a header.")],
    request_id: Annotated[str | None, typer.Option(help="Column of the request id. [default: request_id]")] = None,
    entity: Annotated[str | None, typer.Option(help="Column of the entity. [default: entity]")] = None,
    time_column: Annotated[str | None, typer.Option("--time", help="Column of the time. [default: time]")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label. [default: label]")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the monitor has joined them.")] = True,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of the summary.")] = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Import outcomes: columns request_id and label, or entity, time and label.

    The whole file is checked first; of a wrong one nothing is imported. Importing a file again changes no comparison.
    Times without a zone are UTC. Exit codes: 0 imported, 1 the log cannot be written, 2 wrong file or arguments, 5 the
    monitor ended meanwhile.

    Example: shadow outcomes import labels.csv --request-id id --label churned
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    described = load_deployment(settings.deployment_file)
    source = OutcomeFile(file, label=label, request_id=request_id, entity=entity, time=time_column)
    began = time.perf_counter()
    progressing = Progressing()
    with progressing.progress:
        total = check_file(source, progressing)
        show = progressing.bar("importing", total)
        done = 0

        def on_rows(count: int) -> None:
            nonlocal done
            done += count
            show(done, "")

        ends: dict[int, int] = {}
        if total:
            appender = open_log(settings, described).appender(OUTCOMES, writer=WRITER)
            try:
                ends = append_outcomes(source, appender, described.name, on_rows)
            finally:
                appender.close()
        archived = wait and monitor_runs(settings.data_dir)
        if archived:
            wait_until_archived(settings.data_dir, ends, progressing)
    summary = Summary(file=str(file), outcomes=done, seconds=round(time.perf_counter() - began, 3), archived=archived)
    if archived:
        _count(summary, settings.data_dir / "lake", ends)
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    else:
        print(render(summary))
    if wait and not archived:
        print("no monitor runs on this data directory; `shadow up` starts one", file=sys.stderr)


def _count(summary: Summary, lake: Path, ends: dict[int, int]) -> None:
    from shadow_mlops.lake.verdicts import verdicts  # noqa: PLC0415 - the other commands need no lake

    counts = verdicts(lake, ends.keys())
    for name, count in counts.items():
        setattr(summary, name, count)
    summary.unmatched = summary.outcomes - sum(counts.values())
