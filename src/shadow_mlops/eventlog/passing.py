"""Rows that a reader passes over, told as few spans as possible."""

from __future__ import annotations

from collections.abc import Iterable

from shadow_mlops.eventlog.seam import Gone, Skipped


def join(items: Iterable[Skipped | Gone]) -> list[Skipped | Gone]:
    """Join spans that follow each other in one segment and are of one kind.

    >>> join([Skipped(7, 0, 2, 1), Skipped(7, 2, 3, 3), Skipped(8, 5, 1, 1)])
    [Skipped(segment=7, first=0, count=5, sampled=4), Skipped(segment=8, first=5, count=1, sampled=1)]
    """
    joined: list[Skipped | Gone] = []
    for item in items:
        last = joined[-1] if joined else None
        if (
            last is not None
            and type(last) is type(item)
            and last.segment == item.segment
            and last.first + last.count == item.first
        ):
            joined[-1] = type(item)(item.segment, last.first, last.count + item.count, last.sampled + item.sampled)
        else:
            joined.append(item)
    return joined
