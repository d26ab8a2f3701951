"""The time of live drift: the log's own monotonic clock, cut into buckets that never go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WEEK_HOURS = 168
_MONDAY_HOURS = 72  # 1970 began on a Thursday
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US = 253_402_300_799_999_999  # the end of the year 9999
_BOOTS = 64  # results of a challenger that was down for so many boots belong to no bucket


class Birth(NamedTuple):
    """One moment on both clocks: when a segment was created."""

    monotonic_ns: int
    wall_us: int
    """Microseconds since 1970."""


BirthOf: TypeAlias = Callable[[int], Birth | None]
"""Segment -> its creation; None: the file does not tell."""


class LogClock:
    """Gives each frame its bucket.

    The wall clock is asked once in a boot, and not even then by this process: what counts is the creation of the
    segment that has the boot's first event, as its writer noted it. From there on only monotonic time counts, so a step
    of the clock moves no bucket, and the same log has the same buckets whenever it is read.

    Parameters
    ----------
    bucket_us
        Length of a bucket; bucket 0 begins with 1970.
    offsets
        Boot -> nanoseconds from its monotonic time to the time since 1970, of a state that was saved.

    Examples
    --------
    >>> clock = LogClock(60_000_000)
    >>> clock.begin(1, 5_000_000_000, Birth(0, 600_000_000), after=None)
    >>> clock.bucket(1, 5_000_000_000), clock.bucket(1, 61_000_000_000)
    (10, 11)
    >>> clock.begin(2, 0, Birth(0, 0), after=11)  # the clock was put back meanwhile
    >>> clock.bucket(2, 0)
    12
    """

    def __init__(self, bucket_us: int, offsets: Mapping[int, int] | None = None) -> None:
        self.bucket_us = bucket_us
        self.offsets = dict(offsets or {})

    def knows(self, boot: int) -> bool:
        """Whether the boot has begun."""
        return boot in self.offsets

    def begin(self, boot: int, monotonic_ns: int, birth: Birth, *, after: int | None) -> None:
        """Begin a boot with its first event.

        Parameters
        ----------
        monotonic_ns
            Of that event's append.
        after
            Newest bucket of all earlier boots: the new one has later buckets only. None: there was none.
        """
        offset = birth.wall_us * 1000 - birth.monotonic_ns
        earliest = 0 if after is None else (after + 1) * self.bucket_us * 1000 - monotonic_ns
        self.offsets[boot] = max(offset, earliest)
        for old in sorted(self.offsets)[:-_BOOTS]:
            del self.offsets[old]

    def bucket(self, boot: int, monotonic_ns: int) -> int:
        """Bucket of an append in a boot that has begun."""
        return (monotonic_ns + self.offsets[boot]) // (self.bucket_us * 1000)

    def start_us(self, bucket: int) -> int:
        """When a bucket begins, microseconds since 1970."""
        return bucket * self.bucket_us


def hour_of_week(moment_us: int) -> int:
    """Hour of the week, UTC: 0 is the one that begins on Monday at midnight.

    >>> hour_of_week(0)  # a Thursday
    72
    """
    return (moment_us // HOUR_US + _MONDAY_HOURS) % WEEK_HOURS


def rfc3339(moment_us: int) -> str:
    """A moment as JSON says it.

    >>> rfc3339(1_500_000)
    '1970-01-01T00:00:01.500Z'
    """
    moment = _EPOCH + timedelta(microseconds=min(max(moment_us, 0), _LATEST_US))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
