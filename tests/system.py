"""The real system, for tests and benchmarks: ``shadow up`` on a data directory of its own, pids by role."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
_TRAIN = """
import sys
from pathlib import Path
from shadow_mlops.cli.train import train_example
from shadow_mlops.models.registry import Registry
data = Path(sys.argv[1])
train_example(Registry(f"sqlite:///{data / 'mlflow.db'}", data / "artifacts"), data / "example")
"""
Labels = tuple[tuple[str, str], ...]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(happened: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll until the result is true, and give it.

    Raises
    ------
    TimeoutError
        Saying what did not happen.
    """
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s: {what}")
        time.sleep(0.05)
    return result


def get(url: str, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body; 0 when nothing answers."""
    try:
        with urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()
    except (URLError, OSError):
        return 0, b""


def wait_for_http(url: str, process: subprocess.Popen[bytes], *, any_status: bool = False) -> None:
    """Wait until the URL answers 200 (or at all), and fail at once when its process has ended."""

    def answers() -> bool:
        if process.poll() is not None:
            raise ChildProcessError(f"{process.args} ended with {process.returncode}")
        status, _ = get(url)
        return status == 200 or (any_status and status > 0)

    wait_for(answers, f"{url} does not answer", 120)


def trained_example(target: Path) -> Path:
    """A data directory with the example's models: a copy, trained once per state of the sources."""
    digest = hashlib.sha256()
    package = ROOT / "src" / "shadow_mlops"
    for pattern in ("example/*.py", "training/*.py", "models/**/*.py", "cli/train.py"):
        for file in sorted(package.glob(pattern)):
            digest.update(file.read_bytes())
    cache = Path(tempfile.gettempdir()) / f"shadow-example-{os.getuid()}-{digest.hexdigest()[:16]}"
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "done").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir()
            subprocess.run([sys.executable, "-c", _TRAIN, str(cache)], check=True)
            (cache / "done").touch()
    # The registry names artefacts by absolute path: the copy goes on reading them where they were trained.
    shutil.copytree(cache, target)
    return target


class System:
    """One ``shadow up``.

    Parameters
    ----------
    data
        Data directory, with a trained example.
    workers
        Gateway workers.
    core
        Pins every process to this core; None leaves them free.
    environment
        Settings beside the harness's own.
    prefix
        Command that runs the command (``faketime``, …).
    """

    def __init__(
        self,
        data: Path,
        *,
        workers: int = 1,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tracking_uri = f"sqlite:///{data / 'mlflow.db'}"
        self.deployment_file = data / "example" / "shadow.yaml"
        self.output = data / "up.log"
        pin = () if core is None else ("taskset", "-c", str(core))
        self._command = [*prefix, *pin, str(Path(sys.executable).with_name("shadow")), "up"]
        self._environment = os.environ | {
            "API_HOST": "127.0.0.1",
            "API_PORT": str(self.port),
            "API_WORKERS": str(workers),
            "DATA_DIR": str(data),
            "DEPLOYMENT_FILE": str(self.deployment_file),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def running(self) -> Iterator[System]:
        """Start it, wait until it answers; end it cleanly, and leave no process behind even if that fails."""
        # Not on the data directory's own disk alone: a test may fill that.
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output, cwd=self.data
            )
        try:
            wait_for_http(f"{self.url}/health/ready", self.process)
            yield self
        except BaseException:
            last = self.output.read_text(errors="replace").splitlines()[-20:]
            sys.stderr.write("".join(f"{line[:400]}\n" for line in last))
            raise
        finally:
            self.stop()

    def stop(self, seconds: float = 30.0) -> int:
        """Ctrl-C; the exit code. Whatever outlives it is killed, and reported by an error."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if code is None:
            self.process.kill()
            raise TimeoutError(f"shadow up did not end in {seconds:g} s")
        if left:
            raise RuntimeError(f"processes outlived shadow up: {left}")
        return code

    def family(self) -> list[psutil.Process]:
        """Every process below ``shadow up``."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def pids(self) -> dict[str, int]:
        """Role -> process id, as the supervisor published them last."""
        try:
            return json.loads((self.data / "run" / "processes.json").read_bytes())
        except FileNotFoundError:
            return {}

    def gateway_word(self) -> dict[str, Any]:
        """What the gateway's parent published last: its children and the generations that they serve."""
        try:
            return json.loads((self.data / "run" / "gateway.json").read_bytes())
        except FileNotFoundError:
            return {}

    def workers(self) -> dict[str, int]:
        """Gateway workers only."""
        return {role: pid for role, pid in self.pids().items() if role.startswith("gateway-worker")}

    def challengers(self) -> dict[str, int]:
        """Challenger processes only."""
        return {role: pid for role, pid in self.pids().items() if role.startswith("challenger")}

    def metrics(self) -> dict[tuple[str, Labels], float]:
        """Sample name and sorted labels -> value, of ``GET /metrics``."""
        status, text = get(f"{self.url}/metrics")
        if status != 200:
            raise ConnectionError(f"/metrics answered {status}")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels."""
        return sum(
            value
            for (sample, found), value in self.metrics().items()
            if sample == name and labels.items() <= dict(found).items()
        )

    def serving(self) -> dict[str, Any]:
        """``serving.json``."""
        return msgspec.json.decode((self.data / "serving.json").read_bytes())

    def publish(self, **changes: Any) -> None:
        """Replace ``serving.json`` as the resolver would; a resolver that runs takes it back."""
        serving = self.serving()
        word = {**serving, "generation": serving["generation"] + 1, **changes}
        fresh = self.data / ".serving.fresh"
        fresh.write_bytes(msgspec.json.encode(word))
        fresh.replace(self.data / "serving.json")
