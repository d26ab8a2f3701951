"""A canary step in the gateway: its entities get the new model, all of the time, and never an error because of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shadow_mlops.deployment.sampling import in_canary, in_sample
from shadow_mlops.domain.models import CanaryStep, Serving
from shadow_mlops.gateway.champion import ChampionFollower, assemble
from shadow_mlops.gateway.scoring import score_parts
from shadow_mlops.models.loading import LoadedModel
from shadow_mlops.models.serving import publish_serving
from test_api import GOOD, Running

STEP = CanaryStep(challenger="challenger", directory="models/churn/2", share=0.4, step=1, rollout="r1")


class Other:
    """Always 0.9; refuses a = 8."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, numbers, _strings):
        self.batches.append(len(numbers))
        if (numbers[:, 0] == 8).any():
            raise RuntimeError("a row that only the canary cannot take")
        return np.tile([0.1, 0.9], (len(numbers), 1))


def with_canary(tmp_path: Path, *, share: float = 0.4, slow: bool = False) -> tuple[Running, Other]:
    running = Running(data_dir=tmp_path, slow=slow)
    model = Other()
    card = msgspec.structs.replace(running.served.card, version="3.0.0", registry_version="2")
    serving = msgspec.structs.replace(running.served.serving, canary=msgspec.structs.replace(STEP, share=share))
    trial = LoadedModel(tmp_path, card, model, 0.01 if slow else 1e-5)
    running.served = assemble(running.deployment, serving, running.served.loaded, {"challenger": card}, canary=trial)
    running.gateway.follower.served = running.served
    running.gateway._swap(running.served)
    return running, model


def asked(running: Running, rows: list[dict]) -> list[dict]:
    answers = running.calls([("POST", "/predict", {"json": row}) for row in rows])
    assert [answer.status_code for answer in answers] == [200] * len(rows)
    return [answer.json() for answer in answers]


@pytest.mark.parametrize("slow", [False, True])
def test_an_entity_is_always_answered_by_the_same_side_and_its_answer_says_which(tmp_path: Path, slow: bool) -> None:
    running, _ = with_canary(tmp_path, slow=slow)
    rows = [{**GOOD, "customer_id": f"C-{i % 100}"} for i in range(300)]
    sides: dict[str, set[str]] = {}
    for row, answer in zip(rows, asked(running, rows), strict=True):
        sides.setdefault(row["customer_id"], set()).add(answer["model_version"])
        expected = 0.9 if answer["model_version"] == "3.0.0" else 0.4
        assert answer["probability"] == pytest.approx(expected)
    assert all(len(versions) == 1 for versions in sides.values())
    names = list(sides)
    chosen = in_canary("churn", names, names, 0.4)
    assert [sides[name] == {"3.0.0"} for name in names] == chosen.tolist()
    assert 20 < chosen.sum() < 60


def test_frames_say_who_answered(tmp_path: Path) -> None:
    running, _ = with_canary(tmp_path)
    asked(running, [{**GOOD, "customer_id": f"C-{i}"} for i in range(50)])
    told = {(batch.schema.version, batch.schema.role, batch.schema.registry_version) for batch in running.events()}
    assert told == {("2.1.0", "champion", "1"), ("3.0.0", "challenger", "2")}
    for batch in running.events():
        chosen = in_canary("churn", batch.entities, batch.request_ids, 0.4)
        assert chosen.all() if batch.schema.role == "challenger" else not chosen.any()
    assert sum(len(batch) for batch in running.events()) == 50


def test_one_tick_is_at_most_two_model_runs(tmp_path: Path) -> None:
    running, model = with_canary(tmp_path)
    asked(running, [{**GOOD, "customer_id": f"C-{i}"} for i in range(50)])
    assert len(model.batches) == 1
    assert len(running.model.batches) == 1
    assert model.batches[0] + running.model.batches[0] == 50


def test_a_row_that_the_canary_cannot_answer_is_answered_by_the_champion(tmp_path: Path) -> None:
    running, _ = with_canary(tmp_path, share=1.0)
    rows = [{**GOOD, "customer_id": f"C-{i}", "a": 8 if i % 5 == 0 else 2, "b": 0.0, "kind": "y"} for i in range(20)]
    answers = asked(running, rows)
    assert [answer["model_version"] for answer in answers] == ["2.1.0" if i % 5 == 0 else "3.0.0" for i in range(20)]
    assert answers[0]["probability"] == pytest.approx(0.8)
    text = running.call("GET", "/metrics").text
    assert "shadow_canary_failures_total 4.0" in text
    assert {batch.schema.version: len(batch) for batch in running.events()} == {"2.1.0": 4, "3.0.0": 16}


def test_a_row_that_neither_can_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    running, _ = with_canary(tmp_path, share=0.0001)
    answers = running.calls([("POST", "/predict", {"json": {**GOOD, "a": a}}) for a in (2, 9)])
    assert [answer.status_code for answer in answers] == [200, 500]


def test_shares_are_nested_and_independent_of_the_sample() -> None:
    names = [f"C-{i}" for i in range(4000)]
    small, large = (in_canary("churn", names, names, share) for share in (0.1, 0.5))
    assert not (small & ~large).any()
    assert in_canary("churn", names, names, 1.0).all()
    sampled = in_sample("churn", names, names, 0.5)
    assert abs((sampled & large).mean() - 0.25) < 0.03


def test_a_canary_that_cannot_be_loaded_leaves_the_champion_and_degrades_health(tmp_path: Path) -> None:
    running, _ = with_canary(tmp_path)
    loaded: list[str] = []
    follower = ChampionFollower(tmp_path, running.deployment, lambda served: loaded.append(served.card.version))
    follower.served = running.served
    publish_serving(
        tmp_path / "serving.json",
        Serving(
            generation=5,
            published_at="2026-01-01T00:00:00Z",
            champion="models/churn/1",
            canary=msgspec.structs.replace(STEP, directory="models/churn/7"),
        ),
    )
    asyncio.run(follower.step())
    assert loaded == ["2.1.0"]
    assert follower.served is not None
    assert follower.served.canary is None
    assert follower.refusal is None
    assert "the canary does not answer" in str(follower.canary_refusal)


def test_a_canary_that_becomes_champion_is_in_memory_already(tmp_path: Path) -> None:
    running, model = with_canary(tmp_path)
    follower = ChampionFollower(tmp_path, running.deployment, lambda _: None)
    follower.served = running.served
    serving = Serving(generation=9, published_at="2026-01-01T00:00:00Z", champion=STEP.directory)
    publish_serving(tmp_path / "serving.json", serving)
    asyncio.run(follower.step())
    assert follower.refusal is None  # nothing is on the disk: it was not loaded again
    assert follower.served.loaded.predict is not None
    assert follower.served.card.version == "3.0.0"
    assert follower.served.canary is None
    assert model.batches == []


def test_models_shows_the_step(tmp_path: Path) -> None:
    running, _ = with_canary(tmp_path)
    asked(running, [{**GOOD, "customer_id": f"C-{i}"} for i in range(50)])
    running.gateway.predictor.publish()
    told = running.call("GET", "/models").json()["canary"]
    assert (told["version"], told["share"], told["step"], told["answers"]) == ("3.0.0", 0.4, 1, True)
    assert told["predictions"] > 5


def test_without_a_canary_all_rows_are_one_part(tmp_path: Path) -> None:
    running = Running(data_dir=tmp_path)
    columns = running.served.fields.columns([running.served.fields.decode(msgspec.json.encode(GOOD))])
    (part,) = score_parts(running.served, columns, None)
    assert part.rows is None
    assert part.scores.shape == (1, 2)
