"""Drift in the monitor: told, recorded once, and no burden when something is wrong."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from tests.driftlogs import NUMBERS, STRINGS, RecordedLog, fold_of, put_reference, traffic
from typer.testing import CliRunner

from shadow_mlops.cli.app import app
from shadow_mlops.domain.errors import StateError, UnavailableError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.drift.alerts import Courier
from shadow_mlops.drift.livereport import without_values
from shadow_mlops.drift.livestate import read_state
from shadow_mlops.models.prepared import write_card
from shadow_mlops.monitor.drifting import Drifting
from shadow_mlops.monitor.drifttelling import DriftGauges
from shadow_mlops.processes.drifting import drift_told
from shadow_mlops.state import audit, episodes, open_state, outbox, upgrade
from shadow_mlops.telemetry.metrics import open_metrics


class Quiet:
    """Takes every alert."""

    def deliver(self, alert):
        """Nothing to do."""


class Monitor:
    """The drift part of a monitor, on a log that is read in pieces."""

    def __init__(self, data):
        self.data, self.log, self.now = data, RecordedLog(), 0.0
        self.state = open_state(f"sqlite:///{data / 'state.db'}")
        self.broken = None
        self.metrics = open_metrics()
        (data / "run").mkdir()
        self.begin()

    def begin(self):
        """As a new process would, which nothing was told by the old one."""
        path = self.data / "drift" / "live.state"

        def database():
            if self.broken is not None:
                raise self.broken
            upgrade(self.state)
            courier = Courier(self.state, {"log": Quiet(), "webhook": Quiet()})
            courier.start = lambda: None
            return self.state, courier

        self.drifting = Drifting(
            lambda: fold_of(self.log, self.data, read_state(path, deployment="d", bucket_us=1_000_000)), database,
            DriftGauges(self.metrics), state_path=path, word=self.data / "run" / "drift.json",
            lake=self.data / "lake", models=self.data / "models", clock=lambda: self.now,
        )  # fmt: skip

    def run(self, part=1.0):
        self.log.show(part)
        for _ in range(4):
            self.now += 100.0
            self.drifting.step()

    def series(self, name):
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}
        return {key: value for key, value in values.items() if not math.isnan(value)}


@pytest.fixture
def monitor(tmp_path):
    put_reference(tmp_path)
    monitor = Monitor(tmp_path)
    traffic(monitor.log, np.arange(0.0, 60.0, 0.5))
    traffic(monitor.log, np.arange(60.0, 180.0, 0.5), seed=2, age=1.5)
    return monitor


def test_the_newest_window_is_told_to_routes_and_to_prometheus(monitor):
    monitor.run()
    report = drift_told(monitor.data, with_values=True)
    assert (report.verdict, report.version) == ("retrain", "v1")
    assert [(each.feature, each.closed_at) for each in report.episodes] == [("age", None)]
    scores = {(score.feature, score.method): score.score for score in report.scores}
    assert monitor.series("drift_score")['drift_score{feature="age",method="psi"}'] == scores["age", "psi"]
    assert monitor.series("shadow_drift_episodes_open") == {"shadow_drift_episodes_open": 1.0}
    assert monitor.series("shadow_drift_failing") == {"shadow_drift_failing": 0.0}
    alarms = 'shadow_drift_alarms_total{feature="age"}'
    assert monitor.series(alarms)[alarms] == report.detector.alarms["age"]


def test_strangers_see_no_values(monitor):
    monitor.run()
    shown = msgspec.json.encode(drift_told(monitor.data, with_values=False))
    assert not any(each.encode() in shown for each in ("basic", "gold"))
    assert all(not feature["bins"] for feature in json.loads(shown)["features"])
    assert {score["feature"] for score in json.loads(shown)["scores"]} >= {"age", "plan"}
    assert b"gold" in msgspec.json.encode(drift_told(monitor.data, with_values=True))


def test_before_anybody_watches_it_is_said(tmp_path):
    with pytest.raises(UnavailableError, match="shadow up"):
        drift_told(tmp_path, with_values=False)


def test_processes_that_are_killed_before_they_save_record_and_count_nothing_twice(monitor):
    for part in np.linspace(0.3, 1, 8):
        monitor.run(part)
        saved = (monitor.data / "drift" / "live.state").read_bytes()
        monitor.run(min(part + 0.05, 1.0))
        (monitor.data / "drift" / "live.state").write_bytes(saved)  # what came after was lost with the process
        monitor.begin()
    monitor.run()
    assert [each.feature for each in episodes.recent(monitor.state, "d")] == ["age"]
    assert outbox.counts(monitor.state) == {("log", "pending"): 1, ("webhook", "pending"): 1}
    report = drift_told(monitor.data, with_values=True)
    alarms = 'shadow_drift_alarms_total{feature="age"}'
    assert monitor.series(alarms)[alarms] == report.detector.alarms["age"]


def test_a_database_that_is_down_delays_episodes_and_nothing_else(monitor):
    monitor.broken = StateError("the database is down")
    with capture_logs() as lines:
        monitor.run()
    assert [line["event"] for line in lines] == ["drift is not watched"]
    assert monitor.series("shadow_drift_failing") == {"shadow_drift_failing": 1.0}
    assert drift_told(monitor.data, with_values=True).verdict == "retrain", "scores are told all the same"
    assert not (monitor.data / "drift" / "live.state").exists(), "nothing is saved that is not recorded"
    monitor.broken = None
    monitor.run()
    assert [each.feature for each in episodes.recent(monitor.state, "d")] == ["age"]
    assert monitor.series("shadow_drift_failing") == {"shadow_drift_failing": 0.0}


def test_a_failure_is_told_once_and_the_fold_begins_again_from_what_was_saved(monitor):
    monitor.run(0.5)
    fold = monitor.drifting._fold
    fold.read = lambda *_: 1 / 0
    with capture_logs() as lines:
        for _ in range(2):
            monitor.now += 100
            monitor.drifting.step()
    assert [line["event"] for line in lines] == ["drift is not watched", "drift is watched again"]
    monitor.run()
    assert drift_told(monitor.data, with_values=True).current_rows == 360 * 20


def test_series_of_what_is_gone_go(monitor):
    put_reference(monitor.data, 2)
    for moment in np.arange(1.0, 60.0, 0.5):
        monitor.log.results(moment, [0.3, 0.6, 0.8])
    monitor.run()
    theirs = 'drift_score{feature="__score__:c",method="psi"}'
    assert theirs in monitor.series("drift_score")
    monitor.log.there["results/c"] = 0
    traffic(monitor.log, np.arange(180.0, 190.0, 0.5), seed=3)
    for _ in range(4):
        monitor.now += 100.0
        monitor.drifting.step()
    assert theirs not in monitor.series("drift_score")


@pytest.fixture
def served(monitor, monkeypatch):
    """The data directory of a champion, and a command line for it."""
    features = [Feature(name) for name in NUMBERS] + [Feature(name, "string") for name in STRINGS]
    card = ModelCard(
        name="m", version="v1", registry_version="1", task="binary", runtime="onnx", file="model.onnx", sha256="",
        signature=Signature(tuple(features)), classes=("0", "1"),
    )  # fmt: skip
    write_card(monitor.data / "models" / "m" / "1", card)
    (monitor.data / "serving.json").write_text(
        json.dumps({"generation": 1, "published_at": "", "champion": "models/m/1"})
    )
    monkeypatch.chdir(monitor.data)
    monkeypatch.setenv("COLUMNS", "120")
    return monitor


def command(*arguments, data):
    return CliRunner().invoke(app, ["drift", *arguments, "--data-dir", str(data)])


def test_watch_shows_the_window_once_where_nobody_sits_before_it(served):
    served.run()
    done = command("watch", data=served.data)
    assert done.exit_code == 0, done.output
    assert "drifting" in done.output
    assert next(line for line in done.output.splitlines() if "feature" in line and "PSI" in line)
    assert done.output.index("age") < done.output.index("income"), "what moved most comes first"
    told = json.loads(command("watch", "--format", "json", data=served.data).output)
    assert told["verdict"] == "retrain"


def test_a_baseline_is_set_told_and_cleared_and_the_trail_says_who(served):
    rows = "age,income,plan,customer\n" + "".join(f"{1.5 + i % 7 / 10},{i % 5},basic,c{i}\n" for i in range(500))
    (served.data / "rows.csv").write_text(rows)
    assert "no baseline" in command("baseline", data=served.data).output
    done = command("baseline", "--from", "rows.csv", "--reason", "a good week", data=served.data)
    assert done.exit_code == 0, done.output
    assert "500 rows" in done.output
    assert "a good week" in command("baseline", data=served.data).output
    served.run()
    report = drift_told(served.data, with_values=True)
    assert report.reference_in_force.kind == "baseline"
    assert {feature.name for feature in report.features} == {"age", "income", "plan", "__score__"}
    assert command("baseline", "clear", data=served.data).exit_code == 0
    trail = audit.entries(served.state).entries
    assert [(each.action, each.outcome, each.reason) for each in trail] == [
        ("drift_baseline_clear", "done", ""),
        ("drift_baseline", "done", "a good week"),
    ]
    assert trail[1].details["from"] == "rows.csv"
    assert trail[1].who


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "nothing.csv"], "nothing.csv"),
        (["--from", "rows.csv", "--since", "7d"], "either"),
        (["--until", "1h"], "--since"),
        (["--from", "other.csv"], "no feature of m v1"),
        (["--from", "kinds.csv"], "age is a number"),
    ],
)
def test_a_wrong_baseline_is_one_line_and_changes_nothing(served, arguments, said):
    (served.data / "rows.csv").write_text("age\n1\n")
    (served.data / "other.csv").write_text("x\n1\n2\n")
    (served.data / "kinds.csv").write_text("age\nold\nyoung\n")
    done = command("baseline", *arguments, data=served.data)
    assert said in str(done.exception)
    assert not (served.data / "drift" / "baseline.json").exists()


def test_a_report_without_values_keeps_what_is_no_value(monitor):
    monitor.run()
    report = drift_told(monitor.data, with_values=True)
    plain = without_values(report)
    assert plain.scores == report.scores
    assert plain.detector == report.detector
