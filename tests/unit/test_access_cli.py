"""``shadow access``: keys are made, listed and taken away, and the audit trail says by whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from shadow_mlops.access import Keyring, add_key, keys_file, read_keys
from shadow_mlops.cli.app import app
from shadow_mlops.domain.errors import ConflictError, SettingsError
from shadow_mlops.state import audit, open_state


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch):
    for name in ("STATE_URL", "OPERATOR_TOKEN", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(folder, *arguments):
    done = CliRunner().invoke(app, ["access", *arguments, "--data-dir", str(folder)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def trail(folder):
    return audit.entries(open_state(f"sqlite:///{folder / 'state.db'}")).entries


def test_a_key_is_printed_once_and_lets_in(tmp_path):
    done = run(tmp_path, "add", "web-shop", "--role", "client", "--expires", "90d", "--reason", "new shop")
    secret = done.stdout.strip()
    assert done.stdout == f"{secret}\n"
    assert "need a client's key" in done.stderr
    assert Keyring(tmp_path).admit("client", {b"x-api-key": secret.encode()}).name == "web-shop"
    (listed,) = json.loads(run(tmp_path, "list", "--format", "json").stdout)
    assert (listed["name"], listed["role"], listed["ends"], listed["expired"]) == (
        "web-shop",
        "client",
        secret[-4:],
        False,
    )
    shown = run(tmp_path, "list").output + json.dumps(listed) + str(trail(tmp_path))
    assert secret not in shown
    assert "web-shop" in shown
    assert "need a client's key" not in run(tmp_path, "add", "second", "--role", "client").stderr


def test_every_change_is_in_the_audit_trail_with_who_and_why_refused_ones_too(tmp_path):
    run(tmp_path, "add", "vera", "--role", "viewer", "--reason", "on call")
    with pytest.raises(ConflictError):
        run(tmp_path, "add", "vera", "--role", "operator")
    run(tmp_path, "revoke", "vera", "--reason", "left")
    with pytest.raises(SettingsError, match="shadow access list"):
        run(tmp_path, "revoke", "vera")
    found = [(each.action, each.outcome, each.reason, each.details["key"]) for each in reversed(trail(tmp_path))]
    assert found == [
        ("access add", "done", "on call", "vera"),
        ("access add", "refused", "", "vera"),
        ("access revoke", "done", "left", "vera"),
        ("access revoke", "refused", "", "vera"),
    ]
    assert all("@" in each.who and each.details["via"] == "cli" for each in trail(tmp_path))
    assert read_keys(tmp_path) == ()


def test_revoking_the_last_clients_key_says_that_the_door_is_open(tmp_path):
    run(tmp_path, "add", "shop", "--role", "client")
    run(tmp_path, "add", "till", "--role", "client")
    assert "open again" not in run(tmp_path, "revoke", "shop").stderr
    assert "open again" in run(tmp_path, "revoke", "till").stderr


@pytest.mark.parametrize("expires", ["soon", "0s", "-1d", "99999999999d"])
def test_a_time_that_is_none_makes_no_key(tmp_path, expires):
    with pytest.raises(SettingsError, match="--expires"):
        run(tmp_path, "add", "ann", "--role", "viewer", f"--expires={expires}")
    assert read_keys(tmp_path) is None


def test_a_role_that_is_none_is_refused(tmp_path):
    assert run(tmp_path, "add", "ann", "--role", "boss").exit_code == 2


def test_no_key_is_made_that_the_trail_cannot_tell_of(tmp_path):
    (tmp_path / "state.db").mkdir()
    with pytest.raises(Exception, match="state database"):
        run(tmp_path, "add", "ann", "--role", "viewer")
    assert read_keys(tmp_path) is None


def doctors_word(folder):
    done = CliRunner().invoke(app, ["doctor", "--format", "json", "--data-dir", str(folder)])
    return next(each for each in json.loads(done.stdout)["findings"] if each["check"] == "access")


def test_doctor_says_whether_predictions_are_open_and_what_is_wrong_with_the_keys(tmp_path):
    assert "open to whoever" in doctors_word(tmp_path)["detail"]
    run(tmp_path, "add", "shop", "--role", "client")
    assert doctors_word(tmp_path) == {"check": "access", "status": "ok", "detail": "1 keys, 1 of clients"}
    add_key(tmp_path, "old", "viewer", by="ada", expires=datetime.now(UTC) - timedelta(days=1))
    assert (doctors_word(tmp_path)["status"], "old" in doctors_word(tmp_path)["detail"]) == ("warning", True)
    keys_file(tmp_path).chmod(0o644)
    assert "chmod 600" in doctors_word(tmp_path)["detail"]
    keys_file(tmp_path).write_text("{")
    assert doctors_word(tmp_path)["status"] == "failed"
