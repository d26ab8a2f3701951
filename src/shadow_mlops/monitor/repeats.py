"""Request ids that come again."""

from __future__ import annotations

from collections.abc import Iterable


class RepeatedIds:
    """Counts ids that were seen before among the newest ``window`` ones, at least half of them.

    Two generations of hashes, of which the older goes when the younger is half a window full. The
    window begins anew with each process; the count is the caller's to keep.

    Examples
    --------
    >>> RepeatedIds(window=4).count(["a", "b", "a", "c"])
    1
    """

    def __init__(self, *, window: int = 1_000_000) -> None:
        self._half = max(window // 2, 1)
        self._young: set[int] = set()
        self._old: set[int] = set()

    def count(self, ids: Iterable[str]) -> int:
        """How many of the ids had been seen; from now on all have."""
        repeated = 0
        for each in map(hash, ids):
            if each in self._young or each in self._old:
                repeated += 1
            self._young.add(each)
            if len(self._young) >= self._half:
                self._young, self._old = set(), self._young
        return repeated
