"""The bus: append-only streams that every process but the gateway's request path only reads.

Seams, each small; :mod:`~shadow_mlops.eventlog.segments` implements them on files of one host,
:mod:`~shadow_mlops.eventlog.memory` in one process. ``tests/conformance`` holds both to one suite.
"""

from shadow_mlops.eventlog.records import EventBatch, OutcomeBatch, ResultBatch
from shadow_mlops.eventlog.seam import (
    Appender,
    BeatingAppender,
    EventLog,
    Frame,
    Gone,
    OrderedTail,
    Position,
    Skipped,
    Tail,
)

__all__ = [
    "Appender",
    "BeatingAppender",
    "EventBatch",
    "EventLog",
    "Frame",
    "Gone",
    "OrderedTail",
    "OutcomeBatch",
    "Position",
    "ResultBatch",
    "Skipped",
    "Tail",
]
