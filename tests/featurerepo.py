"""A copy of ``feature_repo``, filled as ``make run`` fills it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from shadow_mlops.example.sources import write_sources

ROOT = Path(__file__).resolve().parents[1]


def feast(repository: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "feast.cli.cli", "--chdir", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def filled_repository(folder: Path, *, customers: int) -> Path:
    shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("data"))
    write_sources(folder / "data", customers=customers)
    feast(folder, "apply")
    feast(folder, "materialize", "2000-01-01T00:00:00", "2100-01-01T00:00:00")
    return folder
