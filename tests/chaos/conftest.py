"""The running system as a fixture, and how long the long ones run."""

from __future__ import annotations

from pathlib import Path

import pytest

from system import trained_example


@pytest.fixture
def example_data(tmp_path: Path) -> Path:
    """A data directory of its own with the trained example."""
    return trained_example(tmp_path / "data")
