"""Promotion and rollback by command line and HTTP under load: no answer fails, every action is on record."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import pytest
from load import Load, example_bodies

from shadow_mlops.models.prepared import PREPARED
from shadow_mlops.models.registry import Registry
from system import System, wait_for

pytestmark = pytest.mark.chaos

RATE = 500.0
OLD, NEW = "2.1.0", "3.0.0-beta"
PAIRS = (("http", "http"), ("cli", "cli"), ("http", "cli"), ("cli", "http"))
MOST_SECONDS = 1.0
VERIFY_SECONDS = 600.0  # figures of shorter runs on a shared machine say little
SHADOW = str(Path(sys.executable).with_name("shadow"))


class Answered(NamedTuple):
    sent: float
    version: str


class Answer(msgspec.Struct):
    model_version: str


class Operator:
    """Somebody with the token and a shell."""

    def __init__(self, system):
        self._system = system
        self._token = (system.data / "operator-token").read_text().strip()
        self.done = []
        """(action, from, to, reason, outcome) of everything that was tried, as the trail should have it."""

    def post(self, path, body, token=None):
        """Status and answer."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or self._token}"}
        request = Request(f"{self._system.url}{path}", msgspec.json.encode(body), headers)
        try:
            with urlopen(request, timeout=120) as answer:
                return answer.status, msgspec.json.decode(answer.read())
        except HTTPError as error:
            return error.code, msgspec.json.decode(error.read())

    def get(self, path):
        request = Request(f"{self._system.url}{path}", headers={"Authorization": f"Bearer {self._token}"})
        with urlopen(request, timeout=10) as answer:
            return msgspec.json.decode(answer.read())

    def shell(self, *arguments):
        """Exit code, answer and standard error."""
        data = ["--data-dir", str(self._system.data), "--deployment", str(self._system.deployment_file)]
        command = [SHADOW, "models", *arguments, *data, "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=self._system.data)
        return done.returncode, msgspec.json.decode(done.stdout) if done.stdout else None, done.stderr

    def switch(self, way, action, version, before):
        """Promote or roll back; what was answered, and when."""
        reason = f"{action} by {way}, number {len(self.done)}"
        begun = time.perf_counter()
        if way == "http":
            body = {"version": version, "reason": reason} if action == "promote" else {"reason": reason}
            status, answer = self.post(f"/{action}", body)
            assert status == 200, answer
        else:
            arguments = ["promote", version] if action == "promote" else ["rollback"]
            code, answer, errors = self.shell(*arguments, "--reason", reason)
            assert code == 0, errors
        now = time.perf_counter()
        assert (answer["from"], answer["to"]) == (before, version)
        assert answer["followed"]["served"], answer
        self.done.append((action, before, version, reason, "done"))
        served = answer["followed"]["seconds"]
        print(f"{action} by {way}: {now - begun:.2f} s in all, served {served:.2f} s after the aliases")
        return answer, begun, now


def register_spoiled(registry, version, spoil):
    """Register a version whose prepared directory in the registry was spoiled after registration."""
    good = registry.numbered("churn", registry.aliases("churn")["challenger"])
    with tempfile.TemporaryDirectory() as scratch:
        model = registry.download(good, Path(scratch), PREPARED)
        spoil(model)
        tags = {"version": version}
        run = registry.log_run("churn", folders={f"model/{PREPARED}": model}, metrics={}, params={}, tags=tags)
    registry.create_version("churn", run_id=run, path="model", tags=tags)


def answer_otherwise(model):
    path = model / "recorded.json"
    recorded = json.loads(path.read_bytes())
    recorded["scores"] = [[1.0 - score for score in row] for row in recorded["scores"]]
    path.write_text(json.dumps(recorded))


def fail_to_load(model):
    from hashlib import sha256

    path = model / "card.json"
    card = json.loads(path.read_bytes())
    file = model / card["file"]
    file.write_bytes(file.read_bytes()[:1000])
    path.write_text(json.dumps(card | {"sha256": sha256(file.read_bytes()).hexdigest()}))


def test_switching_under_load(example_data, request):
    long = request.config.getoption("--duration", 30.0) >= VERIFY_SECONDS
    decode = msgspec.json.Decoder(Answer).decode
    answers: list[Answered] = []
    switched, rollbacks = [], []
    with System(example_data, workers=2).running() as system:
        registry = Registry(system.tracking_uri, example_data / "artifacts")
        register_spoiled(registry, "9.0.0-otherwise", answer_otherwise)
        register_spoiled(registry, "9.1.0-broken", fail_to_load)
        wait_for((example_data / "run" / "console.json").exists, "the console answers")
        wait_for(lambda: system.serving()["challengers"], "the challenger is published")
        operator = Operator(system)

        def keep(_number, exchange):
            answers.append(Answered(exchange.sent, decode(exchange.answer).model_version))

        with Load(system.url, rate=RATE, bodies=example_bodies(2000), seen=keep) as load:
            time.sleep(1.0)
            for forth, back in PAIRS * 3 if long else PAIRS[:2]:
                switched.append((NEW, operator.switch(forth, "promote", NEW, OLD)))
                if forth == back:
                    refuse_all(operator, NEW)
                answer, begun, now = operator.switch(back, "rollback", OLD, NEW)
                switched.append((OLD, (answer, begun, now)))
                rollbacks.append((back, answer["followed"]["seconds"], now - begun))
            time.sleep(1.0)
        trail = operator.get("/audit?limit=1000")["entries"]
        aliases = registry.aliases("churn")
    assert load.failed == {}
    assert {a.version for a in answers} == {OLD, NEW}
    judge_answers(answers, switched)
    judge_trail(trail, operator.done)
    assert (aliases["champion"], aliases["previous"], aliases["challenger"]) == ("1", "2", "2")
    judge_rollbacks(rollbacks, long=long)
    print(f"{len(switched)} switches, {len(answers):,} answers, none failed")


def refuse_all(operator, champion):
    """Everything that must be refused, and the champion that stays."""
    for path, body in (("/promote", {"version": OLD}), ("/rollback", {})):
        assert operator.post(path, body, token="wrong")[0] == 401
    for version, said in (("9.0.0-otherwise", "otherwise"), ("9.1.0-broken", "load"), ("nowhere", "no version")):
        reason = f"try {version}, number {len(operator.done)}"
        status, answer = operator.post("/promote", {"version": version, "reason": reason})
        assert status == (404 if version == "nowhere" else 409), answer
        assert said in answer["error"]["message"]
        operator.done.append(("promote", champion, version, reason, "refused"))
    reason = f"again, number {len(operator.done)}"
    code, _, errors = operator.shell("promote", champion, "--reason", reason)
    assert (code, "already" in errors) == (3, True)
    operator.done.append(("promote", champion, champion, reason, "refused"))


def judge_answers(answers, switched):
    """Whoever asked after a switch was reported as served, and before the next one was ordered, got its version."""
    starts = [begun for _, (_, begun, _) in switched[1:]] + [float("inf")]
    for (version, (_, _, reported)), until in zip(switched, starts, strict=True):
        between = [a.version for a in answers if reported < a.sent < until]
        assert set(between) <= {version}, f"{len(between) - between.count(version)} answers by another version"


def judge_trail(trail, done):
    found = [(e["action"], e["from"], e["to"], e["reason"], e["outcome"]) for e in reversed(trail)]
    assert found == done
    for entry in trail:
        assert entry["at"]
        assert entry["who"].startswith("operator@") == (entry["details"]["via"] == "http")
        assert "@" in entry["who"]


def judge_rollbacks(rollbacks, *, long):
    for way, served, whole in rollbacks:
        print(
            f"rollback by {way}: served by all workers {served:.2f} s after the aliases, {whole:.2f} s after the order"
        )
    if long:
        assert max(served for _, served, _ in rollbacks) <= MOST_SECONDS
        assert max(whole for way, _, whole in rollbacks if way == "http") <= MOST_SECONDS


def test_without_the_console_predictions_go_on_and_it_comes_back(example_data):
    with System(example_data, workers=1).running() as system:
        wait_for((example_data / "run" / "console.json").exists, "the console answers")
        first = system.pids()["console"]
        operator = Operator(system)
        with Load(system.url, rate=200.0, bodies=example_bodies(100)) as load:
            os.kill(first, 9)
            status, answer = operator.post("/rollback", {})
            assert (status, answer["error"]["code"]) == (503, "unavailable")
            wait_for(lambda: operator.post("/rollback", {})[0] == 409, "the console is back: nothing to roll back to")
        assert system.pids()["console"] != first
        document = json.loads(urlopen(f"{system.url}/openapi.json", timeout=10).read())
        assert {"/predict", "/promote", "/shadow/comparison"} <= set(document["paths"])
        token = (example_data / "operator-token").read_text().strip()
        said = system.output.read_text()
        assert str(example_data / "operator-token") in said
        assert token not in said
        assert system.stop() == 0
    assert load.failed == {}
