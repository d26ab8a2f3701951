"""`shadow gate evaluate`: the gate's rule on a span of recorded pairs, one look that leaves no trace."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import modelsamples as samples
from gatelogs import CANARY, HOUR_US, START_US, Hours
from lakelogs import BINARY
from shadow_mlops.cli.app import app
from shadow_mlops.cli.exits import exit_code
from shadow_mlops.domain.errors import ConflictError, ModelNotFoundError, SettingsError, ShadowError, UnavailableError
from shadow_mlops.domain.events import Status
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.processes import evaluating
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.settings import load_settings

CHAMPION = msgspec.structs.replace(BINARY, version="2.1.0")
FILE = """name: churn
labels: {max_delay: 5h, cohort: 1h}
lake: {retain_days: 40000}
"""
SINCE = datetime.fromtimestamp(START_US / 1e6, UTC)
GAINS = {"better": 0.15, "equal": 0.0, "worse": -0.15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.1.0 is champion; better, equal and worse were replayed on twenty hours of it, and nobody has archived that."""
    data = tmp_path_factory.mktemp("evaluated")
    (data / "shadow.yaml").write_text(f"{FILE}gate: {{min_labels: 20}}\n")
    registry = samples.registry_in(data)
    samples.register_sample(registry, "2.1.0", aliases=("champion",))
    for version in (*GAINS, "unseen"):
        samples.register_sample(registry, version, kind="boosting")
    rng = np.random.default_rng(1)
    written = Hours(SegmentLog(data / "log"))
    for hour in range(20):
        truth = rng.random(40) < 0.5
        champion = np.clip(0.5 + 0.1 * (2 * truth - 1) + rng.normal(0, 0.2, 40), 0.01, 0.99)
        entities = [f"c-{hour % 10}-{i}" for i in range(40)]  # each comes twice, ten hours apart
        span, ids = written.ask(hour, champion, entities=entities, schema=CHAMPION)
        for version, gain in GAINS.items():
            noise = rng.normal(0, 0.02, 40)
            said = np.clip(champion + gain * (2 * truth - 1) + (noise if not gain else 0), 0.01, 0.99)
            failed = [Status.ERRORED if i % 10 == 0 and version == "better" else Status.PAIRED for i in range(40)]
            written.replay(span, said, version=version, statuses=failed)
        told = range(40) if hour < 15 else range(10)
        written.label(hour + 0.9, [ids[i] for i in told], [int(truth[i]) for i in told])
    written.close()
    return data


@pytest.fixture(autouse=True)
def _default_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def evaluated(folder: Path, *arguments: str, until: int = 15, file: str = "shadow.yaml"):
    end = datetime.fromtimestamp(START_US / 1e6 + until * 3600, UTC).isoformat()
    where = ["--deployment", str(folder / file), "--data-dir", str(folder), "--until", end]
    done = CliRunner().invoke(app, ["gate", "evaluate", *arguments, *where])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def told(folder: Path, version: str, **options) -> dict:
    done = evaluated(folder, version, "--since", SINCE.isoformat(), "--format", "json", **options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_better_replayed_version_would_be_promoted_and_both_are_measured_on_the_same_rows(folder: Path) -> None:
    found = told(folder, "better")
    assert found["decision"] == "promote", found["reasons"]
    assert found["estimate"] > 0
    assert found["interval"][0] > 0
    assert found["e_value"] >= 20
    assert (found["requests"], found["pairs"], found["replayed"]) == (600, 540, 540)
    assert (found["labelled_pairs"], found["label_coverage"]) == (540, 1.0)
    assert found["champion"]["version"] == "2.1.0"
    assert found["challenger"]["version"] == "better"
    assert found["challenger"]["accuracy"] > found["champion"]["accuracy"]
    assert found["challenger"]["log_loss"] < found["champion"]["log_loss"]
    assert "not trained on" in found["note"]


def test_an_equal_version_is_not_promoted_and_a_worse_one_is_rejected(folder: Path) -> None:
    assert told(folder, "equal")["decision"] == "keep_watching"
    worse = told(folder, "worse")
    assert worse["decision"] == "reject"
    assert worse["estimate"] < 0
    assert "worse" in worse["reasons"][0]


def test_an_entity_gives_one_value_however_often_it_asks(folder: Path) -> None:
    # ten hours have every entity once; the five after them have 200 of them again
    assert told(folder, "worse", until=10)["labelled"] == 400
    whole = told(folder, "worse", until=15)
    assert (whole["labelled"], whole["labelled_pairs"]) == (400, 600)
    assert whole["estimate"] == told(folder, "worse", until=10)["estimate"]


def test_the_deployments_rule_is_asked_with_its_guardrails_and_least_numbers(folder: Path) -> None:
    asked = "gate: {min_labels: 450, min_days: 3, metric: brier, guardrails: [{name: errors, margin: 0.01}]}"
    (folder / "strict.yaml").write_text(f"{FILE}{asked}\n")
    found = told(folder, "better", file="strict.yaml")
    assert (found["decision"], found["metric"]) == ("keep_watching", "brier")
    assert any("of at least 450 values" in reason for reason in found["reasons"])
    # 15 hours less what is between the last request and the end of its hour
    assert any("0.584 of at least 3 days" in reason for reason in found["reasons"])
    (guard,) = found["guardrails"]
    assert (guard["name"], guard["state"], guard["values"]) == ("errors", "watching", 400)


def test_labels_that_are_missing_hold_a_promotion(folder: Path) -> None:
    found = told(folder, "better", until=20)
    assert found["decision"] == "keep_watching"
    assert found["label_coverage"] == pytest.approx(0.8125, abs=0.02)
    assert any("have a label, 90% are needed" in reason for reason in found["reasons"])


def test_nothing_is_recorded_and_no_gate_begins(folder: Path) -> None:
    told(folder, "better")
    assert not (folder / "state.db").exists()
    where = ["--deployment", str(folder / "shadow.yaml"), "--data-dir", str(folder)]
    status = CliRunner().invoke(app, ["gate", "status", "--format", "json", *where])
    assert json.loads(status.stdout)["evidence_id"] is None
    try:
        before = _rows(folder / "state.db")
        told(folder, "better")
        assert _rows(folder / "state.db") == before
    finally:
        (folder / "state.db").unlink()


def _rows(database: Path) -> dict[str, list[tuple]]:
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def test_text_and_markdown_have_the_figures_and_lines_for_ci_the_decision(folder: Path, tmp_path: Path) -> None:
    found = told(folder, "better")
    lines = tmp_path / "lines"
    lines.write_text("earlier=1\n")
    arguments = ["better", "--since", SINCE.isoformat()]
    text = evaluated(folder, *arguments, "--env", str(lines)).stdout
    page = evaluated(folder, *arguments, "--format", "markdown").stdout
    for form in (text, page):
        for figure in (found["champion"]["accuracy"], found["challenger"]["log_loss"]):
            assert f"{figure:.4f}" in form
        assert f"{found['estimate']:+.5g}" in form
        assert "not trained on" in form
    assert page.startswith("### Gate on recorded traffic: promote\n")
    assert f"| accuracy | {found['champion']['accuracy']:.4f} | {found['challenger']['accuracy']:.4f} |" in page
    written = dict(line.split("=", 1) for line in lines.read_text().splitlines())
    assert (written["earlier"], written["decision"], written["version"]) == ("1", "promote", "better")
    assert int(written["labelled"]) == found["labelled"]


def test_version_and_span_come_from_what_training_printed(folder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained.json"
    trained.write_text(json.dumps({"version": "better", "replayed_since": SINCE.isoformat(), "rows": 3}))
    found = json.loads(evaluated(folder, "--trained", str(trained), "--format", "json").stdout)
    assert found == told(folder, "better")
    trained.write_text(json.dumps({"version": "better", "replayed_since": None}))
    with pytest.raises(SettingsError, match="--replay SPAN"):
        evaluated(folder, "--trained", str(trained))
    trained.write_text(json.dumps({"version": None}))
    with pytest.raises(SettingsError, match="dry run"):
        evaluated(folder, "--trained", str(trained))
    trained.write_text("3.1.0")
    with pytest.raises(SettingsError, match="redirect its output"):
        evaluated(folder, "--trained", str(trained))


def refused(folder: Path, *arguments: str) -> tuple[ShadowError, int]:
    with pytest.raises(ShadowError) as caught:
        evaluated(folder, *arguments)
    return caught.value, exit_code(caught.value)


def test_what_cannot_be_judged_is_refused_with_what_to_do(folder: Path) -> None:
    since = ["--since", SINCE.isoformat()]
    error, code = refused(folder, "unseen", *since)
    assert isinstance(error, ConflictError)
    assert code == 3
    assert "shadow replay --model models:/churn/unseen --since" in str(error)
    error, code = refused(folder, "2.1.0", *since)
    assert (code, "is the champion" in str(error)) == (3, True)
    error, code = refused(folder, "9.9.9", *since)
    assert (isinstance(error, ModelNotFoundError), code) == (True, 4)
    error, code = refused(folder, "better", "--since", "2031-01-01")
    assert (code, "span is empty" in str(error)) == (2, True)
    assert refused(folder, "better")[1] == 2


def test_pairs_with_an_earlier_champion_are_named_not_counted(folder: Path, tmp_path: Path) -> None:
    registry = samples.registry_in(folder)
    registry.set_alias("churn", "champion", registry.version("churn", "equal").number)
    try:
        error, code = refused(folder, "better", "--since", SINCE.isoformat())
    finally:
        registry.set_alias("churn", "champion", registry.version("churn", "2.1.0").number)
    assert code == 3
    assert "540 with champion 2.1.0" in str(error)


def test_a_running_monitor_archives_and_one_that_does_not_is_told(folder: Path, tmp_path: Path) -> None:
    told(folder, "better")
    archived = read_manifest(folder / "lake").number
    settings = load_settings(deployment_file=folder / "shadow.yaml", data_dir=folder)
    until = datetime.fromtimestamp((START_US + 15 * HOUR_US) / 1e6, UTC)
    with only_one(folder / "run" / "monitor.lock", "the monitor"):
        assert evaluating.run(settings, "better", since=SINCE, until=until).decision.decision == "promote"
        written = Hours(SegmentLog(folder / "log"))
        span, _ = written.ask(19.5, [0.5], schema=CHAMPION)
        written.replay(span, [0.5], version="better")
        written.close()
        with pytest.raises(UnavailableError, match="not archived 1 results of version better"):
            evaluating.run(settings, "better", since=SINCE, until=until, archive_seconds=0.3)
    assert read_manifest(folder / "lake").number == archived


def test_answers_of_a_canary_are_put_on_their_side(folder: Path, tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log")
    written = Hours(log)
    rng = np.random.default_rng(3)
    for hour in range(8):
        truth = rng.random(40) < 0.5
        good, bad = np.where(truth, 0.8, 0.2), np.where(truth, 0.6, 0.4)
        answering = msgspec.structs.replace(CANARY, version="better")
        span, ids = written.ask(hour, good, schema=answering)
        written.shadow(span, bad, version="2.1.0", swapped=True)
        written.label(hour + 0.9, ids, truth.astype(int).tolist())
    written.close()
    settings = load_settings(
        deployment_file=folder / "shadow.yaml", data_dir=tmp_path, mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db"
    )
    found = evaluating.run(settings, "better", since=SINCE, until=datetime.now(UTC))
    assert found.decision.decision == "promote"
    assert (found.champion.log_loss, found.challenger.log_loss) == pytest.approx((0.5108, 0.2231), abs=1e-3)
