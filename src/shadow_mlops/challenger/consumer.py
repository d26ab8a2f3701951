"""Events from the live tail, scored, and their results appended: each sampled event exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.challenger.championside import ChampionSide, first_run
from shadow_mlops.challenger.recovery import recover_position
from shadow_mlops.challenger.reporting import Reporter
from shadow_mlops.challenger.scoring import Fill, result_schema, score_events, shed
from shadow_mlops.challenger.seat import Seat
from shadow_mlops.domain.errors import AppendError, LogError, ModelError
from shadow_mlops.domain.events import EVENTS, ResultSchema, Span, results_stream
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import EventBatch, ResultBatch
from shadow_mlops.eventlog.seam import EventLog, Frame, Gone, Skipped
from shadow_mlops.models.prepared import read_card

log = structlog.get_logger()

_PAUSE = 0.005  # seconds between polls of a quiet log: 2.6 ms median delay for 0.4 % of a core
_FOLLOW = 0.2  # seconds between looks at which version is wanted
_UNREADABLE = 5.0  # the same, after it could not be read
_SHED = 1.0  # seconds between sheddings while no model can score, so that ranges stay few and long
_GRACE = 2.0  # seconds that a batch in work has to finish when the process is asked to end
_LONGEST_RETRY = 1.0  # seconds between attempts to append to a log that takes nothing


@dataclass(frozen=True, slots=True)
class Policy:
    """How a challenger shadows."""

    deployment: str
    challenger: str
    batch_rows: int
    """Most rows in one micro-batch."""
    max_lag: int
    """Events it may be behind before whole ranges are shed, oldest first."""


class Consumer:
    """One challenger at work.

    Parameters
    ----------
    seat, champion
        Scorers of this challenger, and of the champion for what this challenger answered itself.
    wanted
        Says which prepared directory the challenger's alias names now; None: the alias is gone.
    stopping
        True once the process has been asked to end: the batch in work is finished, no other is begun.
    fill
        Reads what events lack; None: there is nowhere to read.
    """

    def __init__(
        self,
        event_log: EventLog,
        policy: Policy,
        *,
        seat: Seat,
        champion: ChampionSide,
        reporter: Reporter,
        wanted: Callable[[], Path | None],
        stopping: Callable[[], bool],
        fill: Fill | None = None,
    ) -> None:
        self._fill = fill
        self._policy = policy
        self._seat = seat
        self._champion = champion
        self._reporter = reporter
        self._wanted = wanted
        self._stopping = stopping
        position = recover_position(event_log, policy.challenger)
        self._tail = event_log.tail(EVENTS, position)
        # The tail must know what there is before the monitor can see this challenger's stream: what retention
        # removes from then on is reported to this tail as gone, or was never this challenger's to score.
        backlog = self._tail.backlog()
        # What was removed before the first start is none of its business, nor may a restart take it for lost.
        self._passed = self._tail.position() if position is None else {}
        self._appender = event_log.appender(results_stream(policy.challenger), writer=policy.challenger)
        self._beat: Callable[[], None] | None = getattr(self._appender, "beat", None)
        self._held: list[Frame | Gone | Skipped] = []
        self._card: ModelCard | None = None  # of the wanted version
        self._directory: Path | None = None
        self._next_follow = self._next_shed = 0.0
        self._deadline: float | None = None
        self._reached = 0.0  # when the newest event that was taken happened, seconds since 1970
        log.info("challenger starts", backlog=backlog, recovered=position is not None)

    def run(self) -> None:
        """Work until asked to end."""
        while not self._stopping():
            if not self.step():
                time.sleep(_PAUSE)

    def step(self) -> bool:
        """Do one round; False if there was nothing to do."""
        self.follow()
        self.report()
        if self._card is None:
            return False
        ready = self._seat.tend()
        self._champion.release()
        if not self._held:
            self._held = self._take(ready=ready)
            for item in self._held:
                if isinstance(item, Frame) and isinstance(item.batch, EventBatch):
                    self._reached = float(item.batch.times[0]) / 1e6
                    break
        if not self._held:
            return False
        run, rest, swapped = first_run(self._held, self._card)
        batch = self._champion_results(run) if swapped else self._results(run)
        if batch is None or not self._append(batch):
            return False
        self._passed = {}
        self._reporter.recorded(batch)
        self._held = rest
        return True

    def follow(self) -> None:
        """Look, a few times a second, which version is wanted."""
        if time.monotonic() < self._next_follow:
            return
        self._next_follow = time.monotonic() + _FOLLOW
        try:
            directory = self._wanted()
            if directory == self._directory:
                return
            self._card = read_card(directory) if directory is not None else None
        except ModelError as error:
            log.warning("wanted version cannot be read, the one before goes on", problem=str(error))
            self._next_follow = time.monotonic() + _UNREADABLE
            return
        self._directory = directory
        self._seat.follow(directory)
        if self._card is None:
            log.info("no version has this challenger's alias, it waits", challenger=self._policy.challenger)
        else:
            log.info("challenger follows its alias", version=self._card.version)

    def report(self) -> None:
        """Beat, once a second."""
        held = sum(item.count for item in self._held)
        beaten = self._reporter.beat(
            card=self._seat.card,
            wanted=self._card,
            trouble=self._seat.trouble,
            backlog=lambda: self._tail.backlog() + held,
            reached=self._reached,
        )
        if beaten and self._beat is not None:
            with suppress(LogError):  # readers in order wait a little; the next append says what is wrong
                self._beat()

    def close(self) -> None:
        """End the scorer and seal the results."""
        self._seat.close()
        self._champion.close()
        self._tail.close()
        self._appender.close()

    def _take(self, *, ready: bool) -> list[Frame | Gone | Skipped]:
        items: list[Frame | Gone | Skipped] = []
        excess = self._tail.backlog() - self._policy.max_lag
        if excess > 0 and (ready or time.monotonic() >= self._next_shed):
            self._next_shed = time.monotonic() + _SHED
            items += self._tail.skip(excess)
            log.warning("lag beyond the limit, oldest events shed", events=sum(item.count for item in items))
        if ready:
            items += self._tail.poll(self._policy.batch_rows)
        return items

    def _results(self, items: Sequence[Frame | Gone | Skipped]) -> ResultBatch | None:
        missed = [item for item in items if not isinstance(item, Frame)]
        card = self._seat.card
        if len(missed) == len(items):
            card = card or self._card
            return shed(missed, self._schema(card)) if card is not None else None
        if card is None:
            return None
        return self._scored(items, self._seat, card, self._schema(card))

    def _champion_results(self, items: Sequence[Frame | Gone | Skipped]) -> ResultBatch | None:
        """What the champion makes of events that this challenger has answered; None while its scorer is not ready."""
        self._champion.follow()
        ready = self._champion.seat.tend()
        card = self._champion.seat.card
        if not ready or card is None:
            return None
        return self._scored(items, self._champion.seat, card, msgspec.structs.replace(self._schema(card), swapped=True))

    def _scored(
        self, items: Sequence[Frame | Gone | Skipped], seat: Seat, card: ModelCard, schema: ResultSchema
    ) -> ResultBatch | None:
        return score_events(
            items,
            partial(seat.score, card=card, give_up=self._give_up, interrupted=self._interrupted),
            signature=card.signature,
            schema=schema,
            batch_rows=self._policy.batch_rows,
            fill=self._fill,
        )

    def _give_up(self) -> bool:
        self.follow()
        self.report()
        return self._stopping()

    def _interrupted(self) -> bool:
        self.report()
        if self._stopping() and self._deadline is None:
            self._deadline = time.monotonic() + _GRACE
        return self._deadline is not None and time.monotonic() > self._deadline

    def _schema(self, card: ModelCard) -> ResultSchema:
        return result_schema(card, deployment=self._policy.deployment, challenger=self._policy.challenger)

    def _append(self, batch: ResultBatch) -> bool:
        """Append, however long the log refuses; False if asked to end meanwhile (a restart scores again)."""
        if self._passed:
            passed = [Span(segment, rows, 0, 0) for segment, rows in self._passed.items()]
            batch = replace(batch, spans=[*passed, *batch.spans])
        pause = _PAUSE
        while True:
            try:
                self._appender.append(batch)
            except AppendError as error:
                self._reporter.refused(str(error))
            else:
                self._reporter.refused("")
                return True
            if self._stopping():
                return False
            self.report()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY)
