"""Promotions by a plain registry client under load: every answer is by the version that it names."""

import time
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from load import Load, example_bodies
from mlflow import MlflowClient

from shadow_mlops.eventlog import EventBatch, Frame
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.models.loading import load_model
from system import System, get, wait_for

pytestmark = pytest.mark.chaos

RATE = 500.0
APART = 1e-3
SAME = 1e-6
OBEYED_SECONDS = 5.0


class Answered(NamedTuple):
    body: int
    version: str
    probability: float


class Answer(msgspec.Struct):
    probability: float
    model_version: str


def rescored(data, bodies, version_directory):
    """Probabilities that a prepared version gives for the bodies, offline."""
    model = load_model(data / version_directory)
    rows = [msgspec.json.decode(body) for body in bodies]
    signature = model.card.signature
    numbers = np.array([[row[name] for name in signature.numbers] for row in rows], dtype=np.float64)
    strings = np.array([[row[name] for name in signature.strings] for row in rows], dtype=object)
    return model.predict(numbers, strings)[:, model.card.classes.index("1")]


def flip_aliases(tracking_uri, flips):
    """Name one version champion, then the other, and so on; the human version that was named last."""
    client = MlflowClient(tracking_uri)
    versions = {v.tags["version"]: v.version for v in client.search_model_versions("name='churn'")}
    names = sorted(versions)
    for flip in range(flips):
        client.set_registered_model_alias("churn", "champion", versions[names[flip % 2]])
        time.sleep(0.02)  # the registry is the resolver's too
    return names[(flips - 1) % 2]


def test_promotions_under_load(example_data, request):
    flips = request.config.getoption("--flips", 100)
    decode = msgspec.json.Decoder(Answer).decode
    answers: list[Answered] = []
    with System(example_data, workers=2).running() as system:
        wait_for((example_data / "models" / "churn" / "2" / "card.json").exists, "both are prepared")
        offline = {
            version: rescored(example_data, example_bodies(2000), f"models/churn/{number}")
            for version, number in (("2.1.0", 1), ("3.0.0-beta", 2))
        }
        telling = np.flatnonzero(np.abs(offline["2.1.0"] - offline["3.0.0-beta"]) > APART)
        assert len(telling) > 500
        all_bodies = example_bodies(2000)
        bodies = [all_bodies[index] for index in telling]

        def keep(number, exchange):
            answer = decode(exchange.answer)
            answers.append(Answered(number % len(bodies), answer.model_version, answer.probability))

        with Load(system.url, rate=RATE, bodies=bodies, seen=keep) as load:
            last = flip_aliases(system.tracking_uri, flips)
            wait_for(lambda: {a.version for a in answers[-50:]} == {last}, f"{last} answers", OBEYED_SECONDS)
            wait_for(lambda: _all_workers_serve(system, last), f"all workers serve {last}", OBEYED_SECONDS)
            time.sleep(1.0)
            after = len(answers)
            time.sleep(1.0)
        swaps = system.total("shadow_model_swaps_total", result="served")
    assert load.failed == {}
    assert {a.version for a in answers[after:]} == {last}
    assert {a.version for a in answers} == {"2.1.0", "3.0.0-beta"}
    wrong = [a for a in answers if abs(a.probability - offline[a.version][telling[a.body]]) > SAME]
    assert wrong == []
    assert _wrong_in_log(example_data, offline, telling) == 0
    print(f"{flips} flips, {swaps:.0f} swaps in two workers, {len(answers)} answers, all by the version they name")


def _all_workers_serve(system, version):
    """Twenty fresh connections, which the kernel hands to either worker, and what the workers say themselves."""
    status, body = get(f"{system.url}/models")
    serving = system.serving()["generation"]
    reported = system.gateway_word()["generations"].values()
    return status == 200 and msgspec.json.decode(body)["champion"]["version"] == version and set(reported) == {serving}


def _wrong_in_log(data, offline, telling):
    """Logged rows whose score is not what the version that their schema names gives offline."""
    tail = SegmentLog(data / "log").tail("events")
    wrong = rows = 0
    while frames := tail.poll(10_000):
        for frame in frames:
            assert isinstance(frame, Frame)
            assert isinstance(frame.batch, EventBatch)
            column = frame.batch.schema.outputs.index(frame.batch.schema.positive)
            numbers = [int(request_id.rsplit("-", 1)[1]) for request_id in frame.batch.request_ids]
            expected = offline[frame.batch.schema.version][telling[np.array(numbers) % len(telling)]]
            wrong += int((np.abs(frame.batch.scores[:, column] - expected) > SAME).sum())
            rows += len(frame.batch)
    tail.close()
    assert rows > 0
    return wrong
