"""Outcomes: their form is checked and they are logged; matching them with predictions happens later, elsewhere."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated

import msgspec
import numpy as np

from shadow_mlops.domain.errors import (
    BodyTooLargeError,
    InvalidFieldsError,
    LogError,
    MalformedBodyError,
    Problem,
    UnavailableError,
)
from shadow_mlops.domain.events import OutcomeSchema
from shadow_mlops.eventlog.records import NO_TIME, OutcomeBatch
from shadow_mlops.eventlog.seam import Appender
from shadow_mlops.telemetry.metrics import Metrics

MAX_OUTCOMES = 10_000

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Outcome(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What really happened, for one prediction."""

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | bool | int | float
    request_id: _Id | None = None
    entity: _Id | int | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Outcomes(msgspec.Struct, forbid_unknown_fields=True):
    """Several outcomes."""

    outcomes: Annotated[list[Outcome], msgspec.Meta(max_length=MAX_OUTCOMES)]


class OutcomeIntake:
    """Appends outcomes to their stream."""

    def __init__(self, appender: Appender, deployment: str, metrics: Metrics, *, sync: bool = False) -> None:
        self._appender = appender
        self._schema = OutcomeSchema(deployment=deployment)
        self._metrics = metrics
        self._sync = sync
        self._one = msgspec.json.Decoder(Outcome)
        self._many = msgspec.json.Decoder(Outcomes)

    def accept(self, body: bytes) -> int:
        """Check and log the outcomes of a request body; all of them or none.

        Returns
        -------
        int
            How many were accepted.

        Raises
        ------
        MalformedBodyError, InvalidFieldsError, BodyTooLargeError
            The body is wrong.
        UnavailableError
            The log cannot be written: the client keeps its labels and sends them again.
        """
        outcomes = self._decode(body)
        if not outcomes:
            return 0
        now = time.time_ns() // 1000
        batch = OutcomeBatch(
            schema=self._schema,
            received=np.full(len(outcomes), now, dtype=np.int64),
            times=np.array([_microseconds(o.time) for o in outcomes], dtype=np.int64),
            labels=[_text(o.label) for o in outcomes],
            request_ids=[o.request_id for o in outcomes],
            entities=[None if o.entity is None else str(o.entity) for o in outcomes],
        )
        try:
            self._appender.append(batch)
            if self._sync:
                self._appender.sync()
        except (LogError, OSError) as error:
            raise UnavailableError(f"the outcomes were not logged, send them again: {error}") from None
        self._metrics.outcomes_accepted.inc(len(outcomes))
        return len(outcomes)

    def _decode(self, body: bytes) -> list[Outcome]:
        try:
            several = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).keys() == {"outcomes"}
            outcomes = self._many.decode(body).outcomes if several else [self._one.decode(body)]
        except msgspec.ValidationError as error:
            text = str(error)
            if f"<= {MAX_OUTCOMES}" in text:
                raise BodyTooLargeError(f"at most {MAX_OUTCOMES} outcomes in one request") from None
            message, _, path = text.partition(" - at `")
            raise InvalidFieldsError(
                "the outcome is invalid", [Problem(path.rstrip("`").removeprefix("$."), message)]
            ) from None
        except (ValueError, RecursionError) as error:
            raise MalformedBodyError(f"the body is not valid JSON: {error}") from None
        problems = [
            Problem(
                "request_id",
                "give `request_id`, or `entity` and `time`, but not both",
                index if several else None,
            )
            for index, o in enumerate(outcomes)
            if not _identified(o)
        ]
        if problems:
            raise InvalidFieldsError("an outcome must say which prediction it belongs to", problems)
        return outcomes


def _identified(outcome: Outcome) -> bool:
    by_request = outcome.request_id is not None
    by_entity = outcome.entity is not None and outcome.time is not None
    return by_request != by_entity and not (by_request and outcome.entity is not None)


def _microseconds(time_of: datetime | None) -> int:
    return int(NO_TIME) if time_of is None else round(time_of.timestamp() * 1e6)


def _text(label: str | bool | float) -> str:
    if isinstance(label, bool):
        return str(int(label))
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)
