"""Predictions of one event-loop tick are answered together: one model run, one frame in the log, then the answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.deployment.columns import Columns, Stored
from shadow_mlops.deployment.sampling import in_canary, in_sample
from shadow_mlops.domain.errors import InvalidFieldsError, LogError, UnavailableError
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.eventlog.seam import Appender
from shadow_mlops.gateway.answers import Answer
from shadow_mlops.gateway.champion import Served
from shadow_mlops.gateway.detached import DetachedReport
from shadow_mlops.gateway.scoring import Part, score_parts, take_columns
from shadow_mlops.telemetry.metrics import Metrics, observe_many

MAX_ROWS = 512  # one model run and one frame; the rest of a tick waits for the next turn of the loop
_LOST_LOG_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class Rows:
    """Requests waiting for their answers, as columns: appending to five lists is cheaper than making an object each."""

    values: list[tuple[Any, ...]] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    answers: list[asyncio.Future[Answer]] = field(default_factory=list)
    stored: list[Stored | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.answers)

    def take(self, keep: Sequence[int]) -> Rows:
        """The rows of these indices."""
        return Rows(*([column[i] for i in keep] for column in self._columns()))

    def cut(self, first: int) -> Rows:
        """Cut off the rows after the first ones, and give them."""
        rest = Rows(*(column[first:] for column in self._columns()))
        for column in self._columns():
            del column[first:]
        return rest

    def _columns(self) -> tuple[list[Any], ...]:
        return self.values, self.request_ids, self.received_ns, self.answers, self.stored

    def fail(self, error: Exception) -> None:
        """Tell all clients."""
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(error)


@dataclass(slots=True)
class Tally:
    """What one model's flushes counted since the metrics were last brought up to date, an item each, in nanoseconds."""

    latencies: list[NDArray[np.int64]] = field(default_factory=list)
    appends: list[int] = field(default_factory=list)


class Predictor:
    """Collects the rows of a tick and answers them.

    Parameters
    ----------
    appender
        Where each answered prediction is logged before its answer leaves.
    on_failure
        What a failed append means: ``answer`` and count the loss, or ``refuse`` with 503.
    sync
        True: an answer leaves only when its event survives a loss of power.
    sample
        Share of entities (of requests, where there is no entity) that challengers see.
    """

    def __init__(
        self,
        appender: Appender,
        metrics: Metrics,
        *,
        on_failure: Literal["answer", "refuse"] = "answer",
        sync: bool = False,
        sample: float = 1.0,
    ) -> None:
        self._appender = appender
        self._metrics = metrics
        self._refuse = on_failure == "refuse"
        self._sync = sync
        self._sample = sample
        self._pending = Rows()
        self._queue: deque[tuple[Served, Rows]] = deque()
        self._scheduled = False
        self._running = False
        self._pool: ThreadPoolExecutor | None = None
        self._served: Served | None = None
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._detached = DetachedReport(metrics)
        self._lost = metrics.events_lost.labels("events")
        self._given_up = metrics.canary_failures
        self._ok = metrics.requests.labels("/predict", "200")
        self._complained = 0.0
        self.log_failure: str | None = None

    @property
    def served(self) -> Served:
        """The champion in force.

        Raises
        ------
        UnavailableError
            There is none yet.
        """
        if self._served is None:
            raise UnavailableError("no champion is loaded yet; GET /health says what is missing")
        return self._served

    @property
    def left_alone(self) -> bool:
        """Whether the champion's model is elsewhere and failed so often that it is not asked for now."""
        return self._detached.left_alone

    def swap(self, served: Served) -> None:
        """Answer with another champion from now on; rows that came before are still answered by the old one."""
        if self._pending and self._served is not None:
            self._queue.append((self._served, self._pending))
            self._pending = Rows()
            self._schedule()
        self._detached.replace(self._served, served)
        self._served = served
        self._close_retired()

    def _close_retired(self) -> None:
        if not self._queue and not self._running:  # rows of an old champion are answered by it first
            self._detached.close_retired()

    def publish(self) -> None:
        """Bring the metrics up to date; called some 20 times a second.

        Eight increments of shared counters for each tick took a sixth of the time of a prediction that comes alone. A
        killed worker takes the last twentieth of a second of its counters with it, never of its events.
        """
        tallies, self._tallies = self._tallies, {}
        for who, tally in tallies.items():
            latencies = np.concatenate(tally.latencies).astype(np.float64)
            observe_many(self._metrics.latency.labels(*who), latencies * 1e-9)
            rows = np.array([len(each) for each in tally.latencies], dtype=np.float64)
            observe_many(self._metrics.rows_per_flush, rows)
            observe_many(self._metrics.append_seconds, np.array(tally.appends, dtype=np.float64) * 1e-9)
            self._metrics.predictions.labels(*who).inc(len(latencies))
            self._ok.inc(len(latencies))
        self._detached.publish(self._served)

    def submit(
        self, values: tuple[Any, ...], request_id: str, received_ns: int, stored: Stored | None = None
    ) -> asyncio.Future[Answer]:
        """Queue decoded values for this tick's run.

        Parameters
        ----------
        values
            As ``served.fields`` decoded them in this tick.
        received_ns
            ``time.monotonic_ns()`` when the request arrived.
        stored
            What a feature store did for it.
        """
        if not self._scheduled:
            self._schedule()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        pending = self._pending
        pending.values.append(values)
        pending.request_ids.append(request_id)
        pending.received_ns.append(received_ns)
        pending.answers.append(answer)
        pending.stored.append(stored)
        return answer

    def _schedule(self) -> None:
        if not self._scheduled and not self._running:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._queue:
            served, rows = self._queue.popleft()
        else:
            served, rows, self._pending = self.served, self._pending, Rows()
        if len(rows) > MAX_ROWS:
            self._queue.appendleft((served, rows.cut(MAX_ROWS)))
        if rows:
            try:
                self._run(served, rows)
            except Exception as error:  # noqa: BLE001 - whatever it was, the clients must be told, and the loop go on
                rows.fail(error)
        self._close_retired()
        if self._queue or self._pending:
            self._schedule()

    def _run(self, served: Served, rows: Rows) -> None:
        columns = served.fields.columns(rows.values, rows.stored)
        if columns.problems:
            rows, columns = _without_problems(rows, columns)
            if not rows:
                return
        canary = None
        if served.canary is not None:
            entities = served.fields.entities_of(rows.values)
            canary = in_canary(served.schema.deployment, entities, rows.request_ids, served.canary.share)
        if served.inline:
            self._finish(rows, score_parts(served, columns, canary))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="champion")
        self._running = True
        run = asyncio.get_running_loop().run_in_executor(self._pool, score_parts, served, columns, canary)
        run.add_done_callback(lambda done: self._after_thread(rows, done))

    def _after_thread(self, rows: Rows, done: asyncio.Future[list[Part]]) -> None:
        self._running = False
        try:
            self._finish(rows, done.result())
        except Exception as error:  # noqa: BLE001 - as in _flush
            rows.fail(error)
        self._close_retired()
        if self._queue or self._pending:
            self._schedule()

    def _finish(self, rows: Rows, parts: Sequence[Part]) -> None:
        for part in parts:
            self._answer(rows if part.rows is None else rows.take(part.rows), part)

    def _answer(self, rows: Rows, part: Part) -> None:
        served, columns, scores = part.served, part.columns, part.scores
        if part.failed:
            for index, error in part.failed.items():
                rows.take([index]).fail(error)
            keep = [index for index in range(len(rows)) if index not in part.failed]
            if not keep:
                return
            rows, columns, scores = rows.take(keep), take_columns(columns, keep), scores[keep]
        answers = served.render(scores, rows.request_ids)
        received = np.array(rows.received_ns, dtype=np.int64)
        schema = served.schema
        role = "canary" if schema.role == "challenger" else schema.role
        tally = self._tallies.setdefault((schema.model, schema.version, role), Tally())
        tally.appends.append(self._append(served, rows, received, columns, scores))
        finished = time.monotonic_ns()
        tally.latencies.append(finished - received)
        if part.given_up:
            self._given_up.inc(part.given_up)
        for future, answer in zip(rows.answers, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def _append(
        self,
        served: Served,
        rows: Rows,
        received: NDArray[np.int64],
        columns: Columns,
        scores: NDArray[np.float64],
    ) -> int:
        # how long the append took, in nanoseconds
        entities = served.fields.entities_of(rows.values)
        wall, now = time.time_ns(), time.monotonic_ns()
        batch = EventBatch(
            schema=served.schema,
            times=(received + (wall - now)) // 1000,
            latencies=((now - received) // 1000).astype(np.uint32),
            request_ids=rows.request_ids,
            entities=entities,
            numbers=columns.numbers,
            strings=columns.strings,
            scores=scores,
            origins=columns.origins,
            ages=columns.ages,
            sampled=None
            if self._sample >= 1.0
            else in_sample(served.schema.deployment, entities, rows.request_ids, self._sample),
        )
        try:
            self._appender.append(batch)
            if self._sync:
                self._appender.sync()
            self.log_failure = None
        except (LogError, OSError) as error:
            self._lose(len(rows), error)
        return time.monotonic_ns() - now

    def _lose(self, count: int, error: Exception) -> None:
        self.log_failure = str(error)
        if time.monotonic() - self._complained > _LOST_LOG_SECONDS:
            self._complained = time.monotonic()
            log.error("the event log cannot be written", reason=str(error), refuse=self._refuse)
        if self._refuse:
            raise UnavailableError("the event log cannot be written, and this deployment refuses to answer without it")
        self._lost.inc(count)

    async def drain(self) -> None:
        """Return when every submitted row is answered."""
        while self._pending or self._queue or self._running:
            await asyncio.sleep(0.001)


def _without_problems(rows: Rows, columns: Columns) -> tuple[Rows, Columns]:
    for index, problems in columns.problems.items():
        rows.take([index]).fail(InvalidFieldsError("the request has invalid fields", problems))
    keep = [index for index in range(len(rows)) if index not in columns.problems]
    return rows.take(keep), take_columns(columns, keep)
