"""The conservation line of each challenger version: sampled = paired + timed_out + shed + errored + pending."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.comparison.report import Account
from shadow_mlops.comparison.tallies import Group, Life
from shadow_mlops.domain.errors import LakeError

FATES = ("paired", "timed_out", "shed", "errored")

# Events and results are matched row by row only in segments where they are not the same rows: a join of all takes 1.5 s
# for 10,000,000. That different rows are as many and have the same sum of 64-bit hashes does not happen.
_COVERED = """
CREATE OR REPLACE TEMP TABLE covered AS
SELECT segment, version, count(*) AS n, sum(hash(row)) AS mark
FROM spanned_results WHERE version IN (SELECT unnest($versions::VARCHAR[])) GROUP BY ALL
"""
_UNSETTLED = """
CREATE OR REPLACE TEMP TABLE unsettled AS
SELECT segment
FROM (SELECT segment, count(*) AS n, sum(hash(row)) AS mark FROM spanned_events WHERE sampled GROUP BY segment) e
FULL JOIN (SELECT segment, sum(n) AS n, sum(mark) AS mark FROM covered GROUP BY segment) r USING (segment)
WHERE e.n IS DISTINCT FROM r.n OR e.mark IS DISTINCT FROM r.mark
"""
_SAMPLED = """
WITH due AS (
    SELECT segment, row, time FROM spanned_events SEMI JOIN unsettled USING (segment) WHERE sampled
), done AS (
    SELECT DISTINCT segment, row, version FROM spanned_results SEMI JOIN unsettled USING (segment)
    WHERE version IN (SELECT unnest($versions::VARCHAR[]))
), matched AS (
    SELECT version, n FROM covered ANTI JOIN unsettled USING (segment)
    UNION ALL
    SELECT version, count(*) FROM due LEFT JOIN done USING (segment, row)
    WHERE version IS NOT NULL OR epoch_us(time) BETWEEN $first_us AND $last_us GROUP BY version
)
SELECT version, sum(n)::BIGINT FROM matched GROUP BY version
"""
_FOREVER = 2**63 - 1


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """One challenger in the monitor's ``accounting.json``, over its whole life and all its versions."""

    version: str | None
    sampled: int
    paired: int
    timed_out: int
    shed: int
    errored: int
    pending: int


class _Books(msgspec.Struct, frozen=True):
    challengers: dict[str, Book] = {}


@dataclass(frozen=True, slots=True)
class Duty:
    """Which sampled events a challenger had to account for.

    Attributes
    ----------
    name
        The challenger, or ``replay``.
    versions
        Those that it has run.
    newest
        The one that an event without result is pending at.
    first_us, last_us
        Event times from which and up to which an event without result counts as pending.
    """

    name: str
    versions: tuple[str, ...]
    newest: str
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class Line:
    """The account of one version.

    Attributes
    ----------
    current
        Whether the challenger runs it now: events without result are pending at it.
    """

    name: str
    version: str | None
    account: Account
    current: bool


def read_books(path: Path | None) -> dict[str, Book] | None:
    """The monitor's accounts by challenger name; None where no monitor has published any.

    Raises
    ------
    LakeError
        If the file is not what the monitor writes.
    """
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Books).challengers
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise LakeError(f"the monitor's accounts in {path} cannot be read: {error}") from error


def duties(lives: Sequence[Life], running: Collection[str] | None) -> list[Duty]:
    """Who had to account for what.

    A challenger answers for the sampled events since the first that it accounted for; one that no longer runs, for
    those up to its last. A version that was only replayed answers for those between its first and its last.

    Parameters
    ----------
    running
        Challengers that the monitor keeps accounts of; None: not known, all are taken to run.
    """
    found = []
    live = [life for life in lives if not life.replayed]
    for name in sorted({life.challenger for life in live}):
        own = sorted((life for life in live if life.challenger == name), key=lambda life: (life.last_us, life.version))
        ended = running is not None and name not in running
        found.append(
            Duty(
                name=name,
                versions=tuple(life.version for life in own),
                newest=own[-1].version,
                first_us=min(life.first_us for life in own),
                last_us=own[-1].last_us if ended else _FOREVER,
            )
        )
    seen = {life.version for life in live}
    for version in sorted({life.version for life in lives} - seen):
        own = [life for life in lives if life.version == version]
        first, last = min(life.first_us for life in own), max(life.last_us for life in own)
        found.append(Duty(own[0].challenger, (version,), version, first, last))
    return found


def accounts(
    connection: Any, found: Sequence[Group], owed: Sequence[Duty], books: Mapping[str, Book]
) -> dict[str | None, Line]:
    """Version -> its line.

    Parameters
    ----------
    books
        The monitor's, where the span is the challengers' whole life; empty for any other. They are taken for a
        challenger that has run one version and was not replayed, since they do not tell versions apart, and for one
        that has no results yet.
    """
    counts: dict[str, dict[str, int]] = {}
    replayed = set()
    for group in found:
        fates = counts.setdefault(group.version, dict.fromkeys(FATES, 0))
        for tally in group.tallies:
            fates[tally.status] += tally.n
            if tally.replayed:
                replayed.add(group.version)
    lines: dict[str | None, Line] = {}
    for name, book in books.items():
        if all(duty.name != name for duty in owed):
            lines[book.version] = Line(name, book.version, _published(book), current=True)
    for duty in owed:
        book_of = books.get(duty.name)
        if book_of is not None and duty.versions == (book_of.version,) and duty.newest not in replayed:
            lines[duty.newest] = Line(duty.name, duty.newest, _published(book_of), current=True)
        else:
            for version, account in _counted(connection, duty, counts).items():
                lines[version] = Line(duty.name, version, account, current=version == duty.newest)
    return lines


def _published(book: Book) -> Account:
    figures = msgspec.structs.asdict(book)
    del figures["version"]
    return Account(**figures, source="monitor")


def _counted(connection: Any, duty: Duty, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Account]:
    versions = {"versions": list(duty.versions)}
    connection.execute(_COVERED, versions)
    connection.execute(_UNSETTLED)
    ends = {"first_us": duty.first_us, "last_us": duty.last_us}
    sampled: dict[str | None, int] = dict(connection.execute(_SAMPLED, versions | ends).fetchall())
    pending = sampled.pop(None, 0)
    nothing = dict.fromkeys(FATES, 0)
    return {
        version: Account(
            sampled=sampled.get(version, 0) + (pending if version == duty.newest else 0),
            pending=pending if version == duty.newest else 0,
            source="lake",
            **counts.get(version, nothing),
        )
        for version in duty.versions
    }
