"""``shadow demo loop`` as it runs: sends, watches, kills, and tells what happened when."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import uvloop
from rich.console import Console

from shadow_mlops.cli.demoplan import Mark, Plan, Result, problems
from shadow_mlops.cli.demorows import returning_rows
from shadow_mlops.cli.demosystem import Site
from shadow_mlops.cli.traffic import Answer, Traffic
from shadow_mlops.cli.trafficrows import Label
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import TrainingError, UnavailableError
from shadow_mlops.domain.events import replays_stream
from shadow_mlops.models.registry import Registry
from shadow_mlops.processes.gating import open_gates
from shadow_mlops.processes.logfiles import open_log
from shadow_mlops.processes.rollout import state_of
from shadow_mlops.state import triggers

if TYPE_CHECKING:
    from shadow_mlops.state.triggers import Trigger

_LOOK_SECONDS = 0.5
_LABEL_DELAY_SECONDS = 1.0
_STEADY_ROWS = 500  # after a promotion, until the last worker has the new model
_KILL_SECONDS = (3.0, 18.0)


@dataclass
class Ledger:
    """Row -> whether its answer was right; kept by one thread, read by another."""

    right: dict[int, bool] = field(default_factory=dict)

    def seen(self, number: int, label: Label | None, answer: Answer) -> None:
        """Take in an answer."""
        self.right[number] = answer.label == label

    def accuracy(self, begin: int, end: int) -> float:
        """Share of right answers among rows [begin, end)."""
        found = [self.right[number] for number in range(begin, end) if number in self.right]
        return sum(found) / max(len(found), 1)


class Sender:
    """The same rows to two gateways, at one rate, in a thread of its own."""

    def __init__(self, plan: Plan, live: str, frozen: str) -> None:
        self.ledgers = Ledger(), Ledger()
        self._senders = [
            Traffic(
                url,
                returning_rows(
                    customers=plan.customers,
                    seed=plan.seed,
                    drift_at=plan.before,
                    drift=plan.drift,
                    concept_drift=plan.concept_drift,
                    without=plan.without,
                ),
                rate=plan.rate,
                label_delay=_LABEL_DELAY_SECONDS,
                connections=64,
                timeout=10.0,
                seen=ledger.seen,
            )
            for url, ledger in zip((live, frozen), self.ledgers, strict=True)
        ]
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._stop: Callable[[], object] = lambda: None
        self._begun = threading.Event()
        self.problem: BaseException | None = None

    @property
    def sent(self) -> int:
        """Rows that both have got."""
        return min(sender.sent for sender in self._senders)

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(sender.failures for sender in self._senders)

    @property
    def answered(self) -> tuple[int, int]:
        """Answers of each."""
        return self._senders[0].answered, self._senders[1].answered

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send until the block ends, then wait for the last answers."""
        self._thread.start()
        self._begun.wait()
        try:
            yield
        finally:
            self._stop()
            self._thread.join()

    def _run(self) -> None:
        async def both() -> None:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            self._begun.set()
            await asyncio.gather(*(sender.run(stop) for sender in self._senders))

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(both())
        except BaseException as error:  # noqa: BLE001 - whoever waits for rows must hear of it
            self.problem = error
        finally:
            self._begun.set()


class Story:
    """Watches what happens, tells it, and kills the monitor where the plan says so."""

    def __init__(self, plan: Plan, site: Site, frozen: Site, console: Console) -> None:
        self._plan = plan
        self._site = site
        self._console = console
        self._settings = site.settings
        self._deployment = load_deployment(self._settings.deployment_file)
        self._state = state_of(self._settings)
        self._registry = Registry(self._settings.tracking_uri, self._settings.artifact_root)
        self._log = open_log(self._settings, self._deployment)
        self._sender = Sender(plan, site.url, frozen.url)
        self._known = {each.number for each in self._registry.versions(self._deployment.name)}
        self._old = str(site.get("/models")["champion"]["version"])
        self._new = ""
        self._marks: dict[str, Mark] = {}
        self._drift_began: float | None = None
        self._promoted_row = 0
        self._dice = random.Random(plan.seed)  # noqa: S311 - when to kill is no secret
        self._kills = 0
        self._began = time.monotonic()
        self._next_kill = self._began + self._dice.uniform(*_KILL_SECONDS)

    def run(self) -> Result:
        """Send, watch and measure until the new champion has answered enough rows.

        Raises
        ------
        UnavailableError
            If the gateways cannot be asked, or the time is over; what had happened by then has been told.
        TrainingError
            If the retraining failed or was refused.
        """
        self._began = time.monotonic()
        with self._sender.sending():
            self._tell("traffic", f"{self._plan.rate:g}/s to {self._old}; from row {self._plan.before:,} on it drifts")
            with self._console.status("") as status:
                while not self._over():
                    self._guard()
                    self._kill_monitor()
                    self._look()
                    status.update(f"row {self._sender.sent:,}; {self._awaited()}")
                    time.sleep(_LOOK_SECONDS)
        return self._result()

    def _guard(self) -> None:
        if self._sender.problem is not None:
            raise UnavailableError(f"the traffic ended: {self._sender.problem}")
        if time.monotonic() - self._began > self._plan.most_seconds:
            raise UnavailableError(f"after {self._plan.most_seconds:g} s: {self._awaited()}")

    def _over(self) -> bool:
        enough = self._promoted_row and self._sender.sent >= self._promoted_row + _STEADY_ROWS + self._plan.after
        return bool(enough) and self._kills >= self._plan.kills and "new reference" in self._marks

    def _awaited(self) -> str:
        order = (
            "drift began",
            "drift detected",
            "retraining triggered",
            "registered",
            "replayed",
            "shadowed",
            "canary",
            "promoted",
            "new reference",
        )
        return "waiting for: " + next((each for each in order if each not in self._marks), "the rows after it")

    def _look(self) -> None:
        if self._drift_began is None and self._sender.sent >= self._plan.before:
            self._drift_began = time.monotonic()
            size = f"covariates {self._plan.drift:g}, concept {self._plan.concept_drift:g}, seed {self._plan.seed}"
            self._tell("drift began", f"{size}; nothing is told to the platform")
        try:
            self._look_at_drift()
            self._look_at_training()
            self._look_at_rollout()
        except UnavailableError:  # the console, for one, restarts when it is to; what it says is looked at again
            return

    def _look_at_drift(self) -> None:
        report = self._site.get("/drift")
        drifted = {each["feature"] for each in report.get("scores", ()) if each["retrain"]}
        if drifted and self._drift_began is not None:
            self._tell("drift detected", ", ".join(sorted(drifted)))
        if self._promoted_row and report.get("version") == self._new and report.get("window"):
            highest = max((each["score"] for each in report["scores"] if each["method"] == "psi"), default=0.0)
            if report["window"]["rows"] >= report["window"]["min_rows"]:
                self._tell("new reference", f"drift against {self._new}'s own rows: highest PSI {highest:.3f}")

    def _look_at_training(self) -> None:
        for trigger in self._triggers():
            self._tell("retraining triggered", trigger.reason)
            if trigger.state in {"failed", "refused"}:
                raise TrainingError(f"retraining {trigger.state}: {trigger.problem}")
        for each in self._registry.versions(self._deployment.name):
            if each.number not in self._known:
                self._new = self._new or each.human
                self._tell("registered", f"{each.human}, {_figures(self._registry.metrics(each))}")
        if self._new and replays_stream(self._new) in self._log.streams():
            self._tell("replayed", f"{self._new} scores rows that it was not trained on")

    def _triggers(self) -> tuple[Trigger, ...]:
        return triggers.recent(self._state, self._deployment.name)

    def _look_at_rollout(self) -> None:
        models = self._site.get("/models")
        shadows = [str(each["version"]) for each in models.get("challengers", ())]
        if self._new and self._new in shadows:
            self._tell("shadowed", f"{self._new} beside {self._old}")
        trail = self._site.get("/audit?limit=1000").get("entries", ())
        for entry in reversed(trail):
            if entry["action"] == "canary start" and entry["outcome"] == "done":
                self._tell("canary", f"the gate says promote; {entry['reason']}")
            if entry["action"] == "promote" and entry["outcome"] == "done" and not self._promoted_row:
                self._promoted_row = self._sender.sent
                self._tell("promoted", f"{entry['from']} -> {entry['to']} by {entry['who']}")

    def _kill_monitor(self) -> None:
        if self._kills >= self._plan.kills or time.monotonic() < self._next_kill:
            return
        pid = self._site.pid("monitor")
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it is between two lives
            return
        self._kills += 1
        self._console.print(f"  kill -9 of the monitor, {self._kills} of {self._plan.kills}", style="dim")
        self._next_kill = time.monotonic() + self._dice.uniform(*_KILL_SECONDS)

    def _tell(self, what: str, note: str) -> None:
        if what in self._marks:
            return
        now = time.monotonic()
        since = None if self._drift_began is None else now - self._drift_began
        mark = Mark(what=what, row=self._sender.sent, seconds=now - self._began, since_drift=since, note=note)
        self._marks[what] = mark
        after = "" if since is None else f"drift {since:+.1f} s"
        self._console.print(f"{mark.seconds:7.1f} s  {after:14}  {what}: {note}", markup=False, soft_wrap=True)

    def _result(self) -> Result:
        live, frozen = self._sender.ledgers
        begin = self._promoted_row + _STEADY_ROWS
        end = begin + self._plan.after
        accuracy = {
            "before": live.accuracy(0, self._plan.before),
            "drifted": live.accuracy(self._plan.before, self._promoted_row),
            "after": live.accuracy(begin, end),
            "frozen": frozen.accuracy(begin, end),
        }
        trail = self._site.get("/audit?limit=1000")["entries"]
        promotions = [each for each in trail if each["action"] == "promote" and each["outcome"] == "done"]
        answered = self._sender.answered
        found = Result(
            plan=self._plan,
            timeline=tuple(self._marks.values()),
            retrainings=tuple(each.state for each in self._triggers()),
            promotions=len(promotions),
            champion=str(self._site.get("/models")["champion"]["version"]),
            kills=self._kills,
            accuracy=accuracy,
            answers={"live": answered[0], "frozen": answered[1]},
            failed=self._sender.failed,
            problems=(),
        )
        evidence = {str(each["details"]["evidence"]) for each in trail if "evidence" in each["details"]}
        gates = open_gates(self._settings, self._deployment, self._state)
        broken = tuple(f"evidence {each} does not verify" for each in evidence if not gates.verify(each).valid)
        return msgspec.structs.replace(found, problems=(*problems(found, self._new), *broken))


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) + " on rows held out"
