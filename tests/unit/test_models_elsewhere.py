"""Trying a model in a process of its own: whatever it does there, the caller gets a refusal with a reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.models.loading import load_elsewhere


def pretend(monkeypatch, tmp_path: Path, body: str) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_directory_without_a_model_is_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(ModelRefusedError, match="card"):
        load_elsewhere(tmp_path)


def test_a_model_that_kills_its_process_is_refused(tmp_path: Path, monkeypatch):
    pretend(monkeypatch, tmp_path, "kill -SEGV $$")
    with pytest.raises(ModelRefusedError, match="ended with -11"):
        load_elsewhere(tmp_path)


def test_a_model_that_hangs_is_refused(tmp_path: Path, monkeypatch):
    pretend(monkeypatch, tmp_path, "exec sleep 30")
    with pytest.raises(ModelRefusedError, match="takes more than"):
        load_elsewhere(tmp_path, seconds=0.3)
