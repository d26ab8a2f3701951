"""Where who was right decides when a label comes, or whether, a gate on what has come promotes the worse model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gatelogs import HOUR_US, START_US, Hours
from lakelogs import archiver, rows
from shadow_mlops.comparison.cohorts import Matchup, first_cohort, next_cohort
from shadow_mlops.deployment.reader import parse_deployment
from shadow_mlops.domain.deployment import Duration, Labels
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect
from shadow_mlops.rollout.folding import fold, opened
from shadow_mlops.rollout.gate import Gates
from shadow_mlops.rollout.spec import GateSpec, spec_of
from shadow_mlops.state import open_state, upgrade

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gate_streams import Requests, naive, once_each

LONGEST = 60.0
LABELS = Labels(max_delay=Duration(LONGEST * 3600), cohort=Duration(3600))
# Both right, only one right, and what the champion had said then: shares of the requests. (1: it is fraud, block it.)
CASES = ("both", "challenger, champion said 0", "challenger, champion said 1", "champion said 0", "champion said 1")
SHARES = (0.78, 0.06, 0.02, 0.02, 0.12)  # the challenger is six points worse


def spec(longest: float = LONGEST) -> GateSpec:
    labels = f"{{max_delay: {longest:g}h, cohort: 1h}}"
    found = spec_of(parse_deployment(f"name: m\nlabels: {labels}\ngate: {{metric: accuracy}}\n"))
    assert found is not None
    return found


def recorded(folder: Path, *, delay, suppressed: float, hours: int = 40, each: int = 50) -> Path:
    """A lake of two classifiers of which the challenger is six points worse.

    Parameters
    ----------
    delay
        Hours that a label takes, by case.
    suppressed
        Part of the champion's 1 whose label never comes.
    """
    rng = np.random.default_rng(11)
    log = MemoryLog()
    written = Hours(log)
    waiting: list[tuple[float, str, int]] = []
    for hour in range(hours + round(LONGEST) + 2):
        told = [item for item in waiting if item[0] <= hour]
        waiting = [item for item in waiting if item[0] > hour]
        for when in sorted({item[0] for item in told}):
            now = [item for item in told if item[0] == when]
            written.label(when, [request for _, request, _ in now], [label for _, _, label in now])
        written.later(hour)
        if hour >= hours:
            continue
        case = rng.choice(len(CASES), each, p=SHARES)
        ours = np.where(np.isin(case, (2, 4)), 1, np.where(case == 0, rng.integers(0, 2, each), 0))
        right = np.isin(case, (0, 3, 4))
        truth = np.where(right, ours, 1 - ours)
        theirs = np.where(case == 0, ours, 1 - ours)
        span, ids = written.ask(hour, 0.1 + 0.8 * ours)
        written.shadow(span, 0.1 + 0.8 * theirs)
        for i in range(each):
            if ours[i] and rng.random() < suppressed:
                continue
            waiting.append((hour + delay(CASES[case[i]]), ids[i], int(truth[i])))
    written.close()
    made = archiver(log, folder / "lake", labels=LABELS, now=lambda: START_US / 1e6 + 400 * 86_400)
    while made.round():
        pass
    return folder / "lake"


def as_they_arrive(lake: Path) -> np.ndarray:
    """Differences of whatever is labelled, in the order of the labels: what a job that reads the table has."""
    query = """
    SELECT ((p.score >= 0.5) = (p.target = 1))::INT - ((p.champion_score >= 0.5) = (p.target = 1))::INT
    FROM pairs p ORDER BY p.outcome_received, p.segment, p.row
    """
    return np.array([value for (value,) in rows(lake, query)], dtype=float)


def at_once(_: str) -> float:
    return 1.0


def losses_late(case: str) -> float:
    return 48.0 if case.startswith("champion") else 1.0


UNLABELLED = "the champion's decision 1 have a label"


@pytest.mark.parametrize(
    ("delay", "suppressed", "reason"),
    [(losses_late, 0.0, "the challenger is worse"), (at_once, 0.9, UNLABELLED), (losses_late, 0.5, UNLABELLED)],
    ids=["losses come two days later", "the champion's 1 suppresses labels", "both"],
)
def test_a_naive_gate_promotes_the_worse_model_and_the_gate_says_why_not(
    request, tmp_path: Path, delay, suppressed: float, reason: str
) -> None:
    lake = recorded(tmp_path, delay=delay, suppressed=suppressed)
    values = as_they_arrive(lake)
    promoted = naive(values[None, :])[0]
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(state)
    (status,) = Gates(lake, state, spec(), model="m").advance("champion-1", {"challenger": "c-1"})
    with request.getfixturevalue("capsys").disabled():
        print(f"\n{request.node.callspec.id}: the challenger is 6 points worse")
        print(f"  naive gate: promotes it after {promoted:,.0f} labels, of {len(values):,} that came")
        print(f"  the gate:   {status.decision.decision}: {'; '.join(status.decision.reasons)}")
    assert promoted < 500
    assert status.decision.decision != "promote"
    assert any(reason in each for each in status.decision.reasons)


def test_the_benchmarks_rule_is_the_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 250
    stream = Requests(
        asked=np.sort(rng.uniform(0, 6, n)),
        labelled=np.zeros(n),
        entities=rng.integers(0, 90, n),
        values=rng.choice([-1.0, 0.0, 1.0], n),
    )
    delay = np.where(rng.random(n) < 0.05, np.inf, rng.exponential(1.5, n) * (2 + stream.values))
    stream = Requests(stream.asked, stream.asked + delay, stream.entities, stream.values)
    log = MemoryLog()
    written = Hours(log)
    ids: dict[int, str] = {}
    for when, label, i in sorted(
        [(stream.asked[i], False, i) for i in range(n)]
        + [(stream.labelled[i], True, i) for i in range(n) if np.isfinite(stream.labelled[i])]
    ):
        if label:
            written.label(when, [ids[i]], [1])
            continue
        span, (ids[i],) = written.ask(when, [0.4 if stream.values[i] > 0 else 0.6], entities=[f"e{stream.entities[i]}"])
        written.shadow(span, [0.4 if stream.values[i] < 0 else 0.6])
    written.later(100)
    written.close()
    made = archiver(
        log,
        tmp_path / "lake",
        labels=Labels(max_delay=Duration(4 * 3600)),
        now=lambda: START_US / 1e6 + 400 * 86_400,
    )
    while made.round():
        pass
    gate = spec(4)
    matchup = Matchup(champion="champion-1", challenger="c-1", cohort_us=HOUR_US, delay_us=4 * HOUR_US)
    manifest = read_manifest(tmp_path / "lake")
    connection = connect(tmp_path / "lake")
    number = first_cohort(connection, matchup)
    assert number is not None
    state, spent, found = opened(gate, number), set(), []
    while (cohort := next_cohort(connection, matchup, state.next_cohort, matched_us=manifest.matched_us)) is not None:
        folded = fold(state, cohort, gate, schemas=manifest.schemas, spent=spent, served=set())
        state = folded.state
        spent.update(folded.spent)
        found += folded.values.tolist()
    connection.close()
    expected = once_each(stream, cohort=1.0, longest=4.0)
    assert len(state.cohorts) == 6
    assert 60 < len(expected) < 90
    assert found == expected.tolist()
