"""What a trigger sets going: run once to its end whoever is killed, told under one key, secrets told to nobody."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs
from tests.webhook import Webhook

from shadow_mlops.retraining import child
from shadow_mlops.retraining.actions import GithubAction, Limits, WebhookAction
from shadow_mlops.retraining.commands import CommandAction
from shadow_mlops.retraining.records import is_alive, read_record
from shadow_mlops.retraining.running import Runner
from shadow_mlops.state import audit, open_state, triggers, upgrade
from shadow_mlops.state.database import transaction
from system import free_port, wait_for

KEY = "retrain-0123456789abcdef"
REASON = "drift in 3 checks in a row: tenure PSI 0.41 (above 0.3); window of 1,000 rows"
QUICK = Limits(attempts=3, first_pause=10.0, longest_pause=15.0)


@pytest.fixture
def state(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


def fire(state, key=KEY):
    with transaction(state) as connection:
        triggers.add(
            connection, key=key, deployment="churn", cause="drift", who="drift", fired_at="2026-01-08T00:00:00.000Z",
            reason=REASON, details={"version": "1", "features": ["tenure"]},
        )  # fmt: skip


class Bench:
    """A runner that a test turns by hand, on a clock of its own."""

    def __init__(self, state, action):
        self.state, self.now, self.told = state, 100.0, []
        self.runner = Runner(state, "churn", action, told=self.told.append, clock=lambda: self.now)

    def turn(self, seconds=0.0):
        self.now += seconds
        return self.runner.round()

    @property
    def trigger(self):
        return triggers.recent(self.state, "churn")[0]


def shell(folder, script, **more):
    return CommandAction(["sh", "-c", script], folder / "retraining", **{"limits": QUICK, **more})


def test_a_command_has_the_monitors_environment(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///r.db")
    fire(state)
    script = 'echo "$PROMETHEUS_MULTIPROC_DIR|$MLFLOW_TRACKING_URI|$DATA_DIR"'
    others = Bench(state, shell(tmp_path, script, environment={"DATA_DIR": "/here"}))
    others.turn()
    log = tmp_path / "retraining" / f"{KEY}.log"
    assert log.read_text() == "|sqlite:///r.db|/here\n", "the monitor's environment, without what is its own"


def test_a_command_knows_why_it_runs(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fire(state)
    bench = Bench(state, shell(tmp_path, 'echo "$SHADOW_RETRAIN_KEY|$SHADOW_DEPLOYMENT|$SHADOW_RETRAIN_REASON"; pwd'))
    assert bench.turn() == 0.0
    assert bench.turn() > 0
    assert (tmp_path / "retraining" / f"{KEY}.log").read_text() == f"{KEY}|churn|{REASON}\n{tmp_path}\n"
    assert (bench.trigger.state, bench.trigger.attempts, bench.trigger.details["exit_code"]) == ("done", 1, 0)
    assert bench.told == ["started", "done"]
    (entry,) = audit.entries(state).entries
    assert (entry.action, entry.who, entry.model, entry.reason, entry.outcome) == (
        "retrain", "drift", "churn", REASON, "done",
    )  # fmt: skip
    assert entry.details["trigger"] == KEY


def test_a_refusal_survives_make_which_has_no_exit_code_for_it(state, tmp_path):
    (tmp_path / "Makefile").write_text('retrain:\n\t@echo 12 labels are too few >"$$SHADOW_RETRAIN_REFUSED"; exit 75\n')
    fire(state)
    bench = Bench(state, shell(tmp_path, f"exec make -C {tmp_path} retrain"))
    bench.turn()
    assert (bench.trigger.state, bench.trigger.attempts) == ("refused", 1)
    assert bench.trigger.problem == "12 labels are too few"


def test_a_reason_of_an_attempt_before_refuses_no_later_one(state, tmp_path):
    fire(state)
    once = (
        f'test -e {tmp_path}/again && exit 3; touch {tmp_path}/again; echo no >"$SHADOW_RETRAIN_REFUSED"; kill -9 $PPID'
    )
    bench = Bench(state, shell(tmp_path, once))
    bench.turn()
    assert bench.trigger.state == "pending"  # whoever ran it was killed: nothing is known of that attempt
    bench.turn(60)
    assert "exit code 3" in bench.trigger.problem


def test_a_command_that_refuses_is_not_tried_again(state, tmp_path):
    fire(state)
    bench = Bench(state, shell(tmp_path, "exit 75"))
    bench.turn()
    bench.turn(1e6)
    assert (bench.trigger.state, bench.trigger.attempts) == ("refused", 1)
    assert "75" in bench.trigger.problem
    assert [entry.outcome for entry in audit.entries(state).entries] == ["refused"]


def test_a_command_that_fails_is_tried_again_later_and_given_up_at_last(state, tmp_path):
    fire(state)
    bench = Bench(state, shell(tmp_path, "echo tried; exit 3"))
    bench.turn()
    assert bench.turn() == pytest.approx(5.0, abs=5.0)
    assert (bench.trigger.state, bench.trigger.attempts, bench.trigger.problem) == ("pending", 1, "exit code 3")
    bench.turn(9.0)
    assert bench.trigger.attempts == 1, "not before its time"
    bench.turn(1.1)
    bench.turn(14.9)
    assert bench.trigger.attempts == 2, "the pause has grown, to its bound"
    bench.turn(0.2)
    bench.turn(1e6)
    assert (bench.trigger.state, bench.trigger.attempts) == ("failed", 3)
    assert (tmp_path / "retraining" / f"{KEY}.log").read_text() == "tried\n" * 3
    assert bench.told == ["started", "retried"] * 2 + ["started", "failed"]
    told = [(entry.outcome, entry.details["trigger"]) for entry in audit.entries(state).entries]
    assert told == [("failed", KEY)] * 3


@pytest.mark.parametrize(
    ("command", "problem"), [(["/no/such/program"], "cannot be started"), (["sh", "-c", "kill -9 $$"], "signal 9")]
)
def test_how_a_command_could_not_end_well_is_told(state, tmp_path, command, problem):
    fire(state)
    bench = Bench(state, CommandAction(command, tmp_path / "retraining"))
    bench.turn()
    assert problem in bench.trigger.problem
    assert bench.trigger.state == "pending"


def test_what_takes_too_long_is_killed_with_all_that_it_has_started(state, tmp_path):
    fire(state)
    pids = tmp_path / "pids"
    bench = Bench(state, shell(tmp_path, f"sleep 1000 & echo $! $$ > {pids}; wait", timeout=0.5))
    bench.turn()
    assert "longer than 0.5 s" in bench.trigger.problem
    assert bench.trigger.details["exit_code"] == child.TIMED_OUT
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()), "they end", 10)


def test_triggers_run_one_after_the_other(state, tmp_path):
    fire(state, "first")
    fire(state, "second")
    bench = Bench(state, shell(tmp_path, f'echo "begin $SHADOW_RETRAIN_KEY" >> {tmp_path}/o; echo end >> {tmp_path}/o'))
    bench.turn()
    bench.turn()
    assert (tmp_path / "o").read_text().split() == ["begin", "first", "end", "begin", "second", "end"]


def test_another_action_does_not_run_what_a_command_has_begun(state, tmp_path):
    fire(state)
    assert triggers.claim(state, "churn", action="command").attempts == 1
    bench = Bench(state, WebhookAction("http://127.0.0.1:9/x"))
    bench.turn()
    assert bench.trigger.state == "failed"
    assert "command to webhook" in bench.trigger.problem


_MONITOR = """
import sys
from pathlib import Path
from shadow_mlops.retraining.commands import CommandAction
from shadow_mlops.retraining.running import Runner
from shadow_mlops.state import open_state
folder = Path(sys.argv[1])
action = CommandAction(["sh", "-c", sys.argv[2]], folder / "retraining")
runner = Runner(open_state("sqlite:///" + str(folder / "state.db")), "churn", action)
print("ready", flush=True)
while True:
    runner.round()
"""


def monitor(folder, script):
    return subprocess.Popen([sys.executable, "-c", _MONITOR, str(folder), script], stdout=subprocess.PIPE)


def waiting_script(folder):
    """Says that it begins, waits for a file, says that it ends."""
    return f"echo begin >> {folder}/runs; while [ ! -e {folder}/go ]; do sleep 0.05; done; echo end >> {folder}/runs"


def lines(path: Path):
    return path.read_text().split() if path.exists() else []


def test_a_monitor_that_is_killed_half_way_finds_its_command_again(state, tmp_path):
    fire(state)
    script = waiting_script(tmp_path)
    first = monitor(tmp_path, script)
    wait_for(lambda: lines(tmp_path / "runs") == ["begin"], "the command begins")
    first.kill()
    first.communicate()
    bench = Bench(state, shell(tmp_path, script))
    turning = threading.Thread(target=bench.turn)
    turning.start()
    wait_for(lambda: bench.told == ["started"], "the new monitor looks")
    (tmp_path / "go").touch()
    turning.join(30)
    assert lines(tmp_path / "runs") == ["begin", "end"]
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 1)
    assert [entry.outcome for entry in audit.entries(state).entries] == ["done"]


def test_a_monitor_that_was_away_when_the_command_ended_learns_how(state, tmp_path):
    fire(state)
    script = waiting_script(tmp_path) + "; exit 75"
    first = monitor(tmp_path, script)
    wait_for(lambda: lines(tmp_path / "runs") == ["begin"], "the command begins")
    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    wait_for(lambda: read_record(tmp_path / "retraining", KEY).exit_code == 75, "its exit code is written")
    bench = Bench(state, shell(tmp_path, script))
    bench.turn()
    assert lines(tmp_path / "runs") == ["begin", "end"]
    assert bench.trigger.state == "refused"


def test_killed_at_any_moment_the_command_runs_once(state, tmp_path):
    rng = random.Random(7)
    script = f"echo begin >> {tmp_path}/runs; sleep 0.6; echo end >> {tmp_path}/runs"
    fire(state)
    for _ in range(4):
        process = monitor(tmp_path, script)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.3))  # a moment of chance, nothing is asserted of it
        process.kill()
        process.communicate()
    bench = Bench(state, shell(tmp_path, script))
    bench.turn()
    assert lines(tmp_path / "runs") == ["begin", "end"]
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 1)


def test_an_attempt_is_begun_once_however_often_it_is_started(tmp_path):
    command = [
        sys.executable,
        "-m",
        child.__name__,
        str(tmp_path),
        KEY,
        "1",
        "60",
        "sh",
        "-c",
        f"echo x >> {tmp_path}/runs",
    ]
    together = [subprocess.Popen(command) for _ in range(4)]
    assert {process.wait() for process in together} <= {0, child.BUSY}
    assert subprocess.run(command, check=False).returncode == 0
    assert lines(tmp_path / "runs") == ["x"]
    assert read_record(tmp_path, KEY).exit_code == 0


def test_a_command_whose_wrapper_is_killed_has_no_second_one_beside_it(state, tmp_path):
    fire(state)
    script = waiting_script(tmp_path)
    bench = Bench(state, shell(tmp_path, script))
    turning = threading.Thread(target=bench.turn)
    turning.start()
    wait_for(lambda: (read := read_record(tmp_path / "retraining", KEY)) is not None and read.command, "it is recorded")
    wait_for(lambda: lines(tmp_path / "runs") == ["begin"], "the command begins")
    record = read_record(tmp_path / "retraining", KEY)
    os.kill(record.wrapper.pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(record.wrapper), "the wrapper has gone")
    assert turning.is_alive(), "the command lives and is waited for"
    assert is_alive(record.command)
    (tmp_path / "go").touch()
    turning.join(30)
    assert lines(tmp_path / "runs") == ["begin", "end"]
    assert (bench.trigger.state, bench.trigger.attempts) == ("pending", 1)
    assert "no exit code" in bench.trigger.problem
    bench.turn(1e6)
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 2)


def test_a_late_command_without_a_wrapper_is_killed_by_the_monitor(state, tmp_path, monkeypatch):
    from shadow_mlops.retraining import commands

    monkeypatch.setattr(commands, "_OVERDUE_SECONDS", -60.0)  # late at once, for the monitor only
    fire(state)
    bench = Bench(state, shell(tmp_path, waiting_script(tmp_path), timeout=60.0))
    turning = threading.Thread(target=bench.turn)
    turning.start()
    record = wait_for(
        lambda: (read := read_record(tmp_path / "retraining", KEY)) is not None and read.command and read, "it runs"
    )
    os.kill(record.wrapper.pid, signal.SIGKILL)
    turning.join(30)
    assert not is_alive(record.command)
    assert "no exit code" in bench.trigger.problem


def test_a_monitor_that_ends_leaves_its_command_running(state, tmp_path):
    fire(state)
    script = waiting_script(tmp_path)
    runner = Runner(state, "churn", shell(tmp_path, script))
    runner.start()
    wait_for(lambda: lines(tmp_path / "runs") == ["begin"], "the command begins")
    runner.close()
    bench = Bench(state, shell(tmp_path, script))
    assert bench.trigger.state == "running"
    (tmp_path / "go").touch()
    bench.turn()
    assert lines(tmp_path / "runs") == ["begin", "end"]
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 1)


def test_a_wrapper_that_is_asked_to_end_ends_its_command(state, tmp_path):
    fire(state)
    bench = Bench(state, shell(tmp_path, waiting_script(tmp_path)))
    turning = threading.Thread(target=bench.turn)
    turning.start()
    wait_for(lambda: lines(tmp_path / "runs") == ["begin"], "the command begins")
    record = wait_for(lambda: (read := read_record(tmp_path / "retraining", KEY)).command and read, "it is recorded")
    os.kill(record.wrapper.pid, signal.SIGTERM)
    turning.join(30)
    assert not is_alive(record.command)
    assert bench.trigger.details["exit_code"] == child.TERMINATED


def test_a_dead_webhook_gets_the_same_key_when_it_is_back(state):
    port = free_port()
    fire(state)
    bench = Bench(state, WebhookAction(f"http://127.0.0.1:{port}/hook?secret=s3cret", limits=QUICK))
    with capture_logs() as told:
        bench.turn()
    assert (bench.trigger.state, bench.trigger.attempts) == ("pending", 1)
    webhook = Webhook(answers=[(503, {}, b"not yet"), (204, {}, b"")])
    with webhook.running():
        bench.runner._action._url = f"{webhook.url}/hook?secret=s3cret"
        bench.turn(10.1)
        bench.turn(15.1)
        bench.turn(1e6)
    assert [taken.key for taken in webhook.taken] == [KEY, KEY]
    assert webhook.taken[0].body == webhook.taken[1].body
    assert webhook.taken[0].body["features"] == ["tenure"]
    assert webhook.taken[0].body["reason"] == REASON
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 3)
    everything = str(told) + str(audit.entries(state)) + str(bench.trigger) + bench.runner._action.shown
    assert "s3cret" not in everything
    assert f"http://127.0.0.1:{port}" in everything


def test_a_webhook_that_was_told_when_the_monitor_died_is_told_again_under_its_key(state):
    fire(state)
    with Webhook().running() as webhook:
        trigger = triggers.claim(state, "churn", action="webhook")
        WebhookAction(webhook.url).run(trigger, threading.Event())  # and the process dies before it can record it
        bench = Bench(state, WebhookAction(webhook.url))
        bench.turn()
    assert [taken.key for taken in webhook.taken] == [KEY, KEY]
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 1)


@pytest.fixture
def github():
    """What GitHub would have been sent."""
    taken, statuses = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken.append((self.path, dict(self.headers), body))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *args):
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def test_github_gets_a_dispatch_with_the_token_that_nobody_else_sees(state, github, caplog):
    url, taken, statuses = github
    statuses += [401]
    fire(state)
    bench = Bench(state, GithubAction("ada/churn", "ghp_s3cret", api=url, limits=QUICK))
    with caplog.at_level("DEBUG"), capture_logs() as told:
        bench.turn()
        bench.turn(10.1)
    path, headers, body = taken[1]
    assert path == "/repos/ada/churn/dispatches"
    assert headers["Authorization"] == "Bearer ghp_s3cret"
    assert headers["Accept"] == "application/vnd.github+json"
    assert body == {
        "event_type": "shadow-retrain",
        "client_payload": {"key": KEY, "reason": REASON, "deployment": "churn", "features": ["tenure"]},
    }
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 2)
    failed = audit.entries(state).entries[-1]
    assert "answered 401" in failed.details["problem"]
    everything = caplog.text + str(told) + str(audit.entries(state)) + str(bench.trigger) + bench.runner._action.shown
    assert "s3cret" not in everything


def test_github_without_a_token_says_so_at_once(state, github):
    url, taken, _ = github
    fire(state)
    bench = Bench(state, GithubAction("ada/churn", "", api=url))
    bench.turn()
    assert (bench.trigger.state, bench.trigger.problem) == ("failed", "GITHUB_TOKEN is not set")
    assert taken == []


def test_a_database_that_is_away_loses_no_trigger(state, tmp_path):
    fire(state)
    bench = Bench(state, shell(tmp_path, f"echo x >> {tmp_path}/runs"))
    failing = iter([True, False])

    def conclude(*given, **more):
        if next(failing):
            raise triggers.StateError("away")
        return genuine(*given, **more)

    genuine, triggers.conclude = triggers.conclude, conclude
    try:
        with pytest.raises(triggers.StateError):
            bench.turn()
        bench.turn()
    finally:
        triggers.conclude = genuine
    assert lines(tmp_path / "runs") == ["x"]
    assert (bench.trigger.state, bench.trigger.attempts) == ("done", 1)
