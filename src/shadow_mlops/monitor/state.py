"""What the monitor remembers across restarts: one file, so that positions and totals never part."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()


class SegmentState(msgspec.Struct):
    """An event segment as far as it has been counted."""

    rows: int = 0
    sampled: int = 0
    retired: bool = False
    """Retention has removed it; its tombstone tells readers that have not passed it."""


class Coverage(msgspec.Struct):
    """How far the results of one challenger cover one event segment."""

    rows: int = 0
    sampled: int = 0


class AccountState(msgspec.Struct):
    """What became of the sampled events of one challenger, since its first retained event."""

    version: str | None = None
    """Newest version that results name."""
    closed: int = 0
    """Sampled events of segments that are forgotten by now."""
    paired: int = 0
    timed_out: int = 0
    errored: int = 0
    shed: int = 0
    covered: dict[int, Coverage] = {}
    """Event segment -> coverage: those that were there when the account was opened, and all later ones."""
    seen_at: float = 0.0
    """Seconds since 1970 when its newest results were read."""


class MonitorState(msgspec.Struct):
    """Contents of ``accounting.json`` in the monitor's folder."""

    format: int = 1
    events: int = 0
    repeated: int = 0
    rows: dict[str, int] = {}
    """Stream -> rows ever counted."""
    versions: dict[str, int] = {}
    """Model version -> predictions, as champion or as challenger; of unregistered ones too many: as ``__other__``."""
    segments: dict[int, SegmentState] = {}
    positions: dict[str, dict[int, int]] = {}
    """Stream -> segment -> rows, for every stream but the events (whose position ``segments`` holds)."""
    accounts: dict[str, AccountState] = {}
    references: dict[str, dict[int, list[int]]] = {}
    """Results stream -> result segment -> event segments that its spans name."""


def read_state(path: Path) -> MonitorState:
    """The state that was saved last, or a new one.

    A file that cannot be read is set aside under another name, with a message: the counts then begin with
    what the log retains.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MonitorState)
    except FileNotFoundError:
        return MonitorState()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = str(error)
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    log.error("saved counts cannot be read, counting begins anew", problem=problem, set_aside=str(aside))
    return MonitorState()
