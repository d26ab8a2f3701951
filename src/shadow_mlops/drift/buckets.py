"""Counts by time: buckets that become hours that become days, so that memory is bounded and any window is a sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.clock import DAY_US, HOUR_US, WEEK_HOURS, hour_of_week

_MINUTE_US = 60_000_000
_FINE_UNITS = 120
"""Buckets that are kept as they are, and minutes where a bucket is shorter."""
_LEAST_HOURS = 48
_MOST_HOURS = 216  # windows of more than eight days begin at a day
_LEAST_DAYS = 31
_MOST_DAYS = 750
SEASONS = 4
"""Weeks that a seasonal reference looks back."""
_WIDTHS = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))
_PLACE = np.dtype("<u4")


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """Counts in as few bytes as they need: most cells of a quiet bucket are empty."""

    size: int
    width: int
    """Bytes of a count."""
    values: bytes
    places: bytes
    """uint32, of the values; empty: all places in order."""


def pack(counts: NDArray[np.int64]) -> Packed:
    """Pack counts (n,), none below 0.

    >>> unpacked = np.zeros(5, dtype=np.int64)
    >>> add_to(unpacked, pack(np.array([0, 3, 0, 70000, 0])))
    >>> unpacked.tolist()
    [0, 3, 0, 70000, 0]
    """
    most = int(counts.max(initial=0))
    width = next(each for each in _WIDTHS if most < 256**each.itemsize)
    places = np.flatnonzero(counts)
    if len(places) * (width.itemsize + _PLACE.itemsize) < len(counts) * width.itemsize:
        values = counts[places].astype(width).tobytes()
        return Packed(len(counts), width.itemsize, values, places.astype(_PLACE).tobytes())
    return Packed(len(counts), width.itemsize, counts.astype(width).tobytes(), b"")


def add_to(total: NDArray[np.int64], packed: Packed) -> None:
    """Add packed counts to others of the same size, in place."""
    values = np.frombuffer(packed.values, np.dtype(f"<u{packed.width}")).astype(np.int64)
    if packed.places or not packed.values:
        total[np.frombuffer(packed.places, _PLACE)] += values
    else:
        total += values


class Unit(msgspec.Struct, array_like=True):
    """Counts of consecutive buckets."""

    first: int
    last: int
    rows: int
    counts: Packed


@dataclass(frozen=True, slots=True)
class Level:
    """Units of one length, and how many of them are kept before the oldest goes into the next level."""

    length_us: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive buckets, summed.

    Attributes
    ----------
    first, last
        Buckets, both included.
    rows
        In them.
    counts
        int64 (n,).
    """

    first: int
    last: int
    rows: int
    counts: NDArray[np.int64]


def levels_for(bucket_us: int, *, window_hours: float, seasonal: bool) -> tuple[Level, ...]:
    """Which units are kept, so that a window of that length can be told from them.

    Parameters
    ----------
    seasonal
        Keep hours for as many weeks as a seasonal reference looks back.
    """
    hours = max(_LEAST_HOURS, min(int(window_hours) + 25, _MOST_HOURS))
    if seasonal:
        hours += SEASONS * WEEK_HOURS
    days = min(max(_LEAST_DAYS, int(2 * window_hours / 24) + 2), _MOST_DAYS)
    fine = [Level(bucket_us, _FINE_UNITS)]
    if bucket_us < _MINUTE_US:
        fine.append(Level(_MINUTE_US, _FINE_UNITS))
    return (*fine, Level(HOUR_US, hours), Level(DAY_US, days))


class Ladder:
    """Units of each level, oldest first; all of a level are older than those of the level before it.

    Parameters
    ----------
    size
        Counts of a bucket.
    units
        For each level, of a state that was saved.
    """

    def __init__(
        self, bucket_us: int, levels: Sequence[Level], size: int, units: Sequence[Sequence[Unit]] = ()
    ) -> None:
        self._bucket_us = bucket_us
        self._levels = tuple(levels)
        self._size = size
        self.units: list[list[Unit]] = [[*saved] for saved in units] or [[] for _ in levels]

    @property
    def oldest(self) -> int | None:
        """First bucket of which anything is kept."""
        return next((units[0].first for units in reversed(self.units) if units), None)

    def add(self, bucket: int, rows: int, counts: NDArray[np.int64]) -> None:
        """Add a bucket that is later than all others.

        Parameters
        ----------
        counts
            int64 (size,).
        """
        self.units[0].append(Unit(bucket, bucket, rows, pack(counts)))
        for number, level in enumerate(self._levels):
            units = self.units[number]
            while len(units) > level.capacity:
                old = units.pop(0)
                if number + 1 < len(self._levels):
                    self._sink(number + 1, old)

    def window(self, *, since_us: int, min_rows: int, rows: int | None) -> Window | None:
        """The newest buckets: back to a time or a number of rows, whole units, and further for too few rows.

        Parameters
        ----------
        since_us
            A unit that reaches beyond it is in.
        min_rows
            With fewer the window goes on into the past, as far as there is one.
        rows
            The window ends as soon as it has so many; None: by time alone.

        Returns
        -------
        Window or None
            None: there is no bucket.
        """
        total, chosen = 0, []
        for unit in self._newest_first():
            recent = (unit.last + 1) * self._bucket_us > since_us and (rows is None or total < rows)
            if not recent and total >= min_rows:
                break
            chosen.append(unit)
            total += unit.rows
        return Window(chosen[-1].first, chosen[0].last, total, self._sum(chosen)) if chosen else None

    def same_hours(self, window: Window) -> Window | None:
        """The same hours of the week as those of a window, in up to four earlier weeks.

        Returns
        -------
        Window or None
            None: less than a week is known of the time before the window.
        """
        begins = self._hour(window.first)
        hours = range(begins, self._hour(window.last) + 1)
        past = {hour - week * WEEK_HOURS for hour in hours for week in range(1, SEASONS + 1)}
        hourly = self._hourly()
        if not hourly or min(self._hour(unit.first) for unit in hourly) > begins - WEEK_HOURS:
            return None
        chosen = [unit for unit in hourly if (hour := self._hour(unit.first)) in past and hour < begins]
        if not chosen:
            return None
        first, last = min(unit.first for unit in chosen), max(unit.last for unit in chosen)
        return Window(first, last, sum(unit.rows for unit in chosen), self._sum(chosen))

    def by_hour_of_week(self) -> NDArray[np.int64] | None:
        """Counts of each hour of the week in what is kept by the hour: int64 (168, size); None: less than a week is."""
        hourly = self._hourly()
        if not hourly:
            return None
        hours = [self._hour(unit.first) for unit in hourly]
        if max(hours) - min(hours) < WEEK_HOURS:
            return None
        total = np.zeros((WEEK_HOURS, self._size), dtype=np.int64)
        for unit in hourly:
            add_to(total[hour_of_week(unit.first * self._bucket_us)], unit.counts)
        return total

    def _hourly(self) -> list[Unit]:
        levels = zip(self._levels, self.units, strict=True)
        return [unit for level, units in levels if level.length_us <= HOUR_US for unit in units]

    def _hour(self, bucket: int) -> int:
        return bucket * self._bucket_us // HOUR_US

    def _newest_first(self) -> Iterator[Unit]:
        for units in self.units:
            yield from reversed(units)

    def _sum(self, units: Sequence[Unit]) -> NDArray[np.int64]:
        total = np.zeros(self._size, dtype=np.int64)
        for unit in units:
            add_to(total, unit.counts)
        return total

    def _sink(self, number: int, old: Unit) -> None:
        length = self._levels[number].length_us
        units = self.units[number]
        newest = units[-1] if units else None
        if newest is None or newest.first * self._bucket_us // length != old.first * self._bucket_us // length:
            units.append(old)
            return
        newest.last, newest.rows, newest.counts = old.last, newest.rows + old.rows, pack(self._sum((newest, old)))
