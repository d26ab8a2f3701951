"""Requests without features: from the store, else as the deployment says; and the event tells which."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from featureserver import DAY_US, Stoppable, feature_process
from shadow_mlops.domain.events import NO_AGE, Origin
from shadow_mlops.domain.features import Feature, Signature
from test_api import GOOD, YAML, Running

STORE = "feature_store: {kind: feast, path: nowhere, timeout_ms: 300, on_failure: default}\n"
TTL = dict.fromkeys(("a", "b", "n", "kind", "note", "extra"), 10 * DAY_US)
ALL = {"a": 2.0, "b": 1.0, "n": 3, "kind": "x", "note": "hi"}
COLUMNS = ("a", "b", "n", "kind", "note")
"""Of the event's origins: numbers, then strings."""


def now_us() -> int:
    return time.time_ns() // 1000


def store(**keys: tuple[int, dict]) -> Stoppable:
    kept = Stoppable(TTL)
    for key, (age_us, values) in keys.items():
        kept.write(key, time=now_us() - age_us, values=values)
    return kept


def asked(running: Running, run: Path, kept: Stoppable, *bodies: dict, path: str = "/predict") -> list[httpx2.Response]:
    """Answers, once the gateway has found the feature process."""

    async def ask() -> list[httpx2.Response]:
        client = running.gateway.stored.client
        following = asyncio.create_task(client.follow())
        while not client.connected:
            await asyncio.sleep(0.01)
        transport = httpx2.ASGITransport(app=running.gateway.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            answers = await asyncio.gather(*(http.post(path, json=body) for body in bodies))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        client.close()
        return answers

    with feature_process(run, kept):
        return asyncio.run(ask())


def gateway(tmp_path: Path, yaml: str = YAML + STORE) -> Running:
    return Running(yaml=yaml, data_dir=tmp_path)


def origins(running: Running) -> dict[str, dict[str, tuple[Origin, int]]]:
    """Entity -> feature -> where its value came from, and its age."""
    found = {}
    for batch in running.events():
        for row, entity in enumerate(batch.entities):
            ages = np.full(len(COLUMNS), NO_AGE) if batch.ages is None else batch.ages[row]
            kinds = np.zeros(len(COLUMNS), int) if batch.origins is None else batch.origins[row]
            found[entity] = {
                name: (Origin(int(kind)), int(age)) for name, kind, age in zip(COLUMNS, kinds, ages, strict=True)
            }
    return found


def test_the_store_fills_what_a_request_lacks_and_the_request_wins(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store(**{"C-1": (90_000_000, ALL), "C-2": (90_000_000, ALL)})
    bodies = [{"customer_id": "C-1"}, {"customer_id": "C-2", "a": 5, "note": None}]
    alone, partly = asked(running, tmp_path / "run", kept, *bodies)
    assert (alone.status_code, partly.status_code) == (200, 200)
    assert alone.json()["probability"] == pytest.approx(0.4)
    assert partly.json()["probability"] == pytest.approx(0.7)
    told = origins(running)
    assert {each[0] for each in told["C-1"].values()} == {Origin.STORE}
    assert {each[1] for each in told["C-1"].values()} <= {90, 91}
    assert told["C-2"]["a"] == (Origin.REQUEST, NO_AGE)
    assert told["C-2"]["note"] == (Origin.MISSING, NO_AGE)
    assert told["C-2"]["n"][0] == Origin.STORE
    batch = next(batch for batch in running.events() if "C-1" in batch.entities)
    row = batch.entities.index("C-1")
    assert batch.numbers[row].tolist() == [2.0, 1.0, 3.0]
    assert batch.strings[row].tolist() == ["x", "hi"]


def test_full_requests_and_those_of_nobody_do_not_ask(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store()
    answers = asked(
        running, tmp_path / "run", kept, GOOD, {k: v for k, v in GOOD.items() if k not in {"customer_id", "b"}}
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert kept.reads == []


def test_unknown_entities_and_expired_values_get_defaults_or_422(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store(old=(11 * DAY_US, ALL), part=(1, {"a": 2.0, "n": 3, "kind": "x"}))
    bodies = [{"customer_id": "nobody"}, {"customer_id": "old"}, {"customer_id": "part"}]
    unknown, expired, part = asked(running, tmp_path / "run", kept, *bodies)
    for refused in (unknown, expired):
        assert refused.status_code == 422
        assert {each["field"] for each in refused.json()["error"]["details"]} == {"a", "n", "kind"}
    assert part.json()["probability"] == pytest.approx(0.325)  # b by default 0.25
    told = origins(running)["part"]
    assert told["b"] == (Origin.DEFAULT, NO_AGE)
    assert told["note"] == (Origin.MISSING, NO_AGE)


def test_an_expired_value_leaves_its_age_beside_the_default(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store(old=(11 * DAY_US, {"b": 9.0}))
    (answer,) = asked(running, tmp_path / "run", kept, {**GOOD, "customer_id": "old"} | {"b": 1.0})
    assert answer.status_code == 200
    body = {k: v for k, v in GOOD.items() if k != "b"} | {"customer_id": "old"}
    (answer,) = asked(running, tmp_path / "run", kept, body)
    assert answer.json()["probability"] == pytest.approx(0.325)
    origin, age = origins(running)["old"]["b"]
    assert origin == Origin.DEFAULT
    assert age == pytest.approx(11 * 86400, abs=5)


@pytest.mark.parametrize("what", ["hanging", "failing", "gone"])
def test_a_store_that_does_not_answer_leaves_the_declared_default_and_the_event_says_so(tmp_path: Path, what: str):
    running = gateway(tmp_path)
    kept = store(**{"C-1": (1, ALL)})
    kept.failing = what == "failing"
    if what == "hanging":
        kept.hanging.set()
    bodies = [{k: v for k, v in GOOD.items() if k != "b"}, {"customer_id": "C-1"}]
    if what == "gone":
        fallen, refused = running.calls([("POST", "/predict", {"json": body}) for body in bodies])
    else:
        fallen, refused = asked(running, tmp_path / "run", kept, *bodies)
    kept.hanging.clear()
    assert fallen.json()["probability"] == pytest.approx(0.325)
    assert origins(running)["C-1"]["b"] == (Origin.FALLBACK, NO_AGE)
    assert refused.status_code == 503  # `a` has no default, and nobody knows whether the store has it
    assert refused.headers["retry-after"]
    assert "`a` has no default" in refused.json()["error"]["message"]


def test_a_deployment_may_refuse_while_the_store_does_not_answer(tmp_path: Path):
    running = gateway(tmp_path, YAML + STORE.replace("default}", "refuse}"))
    body = {k: v for k, v in GOOD.items() if k != "b"}
    assert running.call("POST", "/predict", json=body).status_code == 503
    assert running.call("POST", "/predict", json=GOOD).status_code == 200
    assert len(running.events()) == 1


def test_a_value_that_the_model_cannot_take_counts_as_absent(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store(**{"C-1": (1, ALL | {"b": "many"}), "C-2": (1, ALL | {"n": 2.5}), "C-3": (1, ALL | {"b": 1e300})})
    bodies = [{"customer_id": f"C-{n}"} for n in (1, 2, 3)]
    text, fraction, large = asked(running, tmp_path / "run", kept, *bodies)
    assert text.json()["probability"] == large.json()["probability"] == pytest.approx(0.325)
    assert fraction.status_code == 422
    running.gateway.stored.publish()
    assert running.metrics.feature_values_unusable._value.get() == 3


def test_a_batch_is_completed_row_by_row(tmp_path: Path):
    running = gateway(tmp_path)
    kept = store(**{f"C-{n}": (1, ALL | {"a": float(n)}) for n in range(5)})
    rows = [{"customer_id": f"C-{n}"} for n in range(5)] + [GOOD]
    (answer,) = asked(running, tmp_path / "run", kept, {"instances": rows}, path="/predict/batch")
    found = [each["probability"] for each in answer.json()["predictions"]]
    assert found == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.4])
    (answer,) = asked(
        running, tmp_path / "run", kept, {"instances": [*rows, {"customer_id": "no"}]}, path="/predict/batch"
    )
    assert answer.status_code == 422
    assert {each["index"] for each in answer.json()["error"]["details"]} == {6}


def test_what_only_a_challenger_takes_is_not_waited_for_but_read_with_the_rest(tmp_path: Path):
    running = gateway(tmp_path)
    running.shadow(challenger=Signature((Feature("a"), Feature("extra"))))
    kept = store(**{"C-1": (1, ALL | {"extra": 7.0}), "C-2": (1, ALL | {"extra": 7.0})})
    asked(running, tmp_path / "run", kept, GOOD)
    assert kept.reads == []
    asked(running, tmp_path / "run", kept, {"customer_id": "C-2"})
    batch = running.events()[-1]
    assert batch.numbers[0, batch.schema.numbers.index("extra")] == 7.0


def test_metrics_and_health_tell_of_the_store(tmp_path: Path):
    running = gateway(tmp_path)
    body = {k: v for k, v in GOOD.items() if k != "b"}
    running.calls([("POST", "/predict", {"json": body})] * 3)
    running.gateway.stored.publish()
    assert running.metrics.feature_reads.labels("error")._value.get() == 3
    status, checks = running.gateway.health.report()
    assert status == "degraded"
    assert checks["feature_store"].status == "degraded"
