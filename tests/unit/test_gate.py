"""A gate over a real archive: decided once, on evidence that anybody can make again, whatever was killed when."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, update

from gatelogs import HOUR_US, START_US, Hours
from lakelogs import archiver
from shadow_mlops.deployment.reader import parse_deployment
from shadow_mlops.domain.deployment import Duration, Labels
from shadow_mlops.domain.errors import ConflictError, DeploymentError, StateError
from shadow_mlops.domain.events import Status
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.rollout.decision import decide
from shadow_mlops.rollout.folding import Cell, opened
from shadow_mlops.rollout.gate import Gates
from shadow_mlops.rollout.spec import GateSpec, spec_of
from shadow_mlops.state import gates as stored
from shadow_mlops.state import open_state, upgrade
from shadow_mlops.state.tables import EVIDENCE

LABELS = Labels(max_delay=Duration(5 * 3600), cohort=Duration(3600))
ROLES = {"challenger": "c-1"}


def spec(gate: str = "", task: str = "binary") -> GateSpec:
    text = f"name: m\ntask: {task}\nlabels: {{max_delay: 5h, cohort: 1h}}\ngate: {{min_labels: 20{gate}}}\n"
    found = spec_of(parse_deployment(text))
    assert found is not None
    return found


def engine_at(path: Path) -> Engine:
    engine = open_state(f"sqlite:///{path / 'state.db'}")
    upgrade(engine)
    return engine


def traffic(log: MemoryLog, *, hours: int, better: float, each: int = 40, seed: int = 1, keep: float = 1.0) -> None:
    """The champion guesses, the challenger knows more by ``better``; labels of the champion's 1 come with ``keep``."""
    rng = np.random.default_rng(seed)
    written = Hours(log)
    for hour in range(hours):
        truth = rng.random(each) < 0.5
        champion = np.clip(0.5 + 0.1 * (2 * truth - 1) + rng.normal(0, 0.2, each), 0.01, 0.99)
        challenger = np.clip(champion + better * (2 * truth - 1), 0.01, 0.99)
        span, ids = written.ask(hour, champion)
        written.shadow(span, challenger)
        told = [i for i in range(each) if champion[i] < 0.5 or rng.random() < keep]
        written.label(hour + 0.9, [ids[i] for i in told], [int(truth[i]) for i in told])
    written.later(hours + 9)
    written.close()


def lake_of(log: MemoryLog, folder: Path, rows: int = 131_072) -> Path:
    made = archiver(log, folder / "lake", rows=rows, labels=LABELS, now=lambda: START_US / 1e6 + 400 * 86_400)
    while made.round():
        pass
    return folder / "lake"


def test_a_better_challenger_is_promoted_and_the_evidence_verifies(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=0.15)
    lake, state = lake_of(log, tmp_path), engine_at(tmp_path)
    gates = Gates(lake, state, spec(), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    assert status.decision.decision == "promote"
    assert status.decision.estimate is not None
    assert status.decision.estimate > 0
    assert status.decision.labelled < 400  # it stopped at the cohort that sufficed
    assert status.evidence_id is not None
    found = gates.verify(status.evidence_id)
    assert found.problems == ()
    assert gates.advance("champion-1", ROLES) == [status]
    assert len(stored.chain(state)) == 1


def test_what_a_version_may_have_been_trained_on_is_no_evidence_for_it(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=0.15)  # enough for a promotion in the first hours
    state = engine_at(tmp_path)
    gates = Gates(lake_of(log, tmp_path), state, spec(), model="m")
    registered = START_US + 6 * HOUR_US + 1  # the cohort that it falls into has begun without it
    (status,) = gates.advance("champion-1", ROLES, {"challenger": registered})
    assert status.cohorts <= 3
    assert status.decision.labelled <= 3 * 40
    (gate,) = stored.find(state, model="m", name="challenger", champion="champion-1", challenger="c-1")
    assert gate.first_cohort == START_US // HOUR_US + 7


def test_a_worse_challenger_is_rejected(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=-0.15)
    gates = Gates(lake_of(log, tmp_path), engine_at(tmp_path), spec(), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    assert status.decision.decision == "reject"
    assert "worse" in status.decision.reasons[0]


def test_worse_within_the_margin_is_no_reason_to_reject(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=24, better=-0.03)  # some 0.025 of Brier score
    lake = lake_of(log, tmp_path)
    (strict,) = Gates(lake, engine_at(tmp_path), spec(", metric: brier"), model="m").advance("champion-1", ROLES)
    assert strict.decision.decision == "reject"
    found = {}
    for margin in ("0.035", "0.005"):
        folder = tmp_path / margin
        folder.mkdir()
        asked = spec(f", metric: brier, kind: non_inferior, margin: {margin}")
        (status,) = Gates(lake, engine_at(folder), asked, model="m").advance("champion-1", ROLES)
        found[margin] = status.decision
    assert found["0.035"].decision == "promote"
    assert found["0.035"].e_value_harm < 1
    assert found["0.005"].decision == "reject"
    assert "more than 0.005 is not allowed" in found["0.005"].reasons[0]


def test_of_many_classes_the_rare_cells_are_looked_at_together() -> None:
    asked = spec(", metric: accuracy", task="multiclass")
    state = opened(asked, 0)
    for ours in range(40):
        state.coverage[f"champion:{ours}"] = Cell(pairs=1000, labelled=980)
        for theirs in range(40):
            if ours != theirs:
                state.coverage[f"disagree:{ours},{theirs}"] = Cell(pairs=3, labelled=2 if ours == 7 else 3)
    assert not [reason for reason in decide(state, asked, challengers=1).reasons if "label" in reason]
    state.coverage["champion:3"] = Cell(pairs=5000, labelled=4400)
    assert any("decision 3" in reason for reason in decide(state, asked, challengers=1).reasons)


def test_requests_that_come_late_are_no_part_of_the_evidence(tmp_path: Path) -> None:
    records = []
    for late in (False, True):
        log = MemoryLog()
        traffic(log, hours=10, better=0.15)
        if late:
            hours = Hours(log)
            span, _ = hours.ask(0.5, [0.5, 0.5])
            hours.shadow(span, [0.5, 0.5])
            hours.close()
        folder = tmp_path / str(late)
        folder.mkdir()
        state = engine_at(folder)
        (status,) = Gates(lake_of(log, folder), state, spec(), model="m").advance("champion-1", ROLES)
        assert status.late == 2 * late
        (link,) = stored.chain(state)
        records.append(msgspec.json.decode(link.record))
    for record in records:  # two logs: positions and event ids are their own
        del record["state"]["cohorts"]
    assert records[0] == records[1]


def test_equal_models_are_watched_until_the_labels_are_used_up(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=6, better=0.0)
    lake, state = lake_of(log, tmp_path), engine_at(tmp_path)
    (status,) = Gates(lake, state, spec(), model="m").advance("champion-1", ROLES)
    assert status.decision.decision == "keep_watching"
    assert status.decision.labelled == 240
    (status,) = Gates(lake, state, spec(", max_labels: 100"), model="m").status("champion-1", ROLES) or [None]
    assert status is None  # another spec is another gate, and it has not begun


def test_max_labels_ends_in_rejection(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=6, better=0.0)
    gates = Gates(lake_of(log, tmp_path), engine_at(tmp_path), spec(", max_labels: 100"), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    assert status.decision.decision == "reject"
    assert "used up" in status.decision.reasons[0]


def test_kills_and_rounds_change_no_byte_of_the_evidence(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=12, better=0.04, each=30)
    guards = ", guardrails: [{name: errors, margin: 0.2}, {name: accuracy, kind: no_harm}]"
    calm = tmp_path / "calm"
    calm.mkdir()
    lake, state = lake_of(log, calm), engine_at(calm)
    Gates(lake, state, spec(guards), model="m").advance("champion-1", ROLES)
    expected = [link.record for link in stored.chain(state)]
    assert len(expected) == 1

    dice = random.Random(3)
    wild = tmp_path / "wild"
    wild.mkdir()
    state = engine_at(wild)
    made = archiver(log, wild / "lake", rows=40, labels=LABELS, now=lambda: START_US / 1e6 + 400 * 86_400)
    kills = 0
    while True:
        left = made.round()
        for _ in range(2):
            gates = Gates(wild / "lake", state, spec(guards), model="m")
            original = stored.advance

            def dying(*args, original=original, **kwargs):
                if dice.random() < 0.4:
                    raise KeyboardInterrupt
                return original(*args, **kwargs)

            stored.advance = dying  # a kill right before the transaction; one after it is the next round's beginning
            try:
                gates.advance("champion-1", ROLES)
            except KeyboardInterrupt:
                kills += 1
            finally:
                stored.advance = original
        if not left:
            break
    Gates(wild / "lake", state, spec(guards), model="m").advance("champion-1", ROLES)
    assert [link.record for link in stored.chain(state)] == expected
    assert kills > 3


def test_two_monitors_cannot_both_take_a_cohort(tmp_path: Path) -> None:
    state = engine_at(tmp_path)
    key = {"model": "m", "name": "c", "champion": "1", "challenger": "2", "spec_hash": "h"}
    gate = stored.begin(state, **key, challengers=1, first_cohort=0, state="{}")
    assert stored.begin(state, **key, challengers=1, first_cohort=7, state="{}") == gate
    change = {"next_cohort": 1, "state": "{}", "decision": "keep_watching"}
    stored.advance(state, gate, **change, newly_spent={"metric": [b"x" * 16]})
    with pytest.raises(ConflictError, match="another monitor"):
        stored.advance(state, gate, **change, newly_spent={"metric": [b"y" * 16]})
    assert stored.spent(state, gate.id, "metric") == {b"x" * 16}


def test_changed_evidence_and_a_changed_lake_are_told(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=0.15)
    lake, state = lake_of(log, tmp_path), engine_at(tmp_path)
    gates = Gates(lake, state, spec(), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    (link,) = stored.chain(state)
    forged = link.record.replace(b'"decision":"promote"', b'"decision":"reject"')
    with state.begin() as connection:
        connection.execute(update(EVIDENCE).values(record=forged))
    found = gates.verify(str(status.evidence_id))
    assert not found.valid
    assert any("not what it was" in problem for problem in found.problems)
    assert any("decision.decision" in problem for problem in found.problems)
    with pytest.raises(StateError, match="no evidence"):
        gates.verify("0" * 16)


def test_labels_that_the_champion_suppresses_are_refused_with_the_reason(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=20, better=0.15, keep=0.3)
    gates = Gates(lake_of(log, tmp_path), engine_at(tmp_path), spec(), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    assert status.decision.decision == "keep_watching"
    assert any("the champion's decision 1" in reason for reason in status.decision.reasons)


def test_a_guardrail_that_is_not_met_holds_the_promotion(tmp_path: Path) -> None:
    log = MemoryLog()
    rng = np.random.default_rng(2)
    hours = Hours(log)
    for hour in range(10):
        truth = rng.random(40) < 0.5
        champion = np.full(40, 0.5)
        span, ids = hours.ask(hour, champion)
        failing = [Status.ERRORED if i % 4 == 0 else Status.PAIRED for i in range(40)]
        hours.shadow(span, np.where(truth, 0.9, 0.1), statuses=failing)
        hours.label(hour + 0.9, ids, truth.astype(int).tolist())
    hours.later(19)
    hours.close()
    lake = lake_of(log, tmp_path)
    (alone,) = Gates(lake, engine_at(tmp_path), spec(), model="m").advance("champion-1", ROLES)
    assert alone.decision.decision == "promote"
    other = tmp_path / "other"
    other.mkdir()
    guarded = Gates(lake, engine_at(other), spec(", guardrails: [{name: errors, margin: 0.05}]"), model="m")
    (status,) = guarded.advance("champion-1", ROLES)
    assert status.decision.decision == "keep_watching"
    assert status.decision.guardrails[0].state == "watching"
    assert any(reason.startswith("errors") for reason in status.decision.reasons)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    harmed = Gates(lake, engine_at(blocked), spec(", guardrails: [{name: errors, kind: no_harm}]"), model="m")
    (status,) = harmed.advance("champion-1", ROLES)
    assert status.decision.guardrails[0].state == "blocked"


def test_alpha_is_shared_by_challengers(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=0.15)
    lake = lake_of(log, tmp_path)
    (alone,) = Gates(lake, engine_at(tmp_path), spec(), model="m").advance("champion-1", ROLES)
    shared = tmp_path / "shared"
    shared.mkdir()
    many = {"challenger": "c-1", **{f"challenger-{i}": f"d-{i}" for i in range(9)}}
    (one,) = Gates(lake, engine_at(shared), spec(), model="m").advance("champion-1", many)
    assert "needed 200" in one.decision.reasons[0]
    assert one.decision.labelled >= alone.decision.labelled


def test_another_spec_begins_where_the_one_before_has_looked(tmp_path: Path) -> None:
    log = MemoryLog()
    traffic(log, hours=10, better=0.15)
    lake, state = lake_of(log, tmp_path), engine_at(tmp_path)
    (first,) = Gates(lake, state, spec(), model="m").advance("champion-1", ROLES)
    assert first.decision.decision == "promote"
    (second,) = Gates(lake, state, spec(", alpha: 0.01"), model="m").advance("champion-1", ROLES)
    assert second.decision.labelled + first.decision.labelled <= 400
    known = stored.find(state, model="m", name="challenger", champion="champion-1", challenger="c-1")
    assert [gate.first_cohort for gate in known] == [known[1].next_cohort, START_US // HOUR_US]


@pytest.mark.parametrize("metric", ["accuracy", "brier", "auc", "log_loss"])
def test_every_metric_decides(tmp_path: Path, metric: str) -> None:
    log = MemoryLog()
    traffic(log, hours=20, better=0.25)
    gates = Gates(lake_of(log, tmp_path), engine_at(tmp_path), spec(f", metric: {metric}"), model="m")
    (status,) = gates.advance("champion-1", ROLES)
    assert status.decision.decision == "promote"
    assert gates.verify(str(status.evidence_id)).valid
    assert (status.decision.mcnemar_e_value is None) == (metric != "accuracy")


@pytest.mark.parametrize(
    ("gate", "line", "words"),
    [
        ("{metric: acuracy}", 3, "did you mean `accuracy`"),
        ("{metric: squared_error, bound: 1}", 3, "is not for binary"),
        ("{alpha: 0}", 3, "alpha"),
        ("{alpha: 1.5}", 3, "alpha"),
        ("{margin: 0.01}", 3, "belongs to `kind: non_inferior`"),
        ("{kind: non_inferior}", 3, "needs `margin`"),
        ("{min_labels: 10, max_labels: 5}", 3, "could only reject"),
        (
            "\n  guardrails:\n    - {name: errors, margin: 0.01}\n    - {name: fairness, margin: 0.1}",
            6,
            "nothing measures",
        ),
        ("\n  guardrails:\n    - {name: errors}", 5, "needs `margin`"),
        ("\n  guardrails:\n    - {name: latency, margin: 0.01}", 5, "needs `slo_ms`"),
        ("\n  guardrails:\n    - {name: score_distribution, margin: 0.01}", 5, "no_harm"),
        ("\n  guardrails:\n    - {name: errors, margin: 0.1}\n    - {name: errors, margin: 0.2}", 6, "stands twice"),
    ],
)
def test_gates_that_cannot_decide_are_refused_with_the_line(gate: str, line: int, words: str) -> None:
    with pytest.raises(DeploymentError, match=words) as caught:
        parse_deployment(f"name: m\n\ngate: {gate}\n")
    assert caught.value.line == line


def test_the_examples_of_the_documents_are_gates() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert spec_of(parse_deployment(f"name: m\n{block}")) is not None


def test_areas_are_not_for_regression() -> None:
    with pytest.raises(DeploymentError, match="a regression gate takes squared_error"):
        parse_deployment("name: m\ntask: regression\ngate: {metric: auc}\n")
    assert spec_of(parse_deployment("name: m\ntask: regression\n")) is None


def test_the_hash_is_of_what_is_asked_not_of_how_it_was_written() -> None:
    assert spec().hash == spec(", alpha: 0.05").hash
    assert spec().hash != spec(", alpha: 0.04").hash
    assert len(msgspec.json.encode(spec())) > 100
