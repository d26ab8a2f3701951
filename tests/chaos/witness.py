"""Reads the log from outside while it is written and cleared, with the frame format's checker and no product code."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from frame_checker import EventRow, ResultFrame, read_segment

_QUIET_SECONDS = 2.0
_PAUSE_SECONDS = 0.5


class Witness:
    """Remembers which requests were logged and which events each challenger accounted for.

    A segment is read when it has been quiet for two seconds, again when it was written to since, and the rest at
    the end; retention removes only what has been sealed for longer.

    Attributes
    ----------
    largest
        Most bytes that the log had at any look.
    """

    def __init__(self, log: Path) -> None:
        self.largest = 0
        self._log = log
        self._read_at: dict[Path, int] = {}
        self._requests: dict[Path, list[str]] = {}
        self._spans: dict[Path, tuple[str, list[tuple[int, int, int]]]] = {}
        self._rows: dict[int, int] = {}
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="witness")

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Read what is left, now that nobody writes."""
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._look(quiet=-math.inf)

    def logged(self) -> Counter[str]:
        """Request id -> events that have it."""
        return Counter(request for requests in self._requests.values() for request in requests)

    def miscounted(self, challenger: str) -> list[str]:
        """Events that the challenger's results do not account for exactly once, in words."""
        times: dict[int, Counter[int]] = defaultdict(Counter)
        for stream, spans in self._spans.values():
            if stream == f"results/{challenger}":
                for segment, first, count in spans:
                    times[segment].update(range(first, first + count))
        return [
            f"event {segment:016x}/{row} is accounted for {times[segment][row]} times"
            for segment, rows in self._rows.items()
            for row in range(rows)
            if times[segment][row] != 1
        ]

    def _follow(self) -> None:
        try:
            while not self._ended.wait(_PAUSE_SECONDS):
                self._look(quiet=_QUIET_SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that stops it
            self._error = error

    def _look(self, quiet: float) -> None:
        now, total = time.time(), 0
        for path in sorted(self._log.rglob("*.seg")):
            try:
                stat = path.stat()
                total += stat.st_size
                if stat.st_mtime_ns != self._read_at.get(path) and now - stat.st_mtime >= quiet:
                    self._read(path)
                    self._read_at[path] = stat.st_mtime_ns
            except FileNotFoundError:
                continue  # retention was quicker; it had been read when it was quiet
        self.largest = max(self.largest, total)

    def _read(self, path: Path) -> None:
        report = read_segment(path.parent.relative_to(self._log).as_posix(), path)
        if report.retired is not None:
            return  # a tombstone: what the segment held is known from before
        if report.stream == "events":
            self._requests[path] = [item.request_id for item in report.items if isinstance(item, EventRow)]
            self._rows[report.segment] = report.rows
        elif report.stream.startswith("results/"):
            spans = [
                (segment, first, count)
                for item in report.items
                if isinstance(item, ResultFrame)
                for segment, first, count, _sampled, _shed in item.spans
            ]
            self._spans[path] = (report.stream, spans)
