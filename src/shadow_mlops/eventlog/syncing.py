"""Durability against loss of power, from outside the writers: ``fdatasync`` of what is new in the log."""

from __future__ import annotations

import os
from pathlib import Path

from shadow_mlops.domain.errors import LogError
from shadow_mlops.eventlog.appending import sync_data, sync_folder
from shadow_mlops.eventlog.layout import (
    SEGMENT_SUFFIX,
    SegmentName,
    list_streams,
    segment_names,
    stream_folder,
    writer_gone,
)


class Syncer:
    """Syncs the growing segments of all streams.

    The gateway's parent calls it each second; a low-priority process never must.

    Parameters
    ----------
    root
        Folder of the log.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sizes: dict[SegmentName, int] = {}
        """Bytes that are known to be on the disk."""
        self._ended: set[SegmentName] = set()
        self._folders: dict[Path, list[SegmentName]] = {}

    def sync(self) -> int:
        """Return when what was in the log at the call survives a loss of power.

        Returns
        -------
        int
            Files that had to be synced.

        Raises
        ------
        LogError
            If the disk does not take a file; the others are synced, and this one is tried again next time.
        """
        synced = 0
        failed: list[str] = []
        seen: set[SegmentName] = set()
        for stream in list_streams(self._root):
            folder = stream_folder(self._root, stream)
            names = segment_names(folder)
            seen.update(names)
            try:
                for name in names:
                    synced += self._sync(name, folder / (name.text + SEGMENT_SUFFIX))
                if self._folders.get(folder) != names:
                    for each in (folder, *folder.parents[: len(folder.relative_to(self._root).parts)]):
                        sync_folder(each)
                    self._folders[folder] = names
            except OSError as error:
                failed.append(f"{stream}: {error}")
        self._ended &= seen
        self._sizes = {name: size for name, size in self._sizes.items() if name in seen}
        if failed:
            raise LogError(f"the log is not safe against a loss of power: {'; '.join(failed)}")
        return synced

    def _sync(self, name: SegmentName, path: Path) -> bool:
        if name in self._ended:
            return False
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            ended = writer_gone(fd)
            size = os.fstat(fd).st_size
            grown = size != self._sizes.get(name)
            if grown:
                sync_data(fd)
                self._sizes[name] = size
            if ended:
                self._ended.add(name)
        finally:
            os.close(fd)
        return grown
