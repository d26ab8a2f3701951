"""Rows of the lake's tables from a few arrays, for the tests of what reads the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from shadow_mlops.domain.events import EventSchema
from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.labelnames import plain_label
from shadow_mlops.lake.manifest import Manifest, schema_hash
from shadow_mlops.lake.tables import EVENTS, PAIRS, RESULTS, SCHEMAS

START_US = 1_780_000_000_000_000
SECOND_US = 1_000_000


def schema(task: str = "binary", outputs: Sequence[str] = ("0", "1"), **changes) -> EventSchema:
    """Of events that ``champion-1`` answered."""
    plain = {
        "deployment": "d",
        "task": task,
        "model": "m",
        "version": "champion-1",
        "registry_version": "1",
        "numbers": ("a",),
        "strings": ("s",),
        "outputs": tuple(outputs),
        "positive": outputs[-1] if task == "binary" else "",
    }
    return EventSchema(**{**plain, **changes})


@dataclass
class Rows:
    """A lake in memory: one event a second from :data:`START_US`, each in segment 1 at the row of its number."""

    schemas: dict[str, EventSchema] = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)
    results: list[dict] = field(default_factory=list)
    pairs: list[dict] = field(default_factory=list)
    labels: list[dict] = field(default_factory=list)

    def answer(
        self, scores, of: EventSchema | None = None, *, first: int = 0, sampled: bool = True, latency_us: int = 100
    ) -> None:
        """Events with the champion's scores, (n, outputs); for binary also (n,), of the positive class."""
        of = of or schema()
        self.schemas[schema_hash(of)] = of
        for number, row in enumerate(_columns(scores, of.task).tolist(), first):
            self.events.append(
                {
                    **_event(number, of),
                    "boot": 1,
                    "monotonic_ns": number * 1000,
                    "request_id": f"r{number}",
                    "entity": f"e{number}",
                    "model": of.model,
                    "registry_version": of.registry_version,
                    "role": of.role,
                    "sampled": sampled,
                    "latency_us": latency_us,
                    "version": of.version,
                    **_side(row, of, of.outputs),
                    "origins": None,
                    "n_a": float(number),
                    "s_s": f"text {number}",
                }
            )

    def shadow(
        self,
        scores,
        *,
        version: str = "v2",
        name: str = "challenger",
        status: str = "paired",
        first: int = 0,
        outcomes: Sequence[str | None] | None = None,
        outputs: Sequence[str] | None = None,
        replayed: bool = False,
        latency_us: Sequence[int] | int = 50,
    ) -> None:
        """Results for consecutive events from the first one on; with outcomes, matured labels too."""
        by_row = {event["row"]: event for event in self.events}
        rows = _columns(scores, self.schemas[by_row[first]["schema"]].task).tolist()
        spent = [latency_us] * len(rows) if isinstance(latency_us, int) else list(latency_us)
        for number, row in enumerate(rows, first):
            event = by_row[number]
            of = self.schemas[event["schema"]]
            own = tuple(outputs or of.outputs)
            done = status == "paired"
            result = {
                **_event(number, of),
                "entity": event["entity"],
                "challenger": name,
                "registry_version": "2",
                "replayed": replayed,
                "status": status,
                "outputs": list(own),
                "latency_us": spent[number - first] if status != "shed" else None,
                "version": version,
                **(_side(row, of, own) if done else {"score": None, "label": None, "scores": None}),
                **{f"champion_{key}": event[key] for key in ("version", "score", "label", "scores", "latency_us")},
                "boot": 1,
                "monotonic_ns": number * 1000 + 500,
                "result_segment": 9,
                "result_row": number,
            }
            self.results.append(result)
            if outcomes is not None and outcomes[number - first] is not None:
                self.pairs.append({**result, **_matured(result, of, outcomes[number - first])})

    def label(self, number: int, label: str, *, verdict: str = "joined", matures_us: int | None = None) -> None:
        """A row of ``labels``."""
        self.labels.append(
            {
                "outcome_segment": 5,
                "outcome_row": len(self.labels),
                "segment": 1,
                "row": number,
                "time": START_US + number * SECOND_US,
                "received": START_US + number * SECOND_US + 1,
                "label": label,
                "verdict": verdict,
                "matures": matures_us,
                "boot": 1,
                "monotonic_ns": 10**9 + len(self.labels),
            }
        )

    def tables(self) -> dict[str, pa.Table]:
        """Arrow tables by name."""
        features = [pa.field("n_a", pa.float64()), pa.field("s_s", pa.string())]
        return {
            "events": pa.Table.from_pylist(self.events, pa.schema([*EVENTS, *features])),
            "results": pa.Table.from_pylist(self.results, RESULTS),
            "pairs": pa.Table.from_pylist(self.pairs, PAIRS),
            "labels": pa.Table.from_pylist(self.labels, SCHEMAS["labels"]),
        }

    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with the tables registered."""
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in self.tables().items():
            connection.register(name, table)
        return connection

    def write(self, lake: Path, *, pieces: int = 1) -> Manifest:
        """A real lake with these rows, each table in so many files."""
        manifest = Manifest()
        for piece in range(pieces):
            change = Change(lake, manifest)
            for key, of in self.schemas.items():
                change.learn(key, of)
            for name, table in self.tables().items():
                start, end = (table.num_rows * (piece + i) // pieces for i in (0, 1))
                if end > start:
                    change.add(name, table.slice(start, end - start))
            manifest = change.commit()
        return manifest


def bulk(
    table: str, columns: Mapping[str, object], rows: int, of: EventSchema, *, challenger: str = "challenger"
) -> pa.Table:
    """Many rows of ``events``, ``results`` or ``pairs`` fast: given columns, and plain ones for the others."""
    constants = {
        "task": of.task,
        "schema": schema_hash(of),
        "challenger": challenger,
        "registry_version": "2",
        "status": "paired",
        "version": of.version if table == "events" else "v2",
        "champion_version": of.version,
        "model": of.model,
        "role": of.role,
        "sampled": True,
        "replayed": False,
        "boot": 1,
        "result_segment": 9,
    }
    arrays = []
    for each in SCHEMAS[table]:
        if each.name in columns:
            given = columns[each.name]
            array = given if isinstance(given, pa.Array) else pa.array(given)
            arrays.append(array if array.type == each.type else array.cast(each.type))
        elif each.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[each.name], each.type), rows))
        else:
            arrays.append(pa.nulls(rows, each.type))
    return pa.table(arrays, schema=SCHEMAS[table])


def _columns(scores, task: str) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 2:
        return array
    return np.column_stack([1 - array, array]) if task == "binary" else array[:, None]


def _event(number: int, of: EventSchema) -> dict:
    return {
        "segment": 1,
        "row": number,
        "time": START_US + number * SECOND_US,
        "task": of.task,
        "schema": schema_hash(of),
    }


def _side(row: list[float], of: EventSchema, outputs: Sequence[str]) -> dict:
    if of.task == "regression":
        return {"score": row[0], "label": None, "scores": row}
    if of.task == "multiclass":
        return {"score": None, "label": outputs[int(np.argmax(row))], "scores": row}
    score = row[list(outputs).index(of.positive)]
    other = next(name for name in of.outputs if name != of.positive)
    return {"score": score, "label": of.positive if score >= of.threshold else other, "scores": row}


def _matured(result: dict, of: EventSchema, outcome: str) -> dict:
    happened = outcome == of.positive
    matured = {"outcome": outcome, "outcome_received": START_US, "target": None, "p_outcome": None}
    if of.task == "regression":
        return {**matured, "target": float(outcome), "champion_p_outcome": None}
    sides = {}
    for side, outputs in (("", result["outputs"]), ("champion_", of.outputs)):
        scores, score = result[f"{side}scores"], result[f"{side}score"]
        if of.task == "binary":
            sides[f"{side}p_outcome"] = None if score is None else score if happened else 1 - score
        else:
            known = dict(zip(map(plain_label, outputs), scores or (), strict=False))
            sides[f"{side}p_outcome"] = known.get(plain_label(outcome), 0.0) if scores is not None else None
    return {**matured, **sides, "target": float(happened) if of.task == "binary" else None}
