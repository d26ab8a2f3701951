"""A canary step under watch: what it has shown, when it is enough, and that harm ends it whenever it comes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gatelogs import CANARY, START_US, Hours
from lakelogs import archiver
from shadow_mlops.deployment.reader import parse_deployment
from shadow_mlops.domain.deployment import Duration, Labels
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.rollout.canary import CanaryStatus
from shadow_mlops.rollout.spec import GateSpec, spec_of
from shadow_mlops.rollout.watching import CanaryWatch
from shadow_mlops.state import open_state, upgrade

LABELS = Labels(max_delay=Duration(5 * 3600), cohort=Duration(3600))
STEP = CanaryStatus(
    challenger="challenger", version="c-1", share=0.5, step=0, steps=3, rollout="e1", since_us=START_US, frozen=False
)
EACH = 60


def spec(gate: str = "") -> GateSpec:
    text = f"name: m\nlabels: {{max_delay: 5h, cohort: 1h}}\ngate: {{metric: brier{gate}}}\n"
    found = spec_of(parse_deployment(text))
    assert found is not None
    return found


class Step:
    """A canary whose answers are better or worse than the champion's from one hour to the next."""

    def __init__(self, folder: Path, gate: str = "", values: int = 100) -> None:
        self._log = MemoryLog()
        self._hours = Hours(self._log)
        self._rng = np.random.default_rng(5)
        self._hour = 0
        self._archiver = archiver(self._log, folder / "lake", labels=LABELS, now=lambda: START_US / 1e6 + 400 * 86_400)
        state = open_state(f"sqlite:///{folder / 'state.db'}")
        upgrade(state)
        self.watch = CanaryWatch(folder / "lake", state, spec(gate), values_per_step=values)

    def hour(self, better: float):
        """One hour of answers, half of them the canary's; the step as it stands when their labels are known."""
        truth = self._rng.random(EACH) < 0.5
        champion = np.clip(0.5 + 0.1 * (2 * truth - 1) + self._rng.normal(0, 0.1, EACH), 0.01, 0.99)
        canary = np.clip(champion + better * (2 * truth - 1), 0.01, 0.99)
        half = EACH // 2
        span, ids = self._hours.ask(self._hour, champion[:half])
        self._hours.shadow(span, canary[:half])
        swapped, more = self._hours.ask(self._hour + 0.5, canary[half:], schema=CANARY)
        self._hours.shadow(swapped, champion[half:], version="champion-1")
        self._hours.label(self._hour + 1, [*ids, *more], truth.astype(int).tolist())
        self._hour += 1
        return self.look()

    def look(self, step: CanaryStatus = STEP):
        self._hours.beat()
        while self._archiver.round():
            pass
        return self.watch.look("champion-1", step)


def test_enough_good_values_are_enough_and_harm_after_them_still_ends_it(tmp_path: Path) -> None:
    step = Step(tmp_path)
    first = step.hour(0.05)
    assert (first.verdict, first.values, first.values_needed, first.answered) == ("keep_watching", EACH, 40, EACH // 2)
    assert first.harmed == 0
    assert first.mean > 0
    assert step.hour(0.05).verdict == "enough"
    # frozen, or waiting for somebody to promote: days may pass
    told = [step.hour(-0.3) for _ in range(4)]
    assert told[-1].verdict == "harm"
    assert 0 < told[-1].harmed <= told[-1].answered
    assert told[-1].level > told[-1].alarm_level
    assert step.hour(0.3).verdict == "harm"  # nothing takes it back


def test_a_look_in_between_changes_nothing_and_a_step_begins_anew(tmp_path: Path) -> None:
    often, once = tmp_path / "often", tmp_path / "once"
    often.mkdir()
    once.mkdir()
    one, other = Step(often), Step(once)
    for better in (0.05, -0.02, -0.02):
        told = one.hour(better)
        one.look()
        seen = other.hour(better)
    assert one.look() == other.look() == told == seen
    assert one.watch.status(STEP) == told
    later = msgspec.structs.replace(STEP, step=1, since_us=START_US + 2 * 3_600_000_000)
    assert one.look(later).values == EACH
    assert one.watch.status(STEP) == told


@pytest.mark.parametrize(("margin", "verdict"), [(0.2, "enough"), (0.01, "harm")])
def test_what_the_gate_allows_is_no_harm(tmp_path: Path, margin: float, verdict: str) -> None:
    step = Step(tmp_path, f", kind: non_inferior, margin: {margin}", values=300)
    for _ in range(7):
        told = step.hour(-0.15)
    assert told.mean < -0.1
    assert told.verdict == verdict
