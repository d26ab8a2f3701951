"""The resolver's process against a real registry whose aliases a plain MLflow client moves."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

import modelsamples as samples
from shadow_mlops.domain.events import EVENTS, EventSchema
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.models.serving import read_serving
from shadow_mlops.processes.resolver import recent_rows
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import settings_to_environment, start


def wait_for(condition, seconds=60.0):
    """Generous: the machine may be busy, and speed is another test's business."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it never happened")


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "shadow.yaml").write_text("name: churn\n")
    return Settings(
        _env_file=None, data_dir=tmp_path, deployment_file=tmp_path / "shadow.yaml", mlflow_tracking_uri="",
        model_champion_version="", model_challenger_version="",
    )  # fmt: skip


@pytest.fixture
def started():
    processes = []

    def begin(settings):
        processes.append(start("shadow_mlops.processes.resolver", settings))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def word(settings):
    try:
        return json.loads((settings.data_dir / "run" / "resolver.json").read_bytes())
    except FileNotFoundError:
        return None


def test_flips_by_a_plain_client_are_published(settings, started, tmp_path):
    registry = samples.registry_in(tmp_path)
    samples.register_sample(registry, "2.1.0", kind="linear", aliases=("champion",))
    samples.register_sample(registry, "3.0.0-beta", kind="boosting", aliases=("challenger",))
    process = started(settings)
    path = tmp_path / "serving.json"
    first = wait_for(lambda: (s := read_serving(path)) and s.challengers and s)
    assert (first.champion, first.challengers) == ("models/churn/1", {"challenger": "models/churn/2"})
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 10

    client = MlflowClient(registry.tracking_uri)
    client.set_registered_model_alias("churn", "champion", "2")
    client.set_registered_model_alias("churn", "challenger", "1")
    swapped = wait_for(lambda: (s := read_serving(path)).champion == "models/churn/2" and s)
    assert swapped.challengers == {"challenger": "models/churn/1"}
    wait_for(lambda: word(settings)["status"] == "ok")

    client.set_registered_model_alias("churn", "challenger-trees", "2")  # names the champion: never shadowed by itself
    client.delete_registered_model_alias("churn", "champion")
    refused = wait_for(lambda: (s := read_serving(path)).problems and s)
    assert refused.champion == "models/churn/2"
    assert "no alias 'champion'" in wait_for(lambda: word(settings)["status"] == "failed" and word(settings)["detail"])

    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


class Sleeper:
    """Whoever unpickles it sleeps for longer than a preparation may take."""

    def __reduce__(self):
        return time.sleep, (1000,)


def register_sleeper(registry, folder):
    """A model of another tool that hangs when it is loaded; its registry number."""
    import mlflow.sklearn

    mlflow.sklearn.save_model(
        samples.estimator("linear"), str(folder), input_example=samples.frame().head(5), pip_requirements=[],
        serialization_format="cloudpickle",
    )  # fmt: skip
    (folder / "model.pkl").write_bytes(pickle.dumps(Sleeper()))
    run = registry.log_run("strangers", folders={"model": folder}, metrics={}, params={}, tags={})
    return registry.create_version("churn", run_id=run, path="model", tags={}).number


def test_a_version_that_hangs_delays_neither_the_champion_nor_the_end(settings, started, tmp_path):
    registry = samples.registry_in(tmp_path)
    samples.register_sample(registry, "2.1.0", kind="linear", aliases=("champion",))
    samples.register_sample(registry, "2.2.0", kind="linear")
    registry.set_alias("churn", "challenger", register_sleeper(registry, tmp_path / "sleeper"))
    process = started(settings.model_copy(update={"allow_pickle": True}))
    path = tmp_path / "serving.json"
    wait_for(lambda: (s := read_serving(path)) and s.champion == "models/churn/1")
    preparing = wait_for(lambda: psutil.Process(process.pid).children())

    registry.set_alias("churn", "champion", "2")
    switched = wait_for(lambda: (s := read_serving(path)).champion == "models/churn/2" and s)
    assert (switched.challengers, switched.problems) == ({}, ())
    wait_for(lambda: "version 3 is being prepared" in word(settings)["detail"])

    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    wait_for(lambda: not any(child.is_running() for child in preparing))


def test_a_silent_registry_is_survived_and_told(settings, started):
    silent = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    process = started(silent)
    told = wait_for(lambda: word(settings))
    assert told["status"] == "failed"
    assert "does not answer" in told["detail"]
    again = wait_for(lambda: (w := word(settings))["at"] != told["at"] and w)
    assert again["status"] == "failed"
    assert process.poll() is None


def test_it_ends_with_its_parent(settings):
    code = (
        "import os, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-m', 'shadow_mlops.processes.resolver'], start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=settings_to_environment(settings), stdout=subprocess.PIPE
    )
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        wait_for(lambda: word(settings))
        parent.kill()
        parent.wait()
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        if child.is_running():
            child.kill()


def batch(count, first, numbers=("tenure", "extra", "charges")):
    cells = np.arange(first, first + count, dtype=np.float64).reshape(-1, 1) * np.ones((1, len(numbers)))
    return EventBatch(
        schema=EventSchema(
            deployment="churn", task="binary", model="churn", version="1", registry_version="1", numbers=numbers,
            strings=("gender",), outputs=("0", "1"),
        ),
        times=np.zeros(count, dtype=np.int64), latencies=np.zeros(count, dtype=np.uint32),
        request_ids=[str(i) for i in range(count)], entities=[None] * count, numbers=cells,
        strings=np.full((count, 1), "female", dtype=object), scores=np.zeros((count, 2)),
    )  # fmt: skip


def test_recent_rows_are_the_last_ones_in_the_order_of_the_signature():
    from shadow_mlops.domain.features import Feature, Signature

    signature = Signature((Feature("charges"), Feature("gender", "string"), Feature("tenure")))
    log = MemoryLog()
    assert recent_rows(log, signature) is None
    appender = log.appender(EVENTS, writer="gateway-0")
    for i in range(30):
        appender.append(batch(10, 10 * i))
    appender.append(batch(5, 0, numbers=("other",)))
    numbers, strings = recent_rows(log, signature, count=40)
    assert numbers.shape[1] == 2
    assert strings.tolist() == [["female"]] * len(strings)
    assert numbers[-1].tolist() == [299.0, 299.0]
    assert 30 <= len(numbers) <= 40
    assert recent_rows(log, Signature((Feature("unknown"),))) is None
