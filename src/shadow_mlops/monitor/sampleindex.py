"""How many sampled rows a segment has before any row that a result span may name."""

from __future__ import annotations

from array import array
from bisect import bisect_right

_MARK_SECONDS = 1.0


class SampleIndex:
    """Running count of sampled rows of one event segment, and roughly when its rows happened.

    Consecutive frames that are sampled wholly, or not at all, share one entry: a segment whose every row is
    sampled needs one, whatever its length. Other frames cost 16 bytes each.

    Parameters
    ----------
    row, sampled
        Where the index begins: rows before it, and how many of them are sampled.

    Examples
    --------
    >>> index = SampleIndex()
    >>> index.add(0, 10, 10, at=0.0)
    >>> index.add(10, 4, 1, at=0.5)
    >>> index.before(0), index.before(7), index.before(10), index.before(14)
    (0, 7, 10, 11)
    >>> index.before(12) is None  # inside a frame of which a part is sampled
    True
    """

    __slots__ = ("_ends", "_mark_rows", "_mark_times", "_starts", "_sums", "row", "sampled")

    def __init__(self, row: int = 0, sampled: int = 0) -> None:
        self.row = row
        """Row after the last that is known."""
        self.sampled = sampled
        """Sampled rows before it."""
        self._starts = array("q", [row])
        self._ends = array("q", [row])
        self._sums = array("q", [sampled])  # before the entry's end
        self._mark_rows = array("q")
        self._mark_times = array("d")

    def add(self, first: int, count: int, sampled: int, *, at: float | None) -> None:
        """Append a frame.

        Parameters
        ----------
        first
            Its first row; rows between the last frame and it count as not sampled.
        at
            Seconds since 1970 of its first row; None: not known.
        """
        if first > self.row:
            self._extend(self.row, first - self.row, 0)
        self._extend(first, count, sampled)
        if at is None:
            return
        if not self._mark_times or abs(at - self._mark_times[-1]) >= _MARK_SECONDS:
            self._mark_rows.append(first)
            self._mark_times.append(at)

    def before(self, row: int) -> int | None:
        """Sampled rows before ``row``; None where the index does not know."""
        place = bisect_right(self._ends, row) - 1
        if place >= 0 and self._ends[place] == row:
            return self._sums[place]
        place += 1
        if place == 0 or place == len(self._ends):
            return None
        start, before = self._starts[place], self._sums[place - 1]
        inside = self._sums[place] - before
        if inside == 0:
            return before
        return before + (row - start) if inside == self._ends[place] - start else None

    def happened(self, row: int) -> float | None:
        """When that row happened, seconds since 1970, to about a second; None where that is not known."""
        place = bisect_right(self._mark_rows, row) - 1
        return self._mark_times[place] if place >= 0 else None

    def forget_times(self, row: int) -> None:
        """Nobody will ask when rows before ``row`` happened."""
        place = bisect_right(self._mark_rows, row) - 1
        if place > 0:
            del self._mark_rows[:place]
            del self._mark_times[:place]

    def _extend(self, first: int, count: int, sampled: int) -> None:
        self.row, self.sampled = first + count, self.sampled + sampled
        if len(self._ends) > 1:
            length = self._ends[-1] - self._starts[-1]
            inside = self._sums[-1] - self._sums[-2]
            if (inside, sampled) == (0, 0) or (inside, sampled) == (length, count):
                self._ends[-1], self._sums[-1] = self.row, self.sampled
                return
        self._starts.append(first)
        self._ends.append(self.row)
        self._sums.append(self.sampled)
