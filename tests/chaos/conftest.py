"""The running system as a fixture, and how long the long ones run."""

from __future__ import annotations

from pathlib import Path

import pytest
from system import trained_example


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--duration", type=float, default=30.0, help="seconds of test_everything (verify: 600)")
    group.addoption("--flips", type=int, default=100, help="promotions back and forth (verify: 1000)")
    group.addoption("--requests", type=int, default=100_000, help="requests of test_memory (verify: 1000000)")


@pytest.fixture
def example_data(tmp_path: Path) -> Path:
    """A data directory of its own with the trained example."""
    return trained_example(tmp_path / "data")
