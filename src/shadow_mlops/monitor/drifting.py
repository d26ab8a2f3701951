"""When drift is looked at, recorded and told; what goes wrong in it stops nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog
from sqlalchemy import Engine

from shadow_mlops.domain.errors import LakeError, ModelError, ShadowError, StateError
from shadow_mlops.drift.alerts import Courier
from shadow_mlops.drift.errorrate import Kept, error_rate, held_out
from shadow_mlops.drift.live import LiveFold
from shadow_mlops.drift.livereport import ErrorRate
from shadow_mlops.drift.livereporting import live_report
from shadow_mlops.drift.livestate import save_state
from shadow_mlops.drift.recording import record
from shadow_mlops.durable import replace_durably
from shadow_mlops.models.prepared import read_card
from shadow_mlops.monitor.drifttelling import DriftGauges
from shadow_mlops.state import episodes, outbox
from shadow_mlops.state.episodes import Episode

log = structlog.get_logger()

_LOOK_SECONDS = 0.5
_REFRESH_SECONDS = 1.0  # at least: a bucket may be shorter
_RETRY_SECONDS = 5.0
_ERRORS_SECONDS = 60.0
_IDLE_PART = 10.0
"""Pause after whatever took long (a report, a query, a save), as a multiple of it."""
_WRONG = (ShadowError, OSError, ValueError, ArithmeticError, LookupError)
"""What reading, counting and statistics raise, on data that nobody has thought of too."""


class Drifting:
    """The pace of live drift.

    Parameters
    ----------
    open_fold
        Takes up the state that was saved last; called again after a failure, which leaves nothing half counted.
    open_state
        The database of episodes, tables up to date, and who delivers alerts.
    state_path
        Where what is folded is saved.
    word
        Where the body of ``GET /drift`` is published.
    lake
        Where labels are.
    models
        Folder of the prepared models.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        open_fold: Callable[[], LiveFold],
        open_state: Callable[[], tuple[Engine, Courier]],
        gauges: DriftGauges,
        *,
        state_path: Path,
        word: Path,
        lake: Path,
        models: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_fold = open_fold
        self._open_state = open_state
        self._gauges = gauges
        self._state_path = state_path
        self._word = word
        self._lake = lake
        self._models = models
        self._clock = clock
        self._fold: LiveFold | None = None
        self._state: tuple[Engine, Courier] | None = None
        self._next = self._next_refresh = self._next_errors = self._next_save = 0.0
        self._told: tuple[int | None, str] | None = None
        self._errors: ErrorRate | None = None
        self._episodes: tuple[Episode, ...] = ()
        self._alerts: dict[tuple[str, outbox.State], int] = {}
        self._problem = ""

    def step(self) -> None:
        """Do what is due."""
        if self._clock() < self._next:
            return
        try:
            rows = self._round()
        except _WRONG as error:
            self._failed(error)
            self._next = self._clock() + _RETRY_SECONDS
            return
        if self._problem:
            log.info("drift is watched again")
        self._problem = ""
        self._gauges.well(time.time())
        self._next = 0.0 if rows else self._clock() + _LOOK_SECONDS

    def close(self) -> None:
        """Save, end the deliveries, release the open files."""
        if self._fold is not None:
            with suppress(OSError):  # what is not saved is folded again
                if self._record(self._fold) is None:
                    self._save(self._fold)
            self._fold.close()
        if self._state is not None:
            self._state[1].close()

    def _round(self) -> int:
        fold = self._fold
        if fold is None:
            fold = self._fold = self._open_fold()
        rows = fold.read()
        unrecorded = self._record(fold)
        if rows == 0 or self._clock() >= self._next_refresh:
            self._refresh(fold)
        if unrecorded is not None:
            raise unrecorded  # told, and tried again; nothing is saved that the database does not have
        if self._clock() >= self._next_save:
            self._save(fold)
        return rows

    def _record(self, fold: LiveFold) -> StateError | None:
        """Episodes into the database, then into the state: killed in between, they are known when they come again."""
        try:
            if self._state is None:
                self._state = self._open_state()
                self._state[1].start()
            state, courier = self._state
            if fold.changes:
                if record(state, fold.watching.deployment, fold.changes, courier.kinds):
                    courier.wake()
                fold.changes.clear()
        except StateError as error:
            return error
        return None

    def _refresh(self, fold: LiveFold) -> None:
        now, began = (fold.champion.state.last, fold.champion.state.problem), self._clock()
        if began < self._next_refresh or (now == self._told and began < self._next_errors):  # labels come later
            return
        self._look_for_errors(fold)
        kinds: tuple[str, ...] = ()
        if self._state is not None:
            with suppress(StateError):  # what was known last is told until it answers
                state, courier = self._state
                kinds = courier.kinds
                self._episodes = episodes.recent(state, fold.watching.deployment)
                self._alerts = outbox.counts(state)
        report = live_report(
            fold,
            episodes=self._episodes,
            alerts=self._alerts,
            error_rate=self._errors,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )
        replace_durably(self._word, msgspec.json.encode(report))
        self._gauges.publish(report, kinds=kinds)
        self._told = now
        self._next_refresh = self._clock() + max(_REFRESH_SECONDS, _IDLE_PART * (self._clock() - began))

    def _look_for_errors(self, fold: LiveFold) -> None:
        lane = fold.champion
        window = lane.window(fold.watching.span)
        if self._clock() < self._next_errors or window is None or lane.state.identity is None:
            return
        began, identity = self._clock(), lane.state.identity
        try:
            self._errors = error_rate(
                self._lake,
                task=identity.task,
                version=identity.registry_version,
                since_us=lane.clock.start_us(window.first),
                until_us=lane.clock.start_us(window.last + 1),
                now_us=int(time.time() * 1e6),
                reference=self._kept(identity.model, identity.registry_version),
            )
        except LakeError as error:
            if self._errors is not None:
                log.warning("the champion's errors are not known", problem=str(error))
            self._errors = None
        self._next_errors = self._clock() + max(_ERRORS_SECONDS, _IDLE_PART * (self._clock() - began))

    def _kept(self, model: str, registry_version: str) -> Kept | None:
        try:
            card = read_card(self._models / model / registry_version)
        except ModelError:  # answered elsewhere, or prepared on another host
            return None
        return held_out(card.task, card.metrics)

    def _save(self, fold: LiveFold) -> None:
        began = self._clock()
        save_state(self._state_path, fold.saved())
        spent = self._clock() - began
        self._next_save = self._clock() + max(_RETRY_SECONDS, 5 * _IDLE_PART * spent)

    def _failed(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        if problem != self._problem:
            log.error("drift is not watched", problem=problem)
        self._problem = problem
        self._gauges.ill()
        if isinstance(error, StateError):
            return  # what is folded is sound, and its episodes wait for the database
        if self._fold is not None:
            self._fold.close()
            self._fold = None
