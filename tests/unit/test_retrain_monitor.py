"""The monitor's part of retraining: each report is taken in once, what fired is run, and failures stop nothing else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs
from tests.driftlogs import RecordedLog, fold_of, put_reference, traffic

from retrainchecks import DAY_US, report, rule
from shadow_mlops.deployment import load_deployment, parse_deployment
from shadow_mlops.domain.errors import SettingsError, StateError
from shadow_mlops.drift.livereport import ReferenceInForce
from shadow_mlops.drift.livereporting import live_report
from shadow_mlops.drift.livestate import read_state
from shadow_mlops.durable import replace_durably
from shadow_mlops.monitor.retraining import Retraining
from shadow_mlops.processes.retraining import action_of, open_orders, open_retraining
from shadow_mlops.processes.rollout import state_of
from shadow_mlops.processes.settings import load_settings
from shadow_mlops.processes.spawn import start
from shadow_mlops.retraining.recording import watched
from shadow_mlops.state import open_state, triggers, upgrade
from shadow_mlops.telemetry.metrics import merged_samples, open_metrics
from system import wait_for


class Runner:
    """Only notes that it is woken."""

    def __init__(self):
        self.told = []

    def start(self):
        self.told.append("start")

    def wake(self):
        self.told.append("wake")

    def close(self):
        self.told.append("close")


class Bench:
    def __init__(self, folder, **changes):
        self.now, self.reports, self.broken = 0.0, [], None
        self.state = open_state(f"sqlite:///{folder / 'state.db'}")
        self.metrics, self.rule = open_metrics(), rule(**changes)
        self.begin()

    def begin(self):
        self.runner = Runner()
        self.retraining = Retraining(
            lambda: self.reports.pop(0) if self.reports else None,
            self.database,
            self.rule,
            self.metrics,
            clock=lambda: self.now,
        )

    def database(self):
        if self.broken is not None:
            raise self.broken
        upgrade(self.state)
        return self.state, self.runner

    def see(self, *reports):
        self.reports += reports
        for _ in range(len(reports) + 1):
            self.now += 10.0
            self.retraining.step()

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_drift_in_three_checks_is_a_trigger_that_the_runner_is_woken_for(bench):
    with capture_logs() as told:
        bench.see(*[report(1 + step / 10) for step in range(25)])
        assert bench.runner.told == ["start", "wake"]
        bench.see(*[report(4 + step / 10) for step in range(25)])
    (trigger,) = triggers.recent(bench.state, "churn")
    assert trigger.fired_at == "2026-01-08T00:00:00.000Z"
    assert [line["trigger"] for line in told if line["event"] == "retraining is triggered"] == [trigger.key]
    assert bench.value("shadow_retrain_triggers_total", kind="drift") == 1
    assert bench.value("shadow_retrain_triggers_total", kind="suppressed") == 0
    assert bench.value("shadow_retrain_failing") == 0
    bench.retraining.close()
    assert bench.runner.told[-1] == "close"


def test_a_new_monitor_goes_on_where_the_old_one_was(bench):
    bench.see(report(1), report(2))
    bench.begin()
    bench.see(report(2), report(2.5))
    assert triggers.recent(bench.state, "churn") == ()
    bench.see(report(3))
    bench.begin()
    bench.see(report(3), report(4), report(5))
    assert len(triggers.recent(bench.state, "churn")) == 1


def test_what_is_held_back_is_told_once_and_counted(tmp_path):
    bench = Bench(tmp_path, windows=1, cool_down_us=3 * DAY_US)
    with capture_logs() as told:
        bench.see(report(1), report(2, 0.01), report(3), report(3.5))
        bench.see(report(4))
    held = [line for line in told if line["event"] == "retraining is held back"]
    assert [line["held_back"] for line in held] == ["cool-down until 2026-01-09T00:00:00.000Z"]
    assert bench.value("shadow_retrain_triggers_total", kind="suppressed") == 1
    assert bench.value("shadow_retrain_triggers_total", kind="drift") == 2


def test_a_new_reference_ends_the_episode(tmp_path):
    bench = Bench(tmp_path, windows=1, cool_down_us=0, daily_budget=9)
    new = ReferenceInForce(kind="version", id="b", version="2")
    bench.see(report(1), report(2), report(3, version="2", reference_in_force=new))
    assert [each.details["reference"] for each in triggers.recent(bench.state, "churn")] == ["b", "a"]


def test_a_database_that_is_away_is_told_once_and_the_check_is_made_when_it_is_back(bench):
    bench.broken = StateError("away")
    with capture_logs() as told:
        bench.see(report(1))
        bench.see()
    assert len([line for line in told if line["log_level"] == "error"]) == 1
    assert bench.value("shadow_retrain_failing") == 1
    bench.broken = None
    bench.see()
    assert bench.value("shadow_retrain_failing") == 0
    bench.see(report(2), report(3))
    assert len(triggers.recent(bench.state, "churn")) == 1, "the first report was not lost"


def test_a_check_that_could_not_be_recorded_is_recorded_later(bench, monkeypatch):
    from shadow_mlops.monitor import retraining

    bench.see(report(1), report(2))
    genuine = retraining.record
    monkeypatch.setattr(retraining, "record", lambda *_: (_ for _ in ()).throw(StateError("away")))
    bench.see(report(3))
    assert bench.value("shadow_retrain_failing") == 1
    monkeypatch.setattr(retraining, "record", genuine)
    bench.see()
    assert len(triggers.recent(bench.state, "churn")) == 1


def wired(tmp_path, action):
    settings = load_settings(data_dir=tmp_path, drift_check_interval_hours=24, github_token="ghp_s3cret")
    deployment = parse_deployment(f"name: churn\nretrain: {{windows: 1, action: {action}}}\n")
    return settings, deployment


def test_from_the_published_report_to_the_command_that_ran(tmp_path):
    settings, deployment = wired(tmp_path, "{command: [sh, -c, 'echo $SHADOW_RETRAIN_KEY']}")
    state, metrics = open_state(f"sqlite:///{tmp_path / 'state.db'}"), open_metrics()
    retraining = open_retraining(settings, deployment, state, metrics)
    retraining.step()
    replace_durably(tmp_path / "run" / "drift.json", msgspec.json.encode(report(1)))
    retraining._next = 0.0
    retraining.step()
    (trigger,) = triggers.recent(state, "churn")
    wait_for(lambda: triggers.recent(state, "churn")[0].state == "done", "the command has run", 30)
    value = metrics.registry.get_sample_value
    wait_for(lambda: value("shadow_retrain_runs_total", {"result": "done"}), "it is counted")
    assert metrics.registry.get_sample_value("shadow_retrain_running") == 0
    retraining.close()
    assert (tmp_path / "retraining" / f"{trigger.key}.log").read_text() == f"{trigger.key}\n"
    ordered = open_orders(settings, deployment, state).order(who="ada", reason="again")
    assert ordered.action == "sh -c 'echo $SHADOW_RETRAIN_KEY'"


def test_the_file_names_the_action_and_without_one_nothing_is_watched(tmp_path):
    settings, deployment = wired(tmp_path, "{}")
    assert open_retraining(settings, deployment, open_state("sqlite://"), open_metrics()) is None
    shown = action_of(*wired(tmp_path, "{github: ada/churn}")).shown
    assert shown == "repository_dispatch shadow-retrain to ada/churn at https://api.github.com"
    assert action_of(*wired(tmp_path, "{webhook: 'https://u:p@h:8/x?t=1'}")).shown == "POST to https://h:8"
    for wrong in ("api.github.com", "https://", "https://h:99999"):
        with pytest.raises(SettingsError, match="GITHUB_API_URL"):
            load_settings(github_api_url=wrong)


def test_a_real_monitor_that_is_killed_runs_the_command_once(tmp_path):
    script = (
        f"echo begin >> {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo end >> {tmp_path}/runs"
    )
    (tmp_path / "shadow.yaml").write_text(f"name: churn\nretrain: {{action: {{command: [sh, -c, '{script}']}}}}\n")
    settings = load_settings(data_dir=tmp_path / "data", deployment_file=tmp_path / "shadow.yaml")
    state = state_of(settings)
    key = open_orders(settings, load_deployment(settings.deployment_file), state).order(who="ada", reason="prices").key
    first = start("shadow_mlops.processes.monitor", settings)
    second = None
    try:
        wait_for((tmp_path / "runs").exists, "the command begins")
        first.kill()
        first.wait()
        assert triggers.recent(state, "churn")[0].state == "running"
        second = start("shadow_mlops.processes.monitor", settings)
        wait_for((tmp_path / "data" / "run" / "drift.json").exists, "the new monitor works")
        (tmp_path / "go").touch()
        wait_for(lambda: triggers.recent(state, "churn")[0].state == "done", "it is done")
    finally:
        (tmp_path / "go").touch()
        for process in (first, second):
            if process is not None:
                process.terminate()
                process.wait(30)
    (found,) = triggers.recent(state, "churn")
    assert (found.key, found.attempts, found.who) == (key, 1, "ada")
    assert (tmp_path / "runs").read_text().split() == ["begin", "end"]
    samples = merged_samples(settings.data_dir / "run" / "metrics")
    assert samples["shadow_retrain_triggers_total", (("kind", "person"),)] == 1
    assert samples["shadow_retrain_running", ()] == 0


@pytest.mark.parametrize(("age", "fired"), [(0.0, 0), (1.5, 1)])
def test_live_drift_of_recorded_traffic_fires_once_and_quiet_traffic_never(tmp_path, age, fired):
    put_reference(tmp_path)
    log = RecordedLog()
    traffic(log, np.arange(0.0, 60.0, 0.5))
    traffic(log, np.arange(60.0, 300.0, 0.5), seed=2, age=age)
    fold = fold_of(log, tmp_path, read_state(tmp_path / "none", deployment="d", bucket_us=1_000_000))
    bench = Bench(tmp_path, interval_us=10_000_000, deployment="d")
    for part in np.linspace(0.1, 1.0, 25):
        log.show(part)
        fold.read()
        bench.see(live_report(fold, created=""))
    fold.close()
    found = triggers.recent(bench.state, "d")
    assert len(found) == fired
    assert all(each.details["features"] == ["age"] and each.details["version"] == "v1" for each in found)
    assert (watched(bench.state, "d").episode is not None) == bool(fired)
