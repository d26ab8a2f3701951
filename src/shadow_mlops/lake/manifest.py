"""What the lake consists of at one moment: one small file that is replaced as a whole.

A reader takes the manifest and reads the files that it names; nothing else in the folder belongs to the snapshot. A
file that a later manifest no longer names stays on disk for ten minutes, for those who still read the one before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.tables import SCHEMAS, Table

MANIFEST = "manifest.json"
FORMAT = 1


class DataFile(msgspec.Struct, frozen=True):
    """One Parquet file of a snapshot; it never changes."""

    path: str
    """Relative to the lake."""
    rows: int
    bytes: int
    date: str
    """Day, UTC, of all of its rows by the table's time (``received`` for outcomes, else that of the event)."""
    first_us: int
    """Least such time in it, microseconds since 1970."""
    last_us: int
    part: str = ""
    """Stream that a results file comes from; empty in other tables."""


class Dropped(msgspec.Struct, frozen=True):
    """A file that no longer belongs to the lake and will be removed."""

    path: str
    at: float
    """Seconds since 1970 when it was dropped."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot.

    Attributes
    ----------
    number
        Grows by one with each snapshot; 0: there is none yet.
    at
        When it was committed, RFC 3339, UTC.
    files
        Table -> files in the order of the table: by date and part, within them as archived.
    positions
        Stream of the log -> segment -> rows of it that this snapshot has taken in.
    schemas
        Hash -> schema, of every event that was ever archived.
    counts
        Name -> number of occurrences since the lake was begun.
    dropped
        Files of earlier snapshots that are still on disk.
    matched_us
        Labels that were final by then, microseconds since 1970, have met the results; 0: none was looked at.
    """

    format: int = FORMAT
    number: int = 0
    at: str = ""
    files: dict[Table, tuple[DataFile, ...]] = {}
    positions: dict[str, dict[int, int]] = {}
    schemas: dict[str, EventSchema] = {}
    counts: dict[str, int] = {}
    dropped: tuple[Dropped, ...] = ()
    matched_us: int = 0

    def rows(self, table: Table) -> int:
        """Rows of a table."""
        return sum(file.rows for file in self.files.get(table, ()))

    def between(self, first_us: int | None = None, last_us: int | None = None) -> Manifest:
        """The same snapshot with only the files that may have rows of the span (in outcomes: received in it).

        Parameters
        ----------
        first_us, last_us
            Microseconds since 1970, both included; None: no limit.
        """

        def reaches(file: DataFile) -> bool:
            return (first_us is None or file.last_us >= first_us) and (last_us is None or file.first_us <= last_us)

        files = {table: tuple(filter(reaches, found)) for table, found in self.files.items()}
        return msgspec.structs.replace(self, files=files)


def schema_hash(schema: EventSchema) -> str:
    """Key of a schema in :attr:`Manifest.schemas` and in the column ``schema``: 16 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(schema)).hexdigest()[:16]


def read_manifest(lake: Path) -> Manifest:
    """The newest snapshot; an empty one with number 0 where nothing was ever archived.

    Raises
    ------
    LakeError
        If it is damaged, of a later version, or missing although there are tables.
    """
    path = lake / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if any((lake / table).is_dir() for table in SCHEMAS):
            raise LakeError(
                f"{path} is missing although there are tables: restore it, or move {lake} away to archive anew what "
                "the log still has"
            ) from None
        return Manifest()
    except OSError as error:
        raise LakeError(f"{path} cannot be read: {error}") from error
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LakeError(
            f"{path} is damaged ({error}): restore it, or move {lake} away to archive anew what the log still has"
        ) from error
    if manifest.format != FORMAT:
        raise LakeError(f"{path} has format {manifest.format}, this version reads {FORMAT}: use a newer version")
    return manifest
