"""Recorded traffic: the rows of the lake that one version answered in a span of time, as a source and as a report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.detecting import profile_report
from shadow_mlops.drift.files import file_source
from shadow_mlops.drift.livestate import Identity
from shadow_mlops.drift.references import Reference
from shadow_mlops.drift.report import DriftReport, Moment
from shadow_mlops.drift.rules import Rules
from shadow_mlops.drift.sources import Source
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.queries import connect, quoted, reading
from shadow_mlops.lake.tables import NUMBER_PREFIX, STRING_PREFIX
from shadow_mlops.models.reference import SCORE
from shadow_mlops.statistics.profiles import Profile

LIMITS = ("p-values take rows to be independent: many rows of one entity, or a daily cycle, make them too small",)
_STEPS = tuple(timedelta(minutes=minutes) for minutes in (5, 60, 360, 1440, 10080))
_MOST_STRETCHES = 31
_STRETCH_ROWS = 500  # on average at least: fewer tell little, and their p-values take longest to simulate
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a span: [since, until)."""

    since: datetime
    until: datetime
    source: Source


@dataclass(frozen=True, slots=True)
class Archived:
    """Rows of a span, features by their names and the score as ``__score__``; readable until the span is left.

    Attributes
    ----------
    words
        What it is, for people.
    whole
        All rows.
    stretches
        The same by time, oldest first, without those that have no row.
    """

    words: str
    whole: Source
    stretches: tuple[Stretch, ...]


@contextmanager
def archived(
    lake: Path, identity: Identity, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Archived]:
    """Take the rows that a version answered out of the lake, into files that are gone afterwards.

    Parameters
    ----------
    lake
        Folder of the lake.
    identity
        Whose rows: those that another version answered meanwhile are left out, for they are of another reference.
    since
        Event time, inclusive; None: from the first event.
    until
        Exclusive; None: to the last event.

    Raises
    ------
    DriftError
        If there is no such row; the message says what is there instead.
    LakeError
        If the lake cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="shadow-drift-") as folder:
        manifest = read_manifest(lake)
        with reading(lake), closing(connect(lake, manifest, tables=("events",))) as connection:
            answered = f"model = {_text(identity.model)} AND registry_version = {_text(identity.registry_version)}"
            answered += _within(since, until)
            first_us, last_us, rows = connection.execute(
                f"SELECT epoch_us(min(time)), epoch_us(max(time)), count(*) FROM events WHERE {answered}"  # noqa: S608 - quoted above
            ).fetchone()
            if not rows:
                raise DriftError(_nothing(connection, manifest, identity, _within(since, until)))
            first, last = (_EPOCH + timedelta(microseconds=us) for us in (first_us, last_us))
            paths = []
            for begins, ends in _stretches(first, last, rows):
                path = Path(folder) / f"{begins:%Y%m%dT%H%M%S}.parquet"
                query = f"SELECT {_columns(manifest, identity)} FROM events WHERE {answered}{_within(begins, ends)}"  # noqa: S608 - as above
                (written,) = connection.execute(f"COPY ({query}) TO {_text(str(path))} (FORMAT parquet)").fetchone()
                if written:
                    paths.append((begins, ends, path))
        words = (
            f"traffic that {identity.model} {identity.version} answered, {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M} UTC"
        )
        stretches = tuple(Stretch(begins, ends, file_source(path)) for begins, ends, path in paths)
        yield Archived(words, file_source([path for *_, path in paths]), stretches)


def traffic_report(rows: Archived, reference: Reference, rules: Rules, *, bin_count: int = 10) -> DriftReport:
    """Compare recorded rows with the reference of the version that answered them, with a time line.

    Parameters
    ----------
    bin_count
        Quantile bins that the reference was made with.

    Raises
    ------
    DriftError
        If they have no feature in common.
    """
    bins, known = reference.profile.bins, reference.profile.profile
    there = rows.whole.schema().columns
    common = {name: each for name, each in bins.items() if name in there and there[name].kind in {None, each.kind}}
    if not common:
        raise DriftError(f"{rows.words} has no feature in common with its reference, {reference.words}")

    def report(source: Source, moments: Sequence[Moment] = ()) -> DriftReport:
        tallies = source.tally(common)
        current = Profile(tuple(common), tuple(tallies[name].counts for name in common), source.schema().rows)
        # A value without a bin is new only where the reference has none of those: its own are not known by name.
        others = {name: tallies[name].others for name in common if name in complete}
        return profile_report(
            common,
            known,
            current,
            rules=rules,
            bin_count=bin_count,
            reference_name=reference.words,
            current_name=rows.words,
            timeline=moments,
            limits=LIMITS,
            others=others,
        )

    counts = dict(zip(known.features, known.counts, strict=True))
    complete = {name for name, each in common.items() if each.kind == "category" and not counts[name][-2]}
    return report(rows.whole, [_moment(stretch, report(stretch.source)) for stretch in rows.stretches])


def _moment(stretch: Stretch, found: DriftReport) -> Moment:
    return Moment(
        since=rfc3339(round(stretch.since.timestamp() * 1e6)),
        until=rfc3339(round(stretch.until.timestamp() * 1e6)),
        rows=found.current_rows,
        verdict=found.verdict,
        psi={score.feature: score.score for score in found.scores if score.method == "psi"},
    )


def _columns(manifest: Manifest, identity: Identity) -> str:
    of_version = [
        schema
        for schema in manifest.schemas.values()
        if (schema.model, schema.registry_version) == (identity.model, identity.registry_version)
    ]
    numbers = {name: NUMBER_PREFIX + name for schema in of_version for name in schema.numbers}
    strings = {name: STRING_PREFIX + name for schema in of_version for name in schema.strings}
    columns = [f"{quoted(column)} AS {quoted(name)}" for name, column in (strings | numbers).items()]
    # As models.reference.score_of has it.
    columns.append(f"CASE task WHEN 'multiclass' THEN list_max(scores) ELSE scores[-1] END AS {quoted(SCORE)}")
    return ", ".join(columns)


def _within(since: datetime | None, until: datetime | None) -> str:
    """Conditions that follow others; a feature may be called ``time`` too."""
    bounds = "" if since is None else f" AND events.time >= {_time(since)}"
    return bounds if until is None else f"{bounds} AND events.time < {_time(until)}"


def _time(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat()}'"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _stretches(first: datetime, last: datetime, rows: int) -> Iterator[tuple[datetime, datetime]]:
    """Of one length, a round one if it can be, that cover both times."""
    most = min(_MOST_STRETCHES, max(rows // _STRETCH_ROWS, 2))
    step = next((each for each in _STEPS if (last - first) / each < most - 1), (last - first) / (most - 1))
    begins = _EPOCH + (first - _EPOCH) // step * step
    while begins <= last:
        yield begins, begins + step
        begins += step


def _nothing(connection: Any, manifest: Manifest, identity: Identity, within: str) -> str:
    if not manifest.number:
        return (
            "nothing is archived yet: `shadow up` runs the monitor that archives, a few seconds after the first answer"
        )
    query = f"SELECT count(*) FROM events WHERE true{within}"  # noqa: S608 - times only
    (others,) = connection.execute(query).fetchone()
    who = f"{identity.model} {identity.version}"
    if others:
        return f"{who} answered nothing in this span, other versions {others:,} events: ask for a later or longer one"
    return f"no event is recorded in this span that {who} could have answered: ask for a longer one"
