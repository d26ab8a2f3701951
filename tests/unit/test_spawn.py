"""Starting processes: settings arrive unchanged, secrets stay, the session is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.settings import Settings, load_settings
from shadow_mlops.processes.spawn import settings_from_environment, settings_to_environment, start


def test_a_child_keeps_the_session_and_leads_a_group_of_its_own():
    child = start("http.server", Settings(), ["0", "--bind", "127.0.0.1"])
    try:
        # In another session the kernel would give a challenger as much of a core as the gateway (ADR 0008).
        assert os.getsid(child.pid) == os.getsid(0)
        assert os.getpgid(child.pid) == child.pid
    finally:
        child.terminate()
        child.wait(10)


def test_settings_arrive_as_they_were_and_secrets_stay_where_they_are(tmp_path: Path, monkeypatch):
    settings = Settings(
        data_dir=tmp_path, api_workers=3, operator_token="secret", rate_limit_requests=7,
        alert_webhook_url="https://host/secret", alert_slack_url="https://host/secret",
    )  # fmt: skip
    environment = settings_to_environment(settings)
    assert "secret" not in environment["SHADOW_SETTINGS"]
    monkeypatch.setenv("ALERT_SLACK_URL", "https://host/from-the-environment")
    monkeypatch.setenv("SHADOW_SETTINGS", environment["SHADOW_SETTINGS"])
    monkeypatch.setenv("API_WORKERS", "9")
    arrived = settings_from_environment()
    assert (arrived.data_dir, arrived.api_workers, arrived.rate_limit_requests) == (tmp_path, 3, 7)
    assert arrived.alert_slack_url.get_secret_value() == "https://host/from-the-environment"


def test_an_address_for_alerts_that_is_none_is_refused_without_being_told(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "hooks.example/s3cret")
    with pytest.raises(SettingsError, match=r"ALERT_WEBHOOK_URL: .*http://") as caught:
        load_settings(data_dir=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path):
    shadow = str(Path(sys.executable).with_name("shadow"))
    done = subprocess.run(
        [shadow, "doctor"],
        cwd=tmp_path,
        env=os.environ | {"API_PORT": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("shadow: API_PORT: ")
    assert len(done.stderr.strip().splitlines()) == 1
