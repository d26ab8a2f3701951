"""A champion whose model is elsewhere: its failures are 503 for the rows that they touch, and asked for once."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest

from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.gateway.champion import assemble
from shadow_mlops.models.loading import LoadedModel
from shadow_mlops.models.runtimes import Tally
from test_api import GOOD, Running


class Elsewhere:
    """Away when told so; has no score for a = 8; as fast as can be when it was loaded."""

    def __init__(self) -> None:
        self.away = False
        self.closed = False
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def close(self):
        self.closed = True

    def predict(self, numbers, strings):
        assert not self.closed
        self.asked.append(len(numbers))
        self.threads.add(threading.current_thread().name)
        if self.away:
            raise UnavailableError("the remote model did not answer within 1 s")
        scores = np.full((len(numbers), 2), 0.5)
        scores[numbers[:, 0] == 8] = np.nan
        return scores

    def tally(self):
        return Tally(calls={"timeout": 1} if self.away else {"ok": 1}, state="open" if self.away else "closed")


@pytest.fixture
def running(tmp_path: Path) -> Running:
    made = Running(data_dir=tmp_path)
    made.model = Elsewhere()
    loaded = LoadedModel(tmp_path, made.served.card, made.model, 1e-6)
    made.served = assemble(made.gateway.follower._deployment, made.served.serving, loaded, {})
    made.gateway.follower.served = made.served
    made.gateway._swap(made.served)
    return made


def post(running, rows):
    return running.calls([("POST", "/predict", {"json": row}) for row in rows])


def test_it_never_runs_on_the_event_loop(running):
    assert post(running, [GOOD])[0].status_code == 200
    assert all(name.startswith("champion") for name in running.model.threads)


def test_a_failure_is_asked_for_once_and_told_to_every_row(running):
    running.model.away = True
    answers = post(running, [GOOD] * 40)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
    assert {answer.json()["error"]["code"] for answer in answers} == {"unavailable"}
    assert sum(running.model.asked) == 40  # each row in one call, none again by itself
    assert running.events() == []


def test_a_row_without_a_score_is_503_alone(running):
    answers = post(running, [GOOD, {**GOOD, "a": 8}, GOOD])
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert sum(running.model.asked) == 3
    assert sum(len(batch) for batch in running.events()) == 2


def test_metrics_and_health_tell(running):
    running.model.away = True
    post(running, [GOOD])
    text = running.call("GET", "/metrics").text
    assert 'shadow_detached_calls_total{model="churn",result="timeout",version="2.1.0"}' in text
    assert 'shadow_detached_breaker_open{model="churn",version="2.1.0"} 1.0' in text
    health = running.call("GET", "/health").json()["checks"]["champion"]
    assert health["status"] == "degraded"
    assert "elsewhere" in health["detail"]


def test_a_replaced_one_is_ended_when_its_rows_are_answered(running):
    old, served = running.model, running.served
    swapped = {}

    class Slow(Elsewhere):
        def predict(self, numbers, strings):
            if not swapped:  # replaced while its first rows are with it, and others wait
                swapped["at"] = threading.Event()
                running.loop.call_soon_threadsafe(swap)
                assert swapped["at"].wait(10)
            return super().predict(numbers, strings)

    def swap():
        running.gateway._swap(replaced(served, old))
        swapped["at"].set()

    slow = Slow()
    running.gateway._swap(replaced(served, slow))
    assert old.closed  # nothing was with it
    old.closed = False

    answers = post_on_a_known_loop(running, [GOOD, GOOD])
    assert [answer.status_code for answer in answers] == [200, 200]
    assert slow.closed
    assert not old.closed


def replaced(served, model):
    return dataclasses.replace(served, loaded=dataclasses.replace(served.loaded, runtime=model))


def post_on_a_known_loop(running, rows):
    async def run():
        running.loop = asyncio.get_running_loop()
        transport = httpx2.ASGITransport(app=running.gateway.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await asyncio.gather(*(client.post("/predict", json=row) for row in rows))

    return asyncio.run(run())
