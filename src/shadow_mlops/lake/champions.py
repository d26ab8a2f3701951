"""The champion's side of shadow results, from the events that the lake has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shadow_mlops.domain.errors import LakeError
from shadow_mlops.domain.events import REPLAYS_PREFIX, EventSchema
from shadow_mlops.lake.candidates import SHED, STATUSES, Candidates
from shadow_mlops.lake.decisions import decide
from shadow_mlops.lake.manifest import Manifest
from shadow_mlops.lake.queries import create_view
from shadow_mlops.lake.rows import latencies_us, score_lists
from shadow_mlops.lake.tables import RESULTS, Table

_BLOCK = 14  # 16,384 rows: a quarter of a minute of a busy gateway
_MOST_BLOCKS = 1_000_000
_EARLIEST_US, _LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 and 9999
_TABLES: tuple[Table, ...] = ("events", "results")
_JOIN = """
SELECT c.place, r.row IS NOT NULL AS again, e.time, e.entity, e.task, e.schema, e.version AS champion_version,
    e.score AS champion_score, e.label AS champion_label, e.scores AS champion_scores,
    e.latency_us AS champion_latency_us
FROM candidates c
JOIN (
    SELECT segment, row, sampled, time, entity, task, schema, version, score, label, scores, latency_us
    FROM events WHERE time BETWEEN {first} AND {last}
) e ON e.segment = c.segment AND e.row = c.row
LEFT JOIN (
    SELECT segment, row FROM results WHERE version = $version AND time BETWEEN {first} AND {last}
) r ON r.segment = c.segment AND r.row = c.row
WHERE e.sampled OR NOT c.shed
ORDER BY c.place
"""
_TIMES = """
SELECT segment, row >> {block} AS block, epoch_us(min(time)), epoch_us(max(time))
FROM events WHERE segment IN (SELECT unnest($segments)) GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of result rows.

    Attributes
    ----------
    data
        Rows for ``results``, in the order of the candidates.
    repeated
        Rows of which the lake has a result of that event and version.
    orphaned
        Rows whose event is not in the lake: it was removed from the log before it was archived.
    """

    data: pa.Table
    repeated: int
    orphaned: int


class Champions:
    """Finds events by segment and row, and reads only the files that can have them.

    Parameters
    ----------
    lake
        Folder of the lake.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._times: dict[tuple[int, int], tuple[int, int]] = {}
        self._looked: set[int] = set()
        self._partial: set[int] = set()
        """Segments of which an earlier process has archived the beginning."""

    def saw(self, events: pa.Table) -> None:
        """Remember when events happened that have been archived."""
        segments, rows = events.column("segment").to_numpy(), events.column("row").to_numpy()
        times = pc.cast(events.column("time"), pa.int64()).to_numpy()
        if len(self._times) > _MOST_BLOCKS:
            self.forget()
        blocks = rows >> _BLOCK
        starts = np.flatnonzero(np.concatenate([[True], (segments[1:] != segments[:-1]) | (blocks[1:] != blocks[:-1])]))
        begun = (rows[starts] & ((1 << _BLOCK) - 1)).tolist()
        firsts, lasts = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
        keys = zip(segments[starts].tolist(), blocks[starts].tolist(), strict=True)
        for key, inside, first, last in zip(keys, begun, firsts.tolist(), lasts.tolist(), strict=True):
            if inside and key not in self._times:
                self._partial.add(key[0])
            known = self._times.get(key, (first, last))
            self._times[key] = (min(known[0], first), max(known[1], last))

    def forget(self) -> None:
        """Forget when events happened; the lake will be asked."""
        self._times.clear()
        self._looked.clear()
        self._partial.clear()

    def join(self, connection: duckdb.DuckDBPyConnection, piece: Candidates, manifest: Manifest) -> Joined:
        """Results with the champion's side, of those that the lake does not have.

        Parameters
        ----------
        connection
            Its views ``events`` and ``results`` are replaced.
        manifest
            Snapshot that has the events, not necessarily committed.

        Raises
        ------
        LakeError
            If the schema of an event is missing in the manifest.
        """
        span = self._span(connection, piece, manifest)
        if span is None:
            return Joined(RESULTS.empty_table(), 0, max(piece.expected - piece.again, 0))
        found = self._found(connection, piece, manifest.between(*span), span)
        again = found.column("again").to_numpy()
        found = found.filter(pc.invert(found.column("again")))
        stored = piece.at(found.column("place").to_numpy())
        repeated = int(again.sum()) + piece.again
        orphaned = max(piece.expected - repeated - len(stored), 0)
        return Joined(_results(stored, found, manifest.schemas), repeated, orphaned)

    def _span(
        self, connection: duckdb.DuckDBPyConnection, piece: Candidates, manifest: Manifest
    ) -> tuple[int, int] | None:
        blocks = np.unique(np.stack([piece.segments, piece.rows.astype(np.int64) >> _BLOCK]), axis=1).T.tolist()
        unknown = {segment for segment, block in blocks if (segment, block) not in self._times} - self._looked
        unknown |= self._partial.intersection(segment for segment, _ in blocks)
        if unknown:
            self._look(connection, unknown, manifest)
        spans = [self._times[segment, block] for segment, block in blocks if (segment, block) in self._times]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    def _look(self, connection: duckdb.DuckDBPyConnection, segments: set[int], manifest: Manifest) -> None:
        create_view(connection, self._lake, "events", manifest.files.get("events", ()))
        rows = connection.execute(_TIMES.format(block=_BLOCK), {"segments": sorted(segments)}).fetchall()
        self._times |= {(segment, block): (first, last) for segment, block, first, last in rows}
        self._looked |= segments
        self._partial -= segments

    def _found(
        self, connection: duckdb.DuckDBPyConnection, piece: Candidates, manifest: Manifest, span: tuple[int, int]
    ) -> pa.Table:
        candidates = pa.table(
            {
                "place": np.arange(len(piece)),
                "segment": piece.segments,
                "row": piece.rows,
                "shed": piece.statuses == SHED,
            }
        )
        for table in _TABLES:
            create_view(connection, self._lake, table, manifest.files.get(table, ()))
        connection.register("candidates", candidates)
        query = _JOIN.format(first=_moment(span[0]), last=_moment(span[1]))
        try:
            return connection.sql(query, params={"version": piece.schema.version}).to_arrow_table()
        finally:
            connection.unregister("candidates")


def in_log_order(tables: Sequence[pa.Table]) -> pa.Table:
    """Results of one stream as one table, in the order of its frames; each of the tables is in that order."""
    if len(tables) == 1:
        return tables[0]
    whole = pa.concat_tables(tables)
    keys = [whole[name].to_numpy() for name in ("result_row", "result_segment", "monotonic_ns", "boot")]
    return whole.take(pa.array(np.lexsort(keys)))


def _results(stored: Candidates, found: pa.Table, schemas: Mapping[str, EventSchema]) -> pa.Table:
    n = len(stored)
    score, label = _decided(stored, found.column("schema"), schemas)
    schema = stored.schema
    columns = {
        **{name: found.column(name) for name in RESULTS.names if name in found.column_names},
        "segment": stored.segments,
        "row": stored.rows,
        "challenger": pa.repeat(schema.challenger, n),
        "registry_version": pa.repeat(schema.registry_version, n),
        "replayed": pa.repeat(stored.stream.startswith(REPLAYS_PREFIX), n),
        "status": _texts(stored.statuses, STATUSES),
        "outputs": pa.array([list(schema.outputs)], pa.list_(pa.string())).take(pa.array(np.zeros(n, np.int64))),
        "latency_us": pa.array(latencies_us([stored.latencies]), mask=stored.statuses == SHED),
        "version": pa.repeat(schema.version, n),
        "score": score,
        "label": label,
        "scores": score_lists(stored.scores),
        "boot": stored.boots,
        "monotonic_ns": stored.times,
        "result_segment": stored.frame_segments,
        "result_row": stored.frame_rows,
        "swapped": pa.repeat(schema.swapped, n),
    }
    return pa.table({name: columns[name] for name in RESULTS.names}).cast(RESULTS)


def _decided(
    stored: Candidates, keys: pa.ChunkedArray, schemas: Mapping[str, EventSchema]
) -> tuple[pa.Array, pa.Array]:
    names = pc.unique(keys).to_pylist()
    missing = [name for name in names if name not in schemas]
    if missing:
        raise LakeError(f"the manifest does not know the schema {missing[0]} of events that have results")
    if len(names) == 1:
        return decide(schemas[names[0]], stored.schema.outputs, stored.scores)
    places = [np.flatnonzero(pc.equal(keys, name).to_numpy()) for name in names]
    decided = [
        decide(schemas[name], stored.schema.outputs, stored.scores[each])
        for name, each in zip(names, places, strict=True)
    ]
    back = pa.array(np.argsort(np.concatenate([np.zeros(0, np.int64), *places])))
    scores = pa.concat_arrays([pa.nulls(0, pa.float64()), *(score for score, _ in decided)])
    labels = pa.concat_arrays([pa.nulls(0, pa.string()), *(label for _, label in decided)])
    return scores.take(back), labels.take(back)


def _texts(codes: NDArray[np.uint8], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(names)).cast(pa.string())


def _moment(us: int) -> str:
    us = min(max(us, _EARLIEST_US), _LATEST_US)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    return f"TIMESTAMPTZ '{moment.isoformat()}'"
