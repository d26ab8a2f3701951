"""The conservation line of each name and version: sampled = paired + timed_out + shed + errored + pending."""

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

# The lake has one result for an event and a version, which is of the name that wrote it. A replay is of the name that
# owns its version.
_OWN = "CASE WHEN replayed THEN list_contains($owned::VARCHAR[], version) ELSE challenger = $name END"
# Events and results are matched row by row only in segments where they are not the same rows: a join of all takes 1.5 s
# for 10,000,000. That different rows are as many and have the same sum of 64-bit hashes does not happen.
_COVERED = f"""
CREATE OR REPLACE TEMP TABLE covered AS
SELECT segment, version, count(*) AS n, sum(hash(row)) AS mark
FROM spanned_results WHERE version IN (SELECT unnest($versions::VARCHAR[])) AND {_OWN} GROUP BY ALL
"""  # noqa: S608 - constants
_UNSETTLED = """
CREATE OR REPLACE TEMP TABLE unsettled AS
SELECT segment
FROM (SELECT segment, count(*) AS n, sum(hash(row)) AS mark FROM spanned_events WHERE sampled GROUP BY segment) e
FULL JOIN (SELECT segment, sum(n) AS n, sum(mark) AS mark FROM covered GROUP BY segment) r USING (segment)
WHERE e.n IS DISTINCT FROM r.n OR e.mark IS DISTINCT FROM r.mark
"""
_SAMPLED = f"""
WITH due AS (
    SELECT segment, row, time FROM spanned_events SEMI JOIN unsettled USING (segment) WHERE sampled
), results_of AS (
    SELECT DISTINCT segment, row, version, {_OWN} AS own FROM spanned_results SEMI JOIN unsettled USING (segment)
    WHERE version IN (SELECT unnest($versions::VARCHAR[]))
), matched AS (
    SELECT version, n FROM covered ANTI JOIN unsettled USING (segment)
    UNION ALL
    SELECT version, count(*) FROM due JOIN results_of USING (segment, row) WHERE own GROUP BY version
    UNION ALL
    SELECT NULL, count(*) FROM due ANTI JOIN results_of USING (segment, row)
    WHERE epoch_us(time) BETWEEN $first_us AND $last_us
)
SELECT version, sum(n)::BIGINT FROM matched GROUP BY version
"""  # noqa: S608 - constants
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
    owned
        Those whose replays are its: a version has run under one name after another, the last of them has its replays.
    first_us, last_us
        Event times from which and up to which an event without result counts as pending.
    """

    name: str
    versions: tuple[str, ...]
    newest: str
    owned: tuple[str, ...]
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class Line:
    """The account of one version that ran under one name.

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
    those up to its last. A version that was only replayed answers for those between its first and its last. Of events
    that the lake has a result for by the same version under another name, that name has to account.

    Parameters
    ----------
    running
        Challengers that the monitor keeps accounts of; None: not known, all are taken to run.
    """
    found = []
    live = [life for life in lives if not life.replayed]
    owners = {life.version: life.challenger for life in sorted(live, key=lambda life: (life.last_us, life.challenger))}
    for name in sorted({life.challenger for life in live}):
        own = sorted((life for life in live if life.challenger == name), key=lambda life: (life.last_us, life.version))
        ended = running is not None and name not in running
        found.append(
            Duty(
                name=name,
                versions=tuple(life.version for life in own),
                newest=own[-1].version,
                owned=tuple(life.version for life in own if owners[life.version] == name),
                first_us=min(life.first_us for life in own),
                last_us=own[-1].last_us if ended else _FOREVER,
            )
        )
    for version in sorted({life.version for life in lives} - owners.keys()):
        own = [life for life in lives if life.version == version]
        first, last = min(life.first_us for life in own), max(life.last_us for life in own)
        found.append(Duty(own[0].challenger, (version,), version, (version,), first, last))
    return found


def owners_of(owed: Sequence[Duty]) -> dict[str, str]:
    """Version -> name that its replays belong to."""
    return {version: duty.name for duty in owed for version in duty.owned}


def accounts(
    connection: Any, found: Sequence[Group], owed: Sequence[Duty], books: Mapping[str, Book]
) -> dict[tuple[str, str | None], Line]:
    """Name and version -> their line.

    Parameters
    ----------
    books
        The monitor's, where the span is the challengers' whole life; empty for any other. They are taken for a
        challenger that has run one version and was not replayed, since they do not tell versions apart, and for one
        that has no results yet.
    """
    owners = owners_of(owed)
    counts: dict[tuple[str, str], dict[str, int]] = {}
    replayed = set()
    for group in found:
        for tally in group.tallies:
            name = owners[group.version] if tally.replayed else tally.challenger
            counts.setdefault((name, group.version), dict.fromkeys(FATES, 0))[tally.status] += tally.n
            if tally.replayed:
                replayed.add((name, group.version))
    lines: dict[tuple[str, str | None], Line] = {}
    for name, book in books.items():
        if all(duty.name != name for duty in owed):
            lines[name, book.version] = Line(name, book.version, _published(book), current=True)
    for duty in owed:
        book_of = books.get(duty.name)
        newest = duty.name, duty.newest
        if book_of is not None and duty.versions == (book_of.version,) and newest not in replayed:
            lines[newest] = Line(duty.name, duty.newest, _published(book_of), current=True)
        else:
            for version, account in _counted(connection, duty, counts).items():
                lines[duty.name, version] = Line(duty.name, version, account, current=version == duty.newest)
    return lines


def _published(book: Book) -> Account:
    figures = msgspec.structs.asdict(book)
    del figures["version"]
    return Account(**figures, source="monitor")


def _counted(connection: Any, duty: Duty, counts: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, Account]:
    own = {"versions": list(duty.versions), "owned": list(duty.owned), "name": duty.name}
    connection.execute(_COVERED, own)
    connection.execute(_UNSETTLED)
    ends = {"first_us": duty.first_us, "last_us": duty.last_us}
    sampled: dict[str | None, int] = dict(connection.execute(_SAMPLED, own | ends).fetchall())
    pending = sampled.pop(None, 0)
    nothing = dict.fromkeys(FATES, 0)
    return {
        version: Account(
            sampled=sampled.get(version, 0) + (pending if version == duty.newest else 0),
            pending=pending if version == duty.newest else 0,
            source="lake",
            **counts.get((duty.name, version), nothing),
        )
        for version in duty.versions
    }
