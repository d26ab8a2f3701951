"""Services that tests want: where one is absent, the tests that need it are deselected, counted and named.

``SHADOW_REQUIRE_SERVICES=1`` turns that into an error, so that CI cannot pass by running less.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog


def _command(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _docker_engine() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _postgres() -> bool:
    return shutil.which("postgres") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def _tmpfs() -> bool:
    # Root in a container may still lack the right to mount, so only trying tells.
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", directory], check=True)
        return True


SERVICES: dict[str, tuple[str, Callable[[], bool]]] = {
    "needs_wrk": ("wrk", _command("wrk")),
    "needs_promtool": ("promtool", _command("promtool")),
    "needs_docker": ("a Docker engine", _docker_engine),
    "needs_redis": ("redis-server", _command("redis-server")),
    "needs_postgres": ("PostgreSQL", _postgres),
    "needs_tmpfs": ("the right to mount a tmpfs", _tmpfs),
    "needs_cc": ("a C compiler", _command("cc")),
    "needs_lightgbm": ("lightgbm", lambda: importlib.util.find_spec("lightgbm") is not None),
    "needs_xgboost": ("xgboost", lambda: importlib.util.find_spec("xgboost") is not None),
}
_ABSENT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--duration", type=float, default=12.0, help="seconds of test_everything (verify: 600)")
    group.addoption("--flips", type=int, default=100, help="promotions back and forth (verify: 1000)")
    group.addoption("--seeds", type=int, default=1, help="runs in which the challenger is the worse (verify: 20)")
    group.addoption("--kills", type=int, default=5, help="of the monitor in test_gate_kill (verify: 50)")
    group.addoption("--keyed", type=float, default=300, help="keyed predictions/s of test_feature_hang (verify: 1000)")
    group.addoption("--hang", type=float, default=3, help="seconds that its store hangs (verify: 30)")
    group.addoption("--whole-demo", action="store_true", help="test_demo_loop with a feature store (verify)")
    group.addoption("--requests", type=int, default=100_000, help="requests of test_memory (verify: 1000000)")


@pytest.hookimpl(trylast=True)  # after -m and -k: a test that nobody asked for is not missed
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {marker for marker in SERVICES for item in items if item.get_closest_marker(marker)}
    missing = {marker for marker in wanted if not SERVICES[marker][1]()}
    absent: Counter[str] = Counter()
    kept, deselected = [], []
    for item in items:
        marker = next((m for m in SERVICES if m in missing and item.get_closest_marker(m)), None)
        if marker is None:
            kept.append(item)
        else:
            absent[SERVICES[marker][0]] += 1
            deselected.append(item)
    config.stash[_ABSENT] = absent
    if not deselected:
        return
    if _required() and not _is_worker(config):
        raise pytest.UsageError(f"SHADOW_REQUIRE_SERVICES=1, but {_counted(absent)}")
    items[:] = kept
    config.hook.pytest_deselected(items=deselected)


def _required() -> bool:
    return os.environ.get("SHADOW_REQUIRE_SERVICES") == "1"


def _is_worker(config: pytest.Config) -> bool:
    """Of pytest-xdist: each worker collects every test, and only the process that started them can tell a person."""
    return hasattr(config, "workeroutput")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    absent = session.config.stash.get(_ABSENT, Counter())
    if _is_worker(session.config):
        session.config.workeroutput["absent"] = dict(absent)
    elif absent and _required():
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_ABSENT] = Counter(getattr(node, "workeroutput", {}).get("absent", {}))


def _counted(absent: Counter[str]) -> str:
    reasons = ", ".join(f"{count} need {service}" for service, count in sorted(absent.items()))
    return f"{absent.total()} deselected: {reasons}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    absent = config.stash.get(_ABSENT, Counter())
    if absent:
        terminalreporter.write_line(f"{_counted(absent)} (absent here)", yellow=True)


@pytest.fixture(autouse=True)
def _logs_as_by_default() -> Iterator[None]:
    # a command that is run in this process sets its own level, and the next test would see fewer lines
    yield
    structlog.reset_defaults()
