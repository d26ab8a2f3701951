"""``shadow doctor``: whether this machine and this data directory are fit to run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.domain.errors import ShadowError
from shadow_mlops.processes.settings import Settings, load_settings

_ENOUGH_BYTES = 1 << 30


class Finding(msgspec.Struct, frozen=True):
    """Result of one check."""

    check: str
    status: Literal["ok", "warning", "failed"]
    detail: str


def doctor(
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Check settings, deployment file, disk, log, prepared models, keys and scheduling; changes nothing.

    Exit codes: 0 fit (perhaps with warnings), 1 something failed.

    Example: shadow doctor --data-dir .shadow
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    findings = [_run(name, check, settings) for name, check in _CHECKS.items()]
    if output == "json":
        print(msgspec.json.encode({"findings": findings}).decode())
    else:
        table = Table("check", "status", "detail", box=None)
        colours = {"ok": "green", "warning": "yellow", "failed": "red"}
        for f in findings:
            table.add_row(f.check, f"[{colours[f.status]}]{f.status}[/]", f.detail)
        Console().print(table)
    if any(f.status == "failed" for f in findings):
        raise typer.Exit(1)


def _run(
    name: str, check: Callable[[Settings], tuple[Literal["ok", "warning", "failed"], str]], settings: Settings
) -> Finding:
    try:
        return Finding(name, *check(settings))
    except (ShadowError, OSError) as error:
        return Finding(name, "failed", str(error))


def _python(_: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    return "ok", f"{sys.version.split()[0]} on {sys.platform}"


def _deployment(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    from shadow_mlops.deployment import load_deployment  # noqa: PLC0415 - keeps the other commands quick

    if not settings.deployment_file.exists():
        return "warning", f"{settings.deployment_file} does not exist; shadow up serves the bundled example"
    deployment = load_deployment(settings.deployment_file)
    return "ok", f"{settings.deployment_file}: {deployment.name}, {deployment.task}"


def _disk(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    where = settings.data_dir if settings.data_dir.exists() else Path.cwd()
    if not os.access(where, os.W_OK):
        return "failed", f"{where} is not writable"
    free = shutil.disk_usage(where).free
    return ("ok" if free > _ENOUGH_BYTES else "warning"), f"{free / 2**30:.1f} GiB free under {where}"


def _scheduling(_: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    if hasattr(os, "SCHED_IDLE"):
        return "ok", "challengers run under SCHED_IDLE"
    return "warning", "no SCHED_IDLE here: challengers run at nice 19, the champion's p99 is less protected"


def _log(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    from shadow_mlops.eventlog.segments import SegmentLog  # noqa: PLC0415

    root = settings.data_dir / "log"
    if not root.exists():
        return "ok", "no event log yet"
    damaged = 0

    def note(_stream: str, size: int) -> None:
        nonlocal damaged
        damaged += size

    log = SegmentLog(root, on_set_aside=note)
    rows = {}
    for stream in log.streams():
        tail = log.tail(stream)
        count = 0
        while frames := tail.poll(65_536):
            count += sum(frame.count for frame in frames)
        rows[stream] = count
        tail.close()
    shown = ", ".join(f"{stream} {count:,}" for stream, count in rows.items()) or "empty"
    if damaged:
        return (
            "warning",
            f"{shown} rows; {damaged:,} bytes are no valid frames (a torn tail after a crash is one; the rest is read)",
        )
    return "ok", f"{shown} rows"


def _models(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    from shadow_mlops.models.loading import load_model  # noqa: PLC0415
    from shadow_mlops.models.serving import read_serving  # noqa: PLC0415

    serving = read_serving(settings.data_dir / "serving.json")
    if serving is None:
        return "warning", "nothing is published yet: start shadow up, set the alias `champion`"
    told = [
        load_model(settings.data_dir / path).card.version for path in (serving.champion, *serving.challengers.values())
    ]
    if serving.problems:
        return "warning", "; ".join(serving.problems)
    return "ok", f"champion {told[0]}" + (f", challengers {', '.join(told[1:])}" if told[1:] else "")


def _access(settings: Settings) -> tuple[Literal["ok", "warning", "failed"], str]:
    from shadow_mlops.access import keys_file, read_keys  # noqa: PLC0415

    keys = read_keys(settings.data_dir)
    if not keys:
        return "ok", "no keys: predictions are open to whoever reaches the port"
    if keys_file(settings.data_dir).stat().st_mode & 0o077:
        return "warning", f"others may read or write {keys_file(settings.data_dir)}: chmod 600"
    if over := [key.name for key in keys if key.expired(datetime.now(UTC))]:
        return "warning", f"expired, to be revoked: {', '.join(over)}"
    clients = sum(key.role == "client" for key in keys)
    return "ok", f"{len(keys)} keys, {f'{clients} of clients' if clients else 'predictions are open'}"


_CHECKS: dict[str, Callable[[Settings], tuple[Literal["ok", "warning", "failed"], str]]] = {
    "python": _python,
    "deployment": _deployment,
    "disk": _disk,
    "scheduling": _scheduling,
    "event log": _log,
    "models": _models,
    "access": _access,
}
