"""What no snapshot needs goes: rows past their time, and files that a crash has left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog

from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.manifest import MANIFEST, Manifest
from shadow_mlops.lake.queries import SPILL
from shadow_mlops.lake.tables import SCHEMAS

log = structlog.get_logger()

_SPILL_SECONDS = 86_400.0


def drop_expired(change: Change, manifest: Manifest, *, before_us: int) -> int:
    """Drop every file of which all rows are older than a moment; how many.

    Parameters
    ----------
    before_us
        Microseconds since 1970, by the time of the event (of receipt for outcomes).
    """
    dropped = 0
    for table, files in manifest.files.items():
        old = [file for file in files if file.last_us < before_us]
        if old:
            change.drop(table, old)
            log.info("lake_rows_expired", table=table, files=len(old), rows=sum(file.rows for file in old))
        dropped += len(old)
    return dropped


def sweep(lake: Path, manifest: Manifest, *, before: float, spilling: Collection[Path] = ()) -> int:
    """Remove files that no snapshot names, and what queries that were killed have spilled; how many.

    Parameters
    ----------
    manifest
        The newest snapshot.
    before
        Seconds since 1970: what is younger stays. No change may have begun earlier and still be running.
    spilling
        Folders of connections that stay open, however long they have been idle. All others close within minutes.
    """
    named = {file.path for files in manifest.files.values() for file in files}
    named |= {each.path for each in manifest.dropped}
    removed = 0
    for path in _files(lake):
        if str(path.relative_to(lake)) not in named and _age(path, before) > 0:
            path.unlink(missing_ok=True)
            removed += 1
    for folder in _folders(lake / SPILL):
        if folder not in spilling and _age(folder, before) > _SPILL_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    if removed:
        log.info("lake_orphans_removed", files=removed)
    return removed


def _files(lake: Path) -> Iterator[Path]:
    for table in SCHEMAS:
        for folder in _folders(lake / table):
            yield from (Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
            if not any(folder.iterdir()):
                folder.rmdir()
    # What replacing the manifest leaves when it is killed.
    yield from lake.glob(f".{MANIFEST}.*")


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
