"""The three kinds of rows, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.events import EventSchema, OutcomeSchema, ResultSchema, Span

Floats: TypeAlias = NDArray[np.float64]
Strings: TypeAlias = NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """n answered predictions of one model.

    Attributes
    ----------
    times
        int64 (n,): microseconds since 1970, UTC, when each request was received.
    latencies
        uint32 (n,): microseconds from receipt to the append.
    request_ids, entities
        n texts; an entity may be None.
    numbers
        float64 (n, len(schema.numbers)); NaN is a missing value.
    strings
        object (n, len(schema.strings)); None is a missing value.
    scores
        float64 (n, len(schema.outputs)).
    origins
        uint8 (n, numbers + strings), :class:`~shadow_mlops.domain.events.Origin`; None: all from the request.
    sampled
        bool (n,): rows in the deployment's sample; None: all.
    ages
        uint32 (n, numbers + strings): seconds between the event of a value in the feature store and its reading,
        :data:`~shadow_mlops.domain.events.NO_AGE` elsewhere; a value that was too old to be used has its age and the
        origin of what was used. None: no row has any.
    """

    schema: EventSchema
    times: NDArray[np.int64]
    latencies: NDArray[np.uint32]
    request_ids: list[str]
    entities: list[str | None]
    numbers: Floats
    strings: Strings
    scores: Floats
    origins: NDArray[np.uint8] | None = None
    sampled: NDArray[np.bool_] | None = None
    ages: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.request_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultBatch:
    """What a challenger made of consecutive spans of events.

    The rows of the spans that are not ``shed``, in the order of the spans, are the rows of the arrays.

    Attributes
    ----------
    statuses
        uint8 (m,), :class:`~shadow_mlops.domain.events.Status`.
    scores
        float64 (m, len(schema.outputs)); NaN where the status is not PAIRED.
    latencies
        uint32 (m,): microseconds per row, the duration of its micro-batch over the rows in it.
    """

    schema: ResultSchema
    spans: list[Span]
    statuses: NDArray[np.uint8]
    scores: Floats
    latencies: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.statuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBatch:
    """n reported outcomes, not yet matched: by request id, or by entity and time.

    Attributes
    ----------
    received
        int64 (n,): microseconds since 1970, UTC, when each was accepted.
    times
        int64 (n,): microseconds since 1970 of the outcome itself; ``NO_TIME`` where none was given.
    """

    schema: OutcomeSchema
    received: NDArray[np.int64]
    times: NDArray[np.int64]
    labels: list[str]
    request_ids: list[str | None] = field(default_factory=list)
    entities: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


NO_TIME = np.iinfo(np.int64).min

Batch: TypeAlias = EventBatch | ResultBatch | OutcomeBatch
