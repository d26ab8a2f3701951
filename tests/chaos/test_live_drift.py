"""Drift under way: seen in the right features, told once to a receiver that dies, the same after ``kill -9``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.drift.clock import Birth
from shadow_mlops.drift.live import LiveFold, watching_of
from shadow_mlops.drift.livereport import LiveDrift
from shadow_mlops.drift.livereporting import live_report
from shadow_mlops.drift.livestate import LiveState
from shadow_mlops.drift.references import References
from shadow_mlops.eventlog.layout import segment_header
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.example.generator import DRIFT_FEATURES
from shadow_mlops.models.reference import SCORE
from shadow_mlops.processes.drifting import drift_told
from shadow_mlops.state import episodes, open_state
from system import ROOT, System, free_port, get, wait_for

pytestmark = pytest.mark.chaos

SHADOW = str(Path(sys.executable).with_name("shadow"))
RATE, BEFORE, AFTER = 200, 1600, 4600
MOVED = {*DRIFT_FEATURES, SCORE}
DRIFT = "drift: {bucket: 1s, run_length: 1000s, window: {hours: 0.01, min_rows: 300}}\n"


@contextlib.contextmanager
def receiver(file: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.webhook", str(file), str(port)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told(system: System) -> dict[str, Any]:
    status, body = get(f"{system.url}/drift")
    return json.loads(body) if status == 200 else {}


def rows_read(system: System) -> int:
    window = told(system).get("window")
    return window["rows"] if window else 0


def open_features(system: System) -> set[str]:
    return {each["feature"] for each in told(system).get("episodes", []) if each["closed_at"] is None}


def kill_monitor(system: System) -> None:
    before = system.pids()["monitor"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: system.pids().get("monitor", before) != before, "the monitor does not come back")


def folded_again(data: Path, deployment_file: Path) -> LiveFold:
    """The same log, folded from its beginning in this process."""
    deployment = load_deployment(deployment_file)
    watching = watching_of(deployment, psi=0.3)

    def birth(segment: int) -> Birth | None:
        header = segment_header(data / "log", EVENTS, segment)
        return None if header is None else Birth(header.name.created_ns, header.created_us)

    fold = LiveFold(
        SegmentLog(data / "log"),
        watching,
        References(data),
        LiveState(deployment=deployment.name, bucket_us=watching.bucket_us),
        task=deployment.task,
        birth=birth,
        now=lambda: (2**62, 0),
    )
    while fold.read(777):
        continue
    fold.read()
    return fold


def test_each_drifted_feature_is_one_episode_told_once_whatever_is_killed(example_data: Path, tmp_path: Path):
    port, deliveries = free_port(), tmp_path / "deliveries"
    system = System(example_data, environment={"ALERT_WEBHOOK_URL": f"http://127.0.0.1:{port}/s3cret"})
    text = system.deployment_file.read_text()
    system.deployment_file.write_text("".join(x for x in text.splitlines(True) if not x.startswith("drift:")) + DRIFT)
    traffic = [
        SHADOW, "traffic", "--url", system.url, "--example", "churn", "--rate", str(RATE), "--label-delay", "1",
    ]  # fmt: skip
    with system.running(), contextlib.ExitStack() as stack:
        first = stack.enter_context(receiver(deliveries, port))
        subprocess.run([*traffic, "--count", str(BEFORE)], stdout=subprocess.DEVNULL, cwd=tmp_path, check=True)
        wait_for(lambda: rows_read(system) > BEFORE - 2 * RATE, "no window is told")
        calm = told(system)
        assert (calm["verdict"], calm["episodes"], calm["version"]) == ("none", [], "2.1.0")
        drifting = [*traffic, "--count", str(AFTER), "--drift-at", str(RATE), "--format", "json"]
        sending = stack.enter_context(subprocess.Popen(drifting, stdout=subprocess.PIPE, cwd=tmp_path))
        kill_monitor(system)
        first.kill()  # nobody takes the first alerts
        wait_for(lambda: open_features(system), "no episode opens")
        retried = lambda: system.total("shadow_alert_deliveries_total", kind="webhook", result="retried")  # noqa: E731
        wait_for(retried, "no delivery was tried")
        kill_monitor(system)
        stack.enter_context(receiver(deliveries, port))
        wait_for(lambda: open_features(system) == MOVED, f"other features than {MOVED} drift", 40)
        kill_monitor(system)
        assert json.loads(sending.communicate(timeout=60)[0])["ok"] == AFTER
        wait_for(lambda: told(system)["error_rate"]["labelled"] > 1000, "labels do not count", 70)
        # What is alive publishes at its own pace: it is compared once every pair is in the log and told.
        wait_for(lambda: not system.total("shadow_lag_events"), "the challenger does not catch up", 60)
        last = live_report(folded_again(system.data, system.deployment_file), created="")
        wait_for(lambda: told(system)["window"]["until"] == last.window.until, "the last bucket is not told")
        shadowed = [each.rows for each in last.challengers]
        wait_for(lambda: [each["rows"] for each in told(system)["challengers"]] == shadowed, "pairs are not told")
        scores = {
            (dict(labels)["feature"], dict(labels)["method"]): value
            for (name, labels), value in system.metrics().items()
            if name == "drift_score"
        }
        wait_for(lambda: not system.total("shadow_alerts_waiting"), "alerts are not delivered")
        live = drift_told(system.data, with_values=True)

    over = {feature for (feature, method), score in scores.items() if method == "js" and score > 0.1}
    assert over - {f"{SCORE}:challenger"} == MOVED
    assert (f"{SCORE}:challenger", "psi") in scores

    recorded = episodes.recent(open_state(f"sqlite:///{example_data / 'state.db'}"), "churn", 100)
    assert Counter(each.feature for each in recorded) == Counter(MOVED)
    taken = [json.loads(line) for line in deliveries.read_text().splitlines()]
    assert {each["key"] for each in taken} == {f"{each.key}-opened" for each in recorded}
    assert {each["body"]["feature"] for each in taken} == MOVED

    again = folded_again(example_data, system.deployment_file)
    assert {change.key for change in again.changes} == {each.key for each in recorded}
    assert_same(live, live_report(again, created=""))
    assert "s3cret" not in system.output.read_text()


def assert_same(live: LiveDrift, again: LiveDrift) -> None:
    for name in ("verdict", "reason", "scores", "features", "window", "detector", "reference_in_force", "challengers"):
        assert getattr(live, name) == getattr(again, name), name
