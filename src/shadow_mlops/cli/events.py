"""``shadow events``: predictions that were answered elsewhere, from a file into the log."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.processes.settings import load_settings

if TYPE_CHECKING:
    from shadow_mlops.cli.eventfiles import EventFile
    from shadow_mlops.cli.outcomes import Progressing
    from shadow_mlops.console.checking import Checker
    from shadow_mlops.eventlog.seam import EventLog

WRITER = "import"

app = typer.Typer(help="Events: predictions that were answered elsewhere.", no_args_is_help=True)


class Summary(msgspec.Struct, kw_only=True):
    """What an import did; with ``--format json`` this is what is printed."""

    file: str
    imported: int = 0
    recorded: int = 0
    """Left out: an event with this request id is in the log, in the lake, or before it in the file."""
    unpaired: int = 0
    """Requests without response, and responses without request, in a file of CloudEvents."""
    seconds: float = 0.0


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="Lines of JSON (events or KServe CloudEvents), or Parquet.")],
    version: Annotated[str | None, typer.Option(help="Version that answered, where a row does not say it.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of the summary.")] = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Import predictions that were answered elsewhere; challengers score them like the gateway's own.

    A line is an event as POST /events takes it, or a CloudEvent of KServe's logger. A Parquet file has the columns
    request_id, time, version and score (or scores, or label), may have entity and latency_ms, and has one for each
    feature. The whole file is checked first; of a wrong one nothing is imported. An event whose request id is recorded
    already is left out, so that importing a file again changes nothing. Exit codes: 0 imported, 1 the log cannot be
    written, 2 wrong file or arguments, 5 no model is known yet.

    Example: shadow events import predictions.parquet --version 2.1.0
    """
    from shadow_mlops.cli.eventfiles import EventFile  # noqa: PLC0415 - other commands need no Parquet
    from shadow_mlops.cli.outcomes import Progressing  # noqa: PLC0415 - as above
    from shadow_mlops.console.checking import Checker  # noqa: PLC0415 - as above
    from shadow_mlops.deployment import load_deployment  # noqa: PLC0415 - as above
    from shadow_mlops.processes.logfiles import open_log  # noqa: PLC0415 - as above

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    described = load_deployment(settings.deployment_file)
    checker = Checker(settings.data_dir, described)
    began = time.perf_counter()
    progressing = Progressing()
    with progressing.progress:
        summary = import_events(
            EventFile(file, checker, version=version),
            checker,
            open_log(settings, described),
            settings.data_dir / "lake",
            progressing,
        )
    summary.seconds = round(time.perf_counter() - began, 3)
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    else:
        print(render(summary))


def import_events(
    file: EventFile, checker: Checker, event_log: EventLog, lake: Path, progressing: Progressing
) -> Summary:
    """Check a file, then append what is not recorded yet.

    Raises
    ------
    ImportFileError
        Naming the first row that is wrong; nothing was imported.
    AppendError
        If the log cannot be written; what was appended stays, and importing again leaves it out.
    LakeError
        If the lake cannot be read.
    UnavailableError
        If no model is known yet.
    """
    import numpy as np  # noqa: PLC0415 - other commands need none

    from shadow_mlops.cli.eventfiles import batches_of, hashes, recorded  # noqa: PLC0415 - as above
    from shadow_mlops.domain.events import EVENTS  # noqa: PLC0415 - as above

    summary = Summary(file=str(file.path))
    show = progressing.bar("checking", 1.0)
    parts = [hashes([event.request_id for event in events]) for events in file.events(lambda part: show(part, ""))]
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    summary.unpaired = file.unpaired.count
    known = recorded(event_log, lake, ids)
    ids.sort()
    repeated = set(ids[1:][ids[1:] == ids[:-1]].tolist())
    show = progressing.bar("importing", float(len(ids)))
    appender = None
    try:
        for events in file.events(check=False):  # as the first pass did; what it refuses now has become another file
            fresh = []
            for event, key in zip(events, hashes([event.request_id for event in events]).tolist(), strict=True):
                if key in known:
                    continue
                fresh.append(event)
                if key in repeated:
                    known.add(key)
            for batch in batches_of(checker, fresh):
                appender = appender or event_log.appender(EVENTS, writer=WRITER)
                appender.append(batch)
            summary.imported += len(fresh)
            summary.recorded += len(events) - len(fresh)
            show(summary.imported + summary.recorded, "")
        if appender is not None:
            appender.sync()
    finally:
        if appender is not None:
            appender.close()
    return summary


def render(summary: Summary) -> str:
    """The summary as lines for a person."""
    rate = (summary.imported + summary.recorded) / max(summary.seconds, 1e-9)
    lines = [f"imported  {summary.imported:,} events of {summary.file} in {summary.seconds:.1f} s ({rate:,.0f}/s)"]
    if summary.recorded:
        lines.append(f"left      {summary.recorded:,} whose request id is recorded already")
    if summary.unpaired:
        lines.append(f"unpaired  {summary.unpaired:,} CloudEvents whose other half is not in the file")
    return "\n".join(lines)
