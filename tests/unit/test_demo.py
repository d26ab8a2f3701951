"""``shadow demo loop`` promotes by itself: it must not be anybody's registry but its own in which it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shadow_mlops.cli.demosystem import apart
from shadow_mlops.processes.settings import load_settings


def test_what_is_set_for_production_does_not_reach_a_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    production, demo = tmp_path / "production", tmp_path / "demo"
    production.mkdir()
    demo.mkdir()
    monkeypatch.chdir(production)
    (production / ".env").write_text("STATE_URL=sqlite:///production.db\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry.example")
    monkeypatch.setenv("alert_webhook_url", "http://hook.example/secret")
    with apart(demo):
        settings = load_settings(data_dir=demo)
        assert settings.tracking_uri == f"sqlite:///{demo / 'mlflow.db'}"
        assert settings.state_url == ""
        assert settings.alert_webhook_url.get_secret_value() == ""
        assert "MLFLOW_TRACKING_URI" not in os.environ
    assert load_settings().state_url == "sqlite:///production.db"
    assert load_settings().mlflow_tracking_uri == "http://registry.example"
    assert Path.cwd() == production
