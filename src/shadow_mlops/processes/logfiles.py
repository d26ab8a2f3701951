"""The event log of a deployment, opened alike by every process that writes to it."""

from __future__ import annotations

from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.processes.settings import Settings

_SEGMENTS_AT_LEAST = 16
_SMALLEST = 65_536


def open_log(settings: Settings, deployment: Deployment) -> SegmentLog:
    """The log under the data directory.

    Only ended segments can be removed: they are kept to a sixteenth of ``log.max_bytes``, so that the open ones of a
    few writers fit into the tenth that retention leaves free.
    """
    share = max(_SMALLEST, deployment.log.max_bytes // _SEGMENTS_AT_LEAST)
    return SegmentLog(settings.data_dir / "log", segment_bytes=min(settings.segment_bytes, share))
