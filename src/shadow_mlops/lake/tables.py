"""The columns of the lake's tables. Columns are added, never retyped, and never taken away.

``events`` has, beside these columns, one for each feature: ``n_NAME`` (double) for a number and ``s_NAME`` (string) for
a text. A feature that a later deployment lacks reads as null in later rows, one that it adds as null in earlier ones.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import pyarrow as pa

Table: TypeAlias = Literal["events", "results", "outcomes", "labels", "pairs"]
TIME = pa.timestamp("us", tz="UTC")
SCORES = pa.list_(pa.float64())
_ORDER = [("boot", pa.int32()), ("monotonic_ns", pa.int64())]
_EVENT = [("segment", pa.int64()), ("row", pa.int32())]
_SIDE = [("version", pa.string()), ("score", pa.float64()), ("label", pa.string()), ("scores", SCORES)]

EVENTS = pa.schema(
    [
        *_EVENT,  # together the event's id
        *_ORDER,
        ("time", TIME),
        ("request_id", pa.string()),
        ("entity", pa.string()),
        ("model", pa.string()),
        ("registry_version", pa.string()),
        ("role", pa.string()),
        ("task", pa.string()),
        ("schema", pa.string()),  # hash, key of Manifest.schemas
        ("sampled", pa.bool_()),
        ("latency_us", pa.int32()),
        # score: of the positive class, or the value; null for multiclass. label: the decision; null for regression
        *_SIDE,
        (
            "origins",
            pa.list_(pa.uint8()),
        ),  # per feature as the schema orders them, numbers first; null: all from the request
        # as origins: seconds since the event of a stored value, null where there is none; null: no value has one
        ("ages", pa.list_(pa.uint32())),
    ]
)
RESULTS = pa.schema(
    [
        *_EVENT,
        ("time", TIME),  # of the event
        ("entity", pa.string()),
        ("task", pa.string()),
        ("schema", pa.string()),  # of the event
        ("challenger", pa.string()),
        ("registry_version", pa.string()),
        ("replayed", pa.bool_()),
        ("status", pa.string()),  # paired, timed_out, errored, shed
        ("outputs", pa.list_(pa.string())),  # what the scores are of
        ("latency_us", pa.int32()),
        *_SIDE,
        ("champion_version", pa.string()),
        ("champion_score", pa.float64()),
        ("champion_label", pa.string()),
        ("champion_scores", SCORES),
        ("champion_latency_us", pa.int32()),
        *_ORDER,  # of the result frame
        ("result_segment", pa.int64()),
        ("result_row", pa.int32()),
        # true: the challenger had answered, in a canary step, and the sides are swapped; null in older rows: false
        ("swapped", pa.bool_()),
    ]
)
OUTCOMES = pa.schema(
    [
        *_EVENT,  # of the outcome itself, in its own stream
        *_ORDER,
        ("received", TIME),
        ("time", TIME),  # null where none was given
        ("label", pa.string()),
        ("request_id", pa.string()),
        ("entity", pa.string()),
    ]
)
LABELS = pa.schema(
    [
        ("outcome_segment", pa.int64()),
        ("outcome_row", pa.int32()),
        *_EVENT,  # that the outcome was matched with
        ("time", TIME),  # of the event
        ("received", TIME),
        ("label", pa.string()),
        ("verdict", pa.string()),  # joined, repeated, contradicting, late, invalid
        ("matures", TIME),  # when a joined label is final; null: since it was joined, and in all other rows
        *_ORDER,  # of the outcome
    ]
)
PAIRS = pa.schema(
    [
        *RESULTS,
        ("outcome", pa.string()),  # the matured label
        ("target", pa.float64()),  # 1 or 0 for binary (is it the positive class), the value for regression, else null
        ("p_outcome", pa.float64()),  # the challenger's probability of the class that came true; null for regression
        ("champion_p_outcome", pa.float64()),
        ("outcome_received", TIME),
    ]
)
SCHEMAS: dict[Table, pa.Schema] = {
    "events": EVENTS,
    "results": RESULTS,
    "outcomes": OUTCOMES,
    "labels": LABELS,
    "pairs": PAIRS,
}
NUMBER_PREFIX = "n_"
STRING_PREFIX = "s_"
