"""When an alarm becomes an episode, and when that is over: the rule that keeps one drift from alerting twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

QUIET_CHECKS = 3
"""Consecutive checks without a significant shift that close an episode."""
CHECKS_PER_WINDOW = 24
Ending: TypeAlias = Literal["quiet", "reference"]


class Watched(msgspec.Struct):
    """What is remembered of one feature."""

    alarms: int = 0
    """Of the detector, ever."""
    alarmed: int | None = None
    """Bucket of the newest one."""
    opened: int | None = None
    """Bucket in which the episode began; None: none is open."""
    quiet: int = 0
    """Consecutive checks without a significant shift."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """An episode has begun."""

    feature: str
    bucket: int


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """An episode is over."""

    feature: str
    bucket: int
    opened: int
    why: Ending


class Episodes:
    """Alarms and episodes of the features of one reference.

    Parameters
    ----------
    watched
        Of a state that was saved; changed in place.

    Examples
    --------
    >>> episodes = Episodes({})
    >>> episodes.alarm(["tenure"], bucket=7)
    >>> episodes.waiting(since=0)
    ['tenure']
    >>> episodes.judge(7, alerting={"tenure": True}, check=False, since=0)
    [Opened(feature='tenure', bucket=7)]
    >>> [episodes.judge(each, alerting={}, check=True, since=0) for each in (8, 9, 10)][-1]
    [Closed(feature='tenure', bucket=10, opened=7, why='quiet')]
    """

    def __init__(self, watched: dict[str, Watched]) -> None:
        self.watched = watched

    @property
    def open(self) -> dict[str, int]:
        """Feature -> bucket in which its episode began."""
        return {name: each.opened for name, each in self.watched.items() if each.opened is not None}

    @property
    def alarmed(self) -> bool:
        """Whether any feature without an episode has alarmed and not been forgotten."""
        return any(each.opened is None and each.alarmed is not None for each in self.watched.values())

    def alarm(self, features: Iterable[str], bucket: int) -> None:
        """The detector has alarmed for these features."""
        for name in features:
            each = self.watched.setdefault(name, Watched())
            each.alarms += 1
            each.alarmed = bucket

    def waiting(self, since: int) -> list[str]:
        """Features that have alarmed since that bucket and have no episode: an alert-level score opens one.

        Older alarms are forgotten.
        """
        found = []
        for name, each in self.watched.items():
            if each.alarmed is not None and each.alarmed < since:
                each.alarmed = None
            elif each.opened is None and each.alarmed is not None:
                found.append(name)
        return found

    def judge(self, bucket: int, *, alerting: Mapping[str, bool], check: bool, since: int) -> list[Opened | Closed]:
        """Look at the scores of a window.

        Parameters
        ----------
        bucket
            Newest of the window.
        alerting
            Features whose shift is significant -> whether a score of theirs is above its threshold.
        check
            Whether this is one of the checks that close episodes.
        since
            Oldest bucket of the window.
        """
        found: list[Opened | Closed] = []
        for name in self.waiting(since):
            if alerting.get(name, False):
                each = self.watched[name]
                each.opened, each.quiet = bucket, 0
                found.append(Opened(feature=name, bucket=bucket))
        if not check:
            return found
        for name, began in self.open.items():
            each = self.watched[name]
            each.quiet = 0 if name in alerting else each.quiet + 1
            if each.quiet >= QUIET_CHECKS:
                each.opened, each.alarmed, each.quiet = None, None, 0
                found.append(Closed(feature=name, bucket=bucket, opened=began, why="quiet"))
        return found

    def end(self, bucket: int) -> list[Opened | Closed]:
        """Close all of them: what they were compared with is no longer in force."""
        found: list[Opened | Closed] = []
        for name, began in self.open.items():
            each = self.watched[name]
            each.opened, each.quiet = None, 0
            found.append(Closed(feature=name, bucket=bucket, opened=began, why="reference"))
        for each in self.watched.values():
            each.alarmed = None
        return found
