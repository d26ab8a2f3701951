"""From a snapshot of the lake to a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from shadow_mlops.comparison.accounts import Book, Line, accounts, duties, owners_of, read_books
from shadow_mlops.comparison.auc import BINS
from shadow_mlops.comparison.closer import Look
from shadow_mlops.comparison.labelled import labelled
from shadow_mlops.comparison.report import Against, Challenger, Comparison, ScoreDifference, Side
from shadow_mlops.comparison.tallies import Group, agreement, groups, latencies, lives
from shadow_mlops.comparison.window import Window, rfc3339
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import Task
from shadow_mlops.lake.labelnames import PLAIN_MACRO
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.queries import connect, reading
from shadow_mlops.lake.tables import Table

_TABLES: tuple[Table, ...] = ("events", "results", "pairs")
_CHAMPION = """
SELECT arg_max(version, monotonic_ns) FROM spanned_events
WHERE role = 'champion' AND boot = (SELECT max(boot) FROM spanned_events WHERE role = 'champion')
"""
_SCHEMAS = pa.schema([("hash", pa.string()), ("threshold", pa.float64()), ("outputs", pa.list_(pa.string()))])


def compare(
    lake: Path,
    *,
    accounting: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    exact: bool = False,
    look: Look | None = None,
    memory_limit: str = "1GB",
    threads: int | None = None,
) -> Comparison:
    """Compare challengers with the champion over a span of the newest snapshot.

    Parameters
    ----------
    lake
        Folder of the lake; one that is not there yet has no pairs.
    accounting
        The monitor's ``accounting.json``, for the conservation lines of a comparison without bounds; None, or a file
        that is not there: they are counted from the lake.
    since, until
        Event times, aware; inclusive and exclusive. None: no bound.
    exact
        Sort the scores for the areas under the ROC curve, instead of counting them in bins.
    look
        What to look at more closely, of challengers of the current champion; None: nothing.
    memory_limit, threads
        For DuckDB; None takes all cores.

    Returns
    -------
    Comparison
        Champion and challenger figures are always of the same pairs.

    Raises
    ------
    LakeError
        If the lake or the monitor's accounts are damaged.
    """
    window = Window(since, until)
    books = read_books(accounting)
    manifest = read_manifest(lake)
    reached = _reached(manifest, window)
    with (
        reading(lake),
        closing(connect(lake, reached, memory_limit=memory_limit, threads=threads, tables=_TABLES)) as connection,
    ):
        return compare_tables(
            connection,
            manifest.schemas,
            window=window,
            books=books,
            exact=exact,
            look=look,
            snapshot=manifest.number,
        )


def compare_tables(
    connection: Any,
    schemas: Mapping[str, EventSchema],
    *,
    window: Window | None = None,
    books: Mapping[str, Book] | None = None,
    exact: bool = False,
    look: Look | None = None,
    snapshot: int = 0,
) -> Comparison:
    """As :func:`compare`, on a DuckDB connection (time zone UTC) that has ``events``, ``results`` and ``pairs``.

    Parameters
    ----------
    schemas
        Hash -> schema, of every event.
    books
        The monitor's accounts; None: there are none.
    """
    window = window or Window()
    _prepare(connection, schemas, window)
    found = groups(connection)
    owed = duties(lives(connection, None if window.bounded else found), running=books)
    lines = accounts(connection, found, owed, books if books is not None and not window.bounded else {})
    (current,) = connection.execute(_CHAMPION).fetchone()
    if current is None and found:
        current = max(found, key=lambda group: group.last_us).champion_version
    found.sort(key=lambda group: -group.last_us)
    owners = owners_of(owed)
    written = {(name, group.version) for group in found for name in _names(group, owners)}
    entries: list[tuple[str | None, Challenger]] = []
    shown: set[tuple[str, str | None]] = set()
    for group in found:
        own = [lines[name, group.version] for name in sorted(_names(group, owners))]
        if group.champion_version == current and not group.only_replayed:
            # Of a version that runs under two names the lake may have nothing that the second wrote.
            others = (line for who, line in lines.items() if who not in written and line.account.sampled)
            own += [line for line in others if line.version == group.version]
        entries += [(group.champion_version, each) for each in _challengers(connection, group, own, exact=exact)]
        shown |= {(line.name, line.version) for line in own}
    task: Task = next((schema.task for schema in schemas.values() if schema.version == current), "binary")
    entries += [
        (current, _idle(line, task, current))
        for who, line in lines.items()
        if who not in shown and line.current and line.account.sampled
    ]
    if look is not None and current is not None:
        closer = look.closer(connection, current, schemas)
        entries = [(champion, closer(each) if champion == current else each) for champion, each in entries]
    now = _against(current, entries)
    earlier = dict.fromkeys(version for version, _ in entries if version != current)
    return Comparison(
        **{field: getattr(now, field) for field in now.__struct_fields__},
        earlier=tuple(_against(version, entries) for version in earlier),
        since=rfc3339(window.since),
        until=rfc3339(window.until),
        snapshot=snapshot,
        auc_bins=None if exact else BINS,
    )


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions measured on the same pairs."""

    champion: Side
    challenger: Side
    replayed: int
    """Pairs that ``shadow replay`` made."""


def measure(
    connection: Any, schemas: Mapping[str, EventSchema], *, champion: str, version: str, window: Window | None = None
) -> Sides:
    """Figures of one version and one champion version on their labelled pairs, as :func:`compare_tables` has them.

    Parameters
    ----------
    connection, schemas, window
        As :func:`compare_tables` takes them; the span has pairs of the two.
    """
    _prepare(connection, schemas, window or Window())
    wanted = version, champion
    group = next(found for found in groups(connection) if (found.version, found.champion_version) == wanted)
    own, other = latencies(connection, group)
    measured = labelled(connection, group, exact=False)
    return Sides(
        champion=Side(version=champion, **msgspec.structs.asdict(measured.champion), **_latencies(other)),
        challenger=Side(version=version, **msgspec.structs.asdict(measured.challenger), **_latencies(own)),
        replayed=sum(tally.n for tally in group.paired if tally.replayed),
    )


def _reached(manifest: Manifest, window: Window) -> Manifest:
    """Without files that lie outside the window; results stay, since who ever wrote some is asked of all of them."""
    first, last = (None if end is None else round(end.timestamp() * 1e6) for end in (window.since, window.until))
    files = manifest.between(first, last).files
    return msgspec.structs.replace(manifest, files={**files, "results": manifest.files.get("results", ())})


def _prepare(connection: Any, schemas: Mapping[str, EventSchema], window: Window) -> None:
    known = [{"hash": key, "threshold": schema.threshold, "outputs": schema.outputs} for key, schema in schemas.items()]
    connection.register("event_schemas", pa.Table.from_pylist(known, _SCHEMAS))
    connection.execute(PLAIN_MACRO)
    window.open(connection)


def _names(group: Group, owners: Mapping[str, str]) -> set[str]:
    """Names that a group's version ran under."""
    return {owners[group.version] if tally.replayed else tally.challenger for tally in group.tallies}


def _challengers(connection: Any, group: Group, lines: Sequence[Line], *, exact: bool) -> list[Challenger]:
    """The version of a group, once for each name: the figures are the version's, the account is the name's."""
    same, apart = agreement(connection, group)
    own, champion = latencies(connection, group)
    measured = labelled(connection, group, exact=exact)
    return [
        Challenger(
            name=line.name,
            version=group.version,
            task=group.task,
            champion=Side(
                version=group.champion_version, **msgspec.structs.asdict(measured.champion), **_latencies(champion)
            ),
            pairs=group.pairs,
            labelled=measured.count,
            label_coverage=measured.count / group.pairs if group.pairs else None,
            replayed=sum(tally.n for tally in group.paired if tally.replayed),
            agreement=same,
            score_difference=apart,
            prevalence=measured.prevalence,
            accounting=line.account,
            noise_floor=group.version == group.champion_version,
            **msgspec.structs.asdict(measured.challenger),
            **_latencies(own),
        )
        for line in lines
    ]


def _latencies(quantiles: Sequence[float | None]) -> dict[str, Any]:
    return dict(zip(("latency_p50_ms", "latency_p99_ms"), quantiles, strict=True))


def _idle(line: Line, task: Task, champion: str | None) -> Challenger:
    """A challenger that had something to do in the span and has done nothing."""
    return Challenger(
        name=line.name,
        version=line.version,
        task=task,
        champion=Side(version=champion),
        pairs=0,
        labelled=0,
        label_coverage=None,
        replayed=0,
        agreement=None,
        score_difference=ScoreDifference(),
        prevalence=None,
        accounting=line.account,
    )


def _against(champion: str | None, entries: Sequence[tuple[str | None, Challenger]]) -> Against:
    """What was compared with one champion version: live challengers by name, the latest version of each first."""
    own = sorted(
        (challenger for version, challenger in entries if version == champion),
        key=lambda challenger: (challenger.noise_floor, challenger.name == "replay", challenger.name),
    )
    others = [each for each in own if not each.noise_floor]
    once = {each.version: each for each in sorted(others, key=lambda each: each.pairs)}.values()
    decided = [challenger for challenger in once if challenger.agreement is not None]
    pairs = sum(challenger.pairs for challenger in decided)
    return Against(
        pairs=sum(challenger.pairs for challenger in once),
        labelled=sum(challenger.labelled for challenger in once),
        agreement=sum((challenger.agreement or 0.0) * challenger.pairs for challenger in decided) / pairs
        if pairs
        else None,
        champion=own[0].champion if own else Side(version=champion),
        challengers=tuple(own),
    )
