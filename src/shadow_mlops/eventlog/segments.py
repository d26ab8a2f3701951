"""The event log on the files of one host."""

from __future__ import annotations

from pathlib import Path

from shadow_mlops.domain.events import Stream
from shadow_mlops.eventlog.appending import SegmentAppender
from shadow_mlops.eventlog.layout import boot_counter, kernel_boot_id, list_streams, stream_folder
from shadow_mlops.eventlog.seam import Position
from shadow_mlops.eventlog.tailing import OnSetAside, SegmentTail


class SegmentLog:
    """Streams as folders of append-only segment files, one writer each.

    Parameters
    ----------
    root
        Folder of the log; made by the first appender.
    segment_bytes
        A segment of this size is sealed and a new one begun.
    max_age_seconds
        So is one of this age.
    on_set_aside
        Called by tails with the stream and the number of bytes that were no frame, each time some are found.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from shadow_mlops.domain.events import OUTCOMES, OutcomeSchema
    >>> from shadow_mlops.eventlog.records import NO_TIME, OutcomeBatch
    >>> log = SegmentLog(Path(tempfile.mkdtemp()))
    >>> appender = log.appender(OUTCOMES, writer="gateway-0")
    >>> batch = OutcomeBatch(
    ...     schema=OutcomeSchema(deployment="churn"),
    ...     received=np.array([1]),
    ...     times=np.array([NO_TIME]),
    ...     labels=["1"],
    ...     request_ids=["a"],
    ... )
    >>> segment, row = appender.append(batch)
    >>> tail = log.tail(OUTCOMES)
    >>> [frame.batch.labels for frame in tail.poll(100)], tail.position() == {segment: 1}
    ([['1']], True)
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes: int = 64 * 2**20,
        max_age_seconds: float = 3600,
        on_set_aside: OnSetAside | None = None,
    ) -> None:
        self._root = root
        self._segment_bytes = segment_bytes
        self._max_age_seconds = max_age_seconds
        self._on_set_aside = on_set_aside
        self._boot: int | None = None

    def appender(self, stream: Stream, *, writer: str) -> SegmentAppender:
        """Open a new segment of the stream for one writer.

        Raises
        ------
        LogError
            If the stream's name cannot be a folder, or the log's order is not known to this system.
        """
        folder = stream_folder(self._root, stream)
        if self._boot is None:
            self._boot = boot_counter(self._root, kernel_boot_id())
        return SegmentAppender(
            folder,
            boot=self._boot,
            writer=writer,
            segment_bytes=self._segment_bytes,
            max_age_seconds=self._max_age_seconds,
        )

    def tail(self, stream: Stream, position: Position | None = None) -> SegmentTail:
        """Read the stream from a position; None: from its oldest retained row, without earlier ``Gone``."""
        return SegmentTail(stream, stream_folder(self._root, stream), position, self._on_set_aside)

    def streams(self) -> list[Stream]:
        """Streams that have at least one segment."""
        return list_streams(self._root)
