"""The monitor's part of a rollout: what a gate or a canary step has decided is done, once, and told."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest

from shadow_mlops.domain.errors import LakeError, RegistryError
from shadow_mlops.monitor.gating import Gating, Roles
from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.decision import Decision
from shadow_mlops.rollout.gate import GateStatus
from shadow_mlops.rollout.watching import StepStatus
from shadow_mlops.telemetry.metrics import open_metrics

CANARY = CanaryStatus(
    challenger="challenger", version="2", share=0.1, step=1, steps=3, rollout="e1", since_us=0, frozen=False
)
STEP = StepStatus(
    verdict="keep_watching", values=10, values_needed=90, mean=0.0, level=0.1, alarm_level=9.0, answered=4, harmed=1
)


def gate(decision: str = "keep_watching", evidence: str | None = None) -> GateStatus:
    said = Decision(
        decision=decision,
        metric="log_loss",
        estimate=0.02,
        interval=(-0.01, 0.05),
        e_value=3.0,
        e_value_harm=0.5,
        labelled=300,
        labels_needed=900,
        guardrails=(),
        reasons=("because",),
        mcnemar_e_value=None,
    )
    return GateStatus(
        name="challenger",
        champion="1",
        challenger="2",
        decision=said,
        evidence_id=evidence,
        cohorts=3,
        late=0,
        without_value=0,
    )


class Acting:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.failing = False

    def _do(self, *what: str) -> None:
        self.done.append(what)
        if self.failing:
            raise RegistryError("the registry is away")

    def start(self, role, *, evidence, reason):
        self._do("start", role, evidence)

    def advance(self, canary, reason):
        self._do("advance")

    def abort(self, canary, reason, details):
        self._do("abort", str(details["harmed"]))

    def promote(self, canary, reason):
        self._do("promote", canary.version)

    def tried(self, evidence):
        return not self.failing and any(what[:1] == ("start",) and what[2] == evidence for what in self.done)


class Bench:
    def __init__(self, *, auto: bool = True) -> None:
        self.clock = 0.0
        self.roles: Roles | None = Roles("1", {"challenger": "2"}, None)
        self.statuses = [gate()]
        self.step_status = STEP
        self.error: Exception | None = None
        self.acting = Acting()
        self.metrics = open_metrics()
        self.gating = Gating(
            self,
            self,
            roles=lambda: self.roles,
            acting=self.acting,
            metrics=self.metrics,
            auto_promote=auto,
            clock=lambda: self.clock,
        )

    def advance(self, champion, challengers, created_us):
        if self.error is not None:
            raise self.error
        return self.statuses

    def look(self, champion, canary):
        return self.step_status

    def turn(self, seconds: float = 10.0) -> None:
        self.clock += seconds
        self.gating.step()
        self.gating._orders.submit(lambda: None).result()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_how_it_stands_is_told_to_prometheus(bench: Bench) -> None:
    bench.turn()
    assert bench.value("shadow_gate_labels_needed", challenger="challenger") == 900
    assert bench.value("shadow_gate_estimate", challenger="challenger") == 0.02
    assert bench.value("shadow_gate_interval", challenger="challenger", bound="high") == 0.05
    assert bench.value("shadow_gate_state", challenger="challenger", state="keep_watching") == 1
    assert bench.value("shadow_gate_state", challenger="challenger", state="promote") == 0
    bench.statuses = []
    bench.turn()
    assert bench.value("shadow_gate_state", challenger="challenger", state="keep_watching") == 0
    assert math.isnan(bench.value("shadow_gate_estimate", challenger="challenger") or 0.0)


def test_a_promotion_is_begun_once(bench: Bench) -> None:
    bench.statuses = [gate("promote", "e1")]
    for _ in range(20):
        bench.turn()
    assert bench.acting.done == [("start", "challenger", "e1")]


def test_without_auto_promote_nothing_is_begun() -> None:
    bench = Bench(auto=False)
    bench.statuses = [gate("promote", "e1")]
    bench.turn()
    bench.roles = Roles("1", {"challenger": "2"}, msgspec.structs.replace(CANARY, step=2))
    bench.step_status = msgspec.structs.replace(STEP, verdict="enough")
    bench.turn()
    assert bench.acting.done == []


@pytest.mark.parametrize(
    ("verdict", "step", "frozen", "done"),
    [
        ("keep_watching", 1, False, []),
        ("enough", 1, False, [("advance",)]),
        ("enough", 1, True, []),
        ("enough", 2, False, [("promote", "2")]),
        ("harm", 1, False, [("abort", "1")]),
        ("harm", 2, True, [("abort", "1")]),
    ],
)
def test_a_step_goes_on_or_ends(bench: Bench, verdict: str, step: int, frozen: bool, done: list) -> None:
    bench.roles = Roles("1", {"challenger": "2"}, msgspec.structs.replace(CANARY, step=step, frozen=frozen))
    bench.step_status = msgspec.structs.replace(STEP, verdict=verdict)
    bench.turn()
    assert bench.acting.done == done
    assert bench.value("shadow_canary_share") == 0.1
    assert bench.value("shadow_canary_harmed_answers") == 1


def test_an_order_that_fails_is_tried_again_more_and_more_seldom(bench: Bench) -> None:
    bench.acting.failing = True
    bench.statuses = [gate("promote", "e1")]
    times = []
    for _ in range(200):
        before = len(bench.acting.done)
        bench.turn()
        if len(bench.acting.done) > before:
            times.append(bench.clock)
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert pauses[:4] == sorted(pauses[:4])
    assert pauses[0] >= 60
    assert pauses[1] >= 120


def test_a_lake_that_cannot_be_read_is_told_and_stops_nothing(bench: Bench) -> None:
    bench.error = LakeError("damaged")
    bench.turn()
    assert bench.value("shadow_gate_failing") == 1
    bench.error = None
    bench.turn()
    assert bench.value("shadow_gate_failing") == 0


def test_before_the_first_champion_there_is_nothing_to_do(bench: Bench) -> None:
    bench.roles = None
    bench.statuses = [gate("promote", "e1")]
    bench.turn()
    assert bench.acting.done == []
    assert bench.value("shadow_gate_state", challenger="challenger", state="promote") is None
