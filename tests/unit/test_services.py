"""A test whose service is absent is deselected and counted; where services are required, it fails the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

@pytest.mark.needs_wrk
@pytest.mark.parametrize("n", range(3))
def test_that_needs_wrk(n): ...

@pytest.mark.needs_wrk
def test_that_nobody_asked_for(): ...

def test_that_needs_nothing(): ...
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_wanted.py").write_text(TESTS)
    return tmp_path


@pytest.fixture(params=[(), ("-n", "2")], ids=["one process", "two"])
def processes(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


def run(suite: Path, processes: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "not nobody", *processes]
    inherited = {key: value for key, value in os.environ.items() if key not in {"SHADOW_REQUIRE_SERVICES", "PATH"}}
    return subprocess.run(
        command,
        cwd=suite,
        env={**inherited, "PATH": "/nowhere", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_absent_is_deselected_and_counted_in_the_last_lines(suite: Path, processes: tuple[str, ...]) -> None:
    outcome = run(suite, processes)
    assert outcome.returncode == 0, outcome.stdout
    counted, closing = outcome.stdout.splitlines()[-2:]
    assert counted.startswith("3 deselected: 3 need wrk")
    assert "1 passed" in closing


def test_required_services_that_are_absent_fail_the_run(suite: Path, processes: tuple[str, ...]) -> None:
    outcome = run(suite, processes, SHADOW_REQUIRE_SERVICES="1")
    assert outcome.returncode == pytest.ExitCode.USAGE_ERROR
    assert "3 deselected: 3 need wrk" in outcome.stdout + outcome.stderr
