"""Retraining by a person: recorded with who and why, held back by nothing but another run; how the trigger stands."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from retrainchecks import START_US, check, report, rule
from shadow_mlops.cli.app import app
from shadow_mlops.domain.errors import ConflictError
from shadow_mlops.retraining.commands import CommandAction
from shadow_mlops.retraining.ordering import RetrainOrders
from shadow_mlops.retraining.recording import record, watched
from shadow_mlops.retraining.standing import standing
from shadow_mlops.state import audit, open_state, triggers, upgrade

DEPLOYMENT = "name: churn\nretrain: {action: {command: [make, 're train']}}\n"


@pytest.fixture
def state(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


@pytest.fixture
def orders(state, tmp_path):
    return RetrainOrders(state, rule(), CommandAction(["make", "re train"], tmp_path))


def test_an_order_is_a_trigger_with_who_and_why(state, orders):
    ordered = orders.order(who="ada@host", reason="prices", details={"via": "cli"})
    (found,) = triggers.recent(state, "churn")
    assert (found.key, found.state, found.cause) == (ordered.key, "pending", "person")
    assert (found.who, found.reason, found.details["via"]) == ("ada@host", "prices", "cli")
    assert ordered.action == "make 're train'"
    assert triggers.claim(state, "churn", action="command").key == ordered.key
    (entry,) = audit.entries(state).entries
    assert (entry.action, entry.who, entry.reason, entry.outcome) == ("retrain", "ada@host", "prices", "started")


def test_a_second_order_is_refused_while_one_waits_or_runs_unless_forced(state, orders):
    first = orders.order(who="ada", reason="prices")
    with pytest.raises(ConflictError, match=f"{first.key} is waiting to run already: prices"):
        orders.order(who="eve", reason="me too")
    triggers.claim(state, "churn", action="command")
    with pytest.raises(ConflictError, match="is running already"):
        orders.order(who="eve", reason="me too")
    refused = [entry for entry in audit.entries(state).entries if entry.outcome == "refused"]
    assert [entry.who for entry in refused] == ["eve", "eve"]
    forced = orders.order(who="eve", reason="me too", force=True)
    assert triggers.claim(state, "churn", action="command").key == first.key, "one at a time all the same"
    assert triggers.recent(state, "churn")[0].key == forced.key


def test_without_an_action_nothing_is_ordered(state):
    with pytest.raises(ConflictError, match=r"retrain\.action"):
        RetrainOrders(state, rule(), None).order(who="ada", reason="")
    assert triggers.recent(state, "churn") == ()
    assert [entry.outcome for entry in audit.entries(state).entries] == ["refused"]


def test_cool_down_does_not_hold_back_a_person_and_is_told(state, orders):
    asked = rule(windows=1, cool_down_us=10**18)
    record(state, check(1), asked)
    triggers.conclude(state, triggers.claim(state, "churn", action="command"), state="done")
    before = watched(state, "churn")
    ordered = RetrainOrders(state, asked, orders._action).order(who="ada", reason="")
    assert "cool-down until" in ordered.notes[0]
    assert watched(state, "churn") == before, "cool-down and budget are of drift"


def stands(state, asked, told):
    return standing(state, asked, CommandAction(["make"], Path()), told)


def test_it_is_told_why_the_trigger_would_or_would_not_fire(state):
    asked = rule(windows=2)
    assert "no window" in stands(state, asked, None).why
    assert "too few rows" in stands(state, asked, report(1, rows=10)).why
    assert stands(state, asked, report(1, 0.01)).why.endswith("calls for nothing")
    assert "within the hysteresis" in stands(state, asked, report(1, 0.29)).why
    assert "1 of 2 checks in a row" in stands(state, asked, report(1)).why
    record(state, check(1), asked)
    assert "has been looked at" in stands(state, asked, report(1.5)).why
    fires = stands(state, asked, report(2))
    assert (fires.would_fire, fires.drifted, fires.looked_at) == (True, 1, "2026-01-06T00:00:00.000Z")
    assert fires.why.startswith("drift in 2 checks in a row: tenure PSI 0.41")
    assert not standing(state, asked, None, report(2)).would_fire
    record(state, check(2), asked)
    after = stands(state, asked, report(3))
    assert "has fired already" in after.why
    assert after.waiting == (after.episode.key,)
    assert after.next_check == "2026-01-08T00:00:00.000Z"
    tight = rule(windows=1, cool_down_us=10**16)
    record(state, check(3, "calm"), tight)
    assert "held back: cool-down until" in stands(state, tight, report(4)).why
    assert watched(state, "churn").looked_us == START_US + 3 * 86_400_000_000, "nothing was taken in"


@pytest.fixture
def command(tmp_path, monkeypatch):
    for name in ("STATE_URL", "DRIFT_CHECK_INTERVAL_HOURS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shadow.yaml").write_text(DEPLOYMENT)

    def run(*arguments):
        return CliRunner().invoke(app, ["retrain", *arguments, "--data-dir", str(tmp_path)])

    return run


def test_the_command_line_orders_and_tells(command, state):
    dry = command("run", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would run: make 're train'" in dry.stdout
    assert "does not fire now: there is no window" in dry.stdout
    assert "nothing has called for retraining churn yet" in command("history").stdout
    assert triggers.recent(state, "churn") == (), "a dry run changes nothing"
    done = command("run", "--reason", "new [prices]")
    assert done.exit_code == 0, done.output
    (found,) = triggers.recent(state, "churn")
    assert found.key in done.stdout
    assert "once it is started" in done.stdout
    assert (found.reason, found.details["via"]) == ("new [prices]", "cli")
    assert "@" in found.who
    again = command("run")
    assert isinstance(again.exception, ConflictError)
    assert "refused without --force" in command("run", "--dry-run").stdout
    assert command("run", "--force").exit_code == 0
    text = command("history").stdout
    assert "new [prices]" in text
    assert f"{found.key}  pending, never tried, by {found.who}" in text
    assert text.count("retrain-") == 2
    assert len(json.loads(command("history", "--limit", "1", "--format", "json").stdout)) == 1


def test_the_command_line_tells_machines_how_the_trigger_stands(command, state, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "drift.json").write_bytes(msgspec.json.encode(report(3)))
    told = json.loads(command("status", "--format", "json").stdout)
    assert (told["kind"], told["action"], told["verdict"], told["would_fire"]) == (
        "command", "make 're train'", "drifted", False,
    )  # fmt: skip
    assert "1 of 3 checks in a row" in told["why"]
    assert "1 of 3 checks in a row" in command("status").stdout
    ordered = json.loads(command("run", "--format", "json").stdout)
    assert json.loads(command("status", "--format", "json").stdout)["waiting"] == [ordered["key"]]
    assert json.loads(command("run", "--dry-run", "--format", "json").stdout)["dry_run"] is True


def test_a_deployment_without_an_action_is_told_so(command, tmp_path):
    (tmp_path / "shadow.yaml").write_text("name: churn\n")
    assert "no action is configured" in command("status").stdout
    assert isinstance(command("run").exception, ConflictError)
