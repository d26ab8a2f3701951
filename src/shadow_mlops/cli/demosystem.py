"""What ``shadow demo`` runs: the bundled example on a data directory of its own, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import uvloop

from shadow_mlops.access import operator_token
from shadow_mlops.cli.steps import Step
from shadow_mlops.cli.traffic import Traffic
from shadow_mlops.cli.trafficrows import example_rows
from shadow_mlops.cli.train import train_example
from shadow_mlops.domain.errors import SettingsError, UnavailableError
from shadow_mlops.example.sources import write_sources
from shadow_mlops.lake.manifest import read_manifest
from shadow_mlops.lake.queries import connect, reading
from shadow_mlops.models.registry import Registry
from shadow_mlops.processes.files import gateway_url
from shadow_mlops.processes.settings import Settings, load_settings
from shadow_mlops.processes.spawn import start

_READY_SECONDS = 120.0
_END_SECONDS = 30.0
_ASK_SECONDS = 10.0
_ARCHIVE_SECONDS = 120.0
_POLL_SECONDS = 0.2


def shadow(*arguments: str) -> list[str]:
    """The command line of this installation, whatever the PATH is."""
    return [sys.executable, "-c", "from shadow_mlops.cli.app import main; main()", *arguments]


@contextmanager
def apart(folder: Path) -> Iterator[None]:
    """Let nothing that is set here reach what is done in the block: it trains, promotes and alerts by itself.

    Neither settings of the environment (a registry, a database, a webhook of production) nor an ``.env`` beside: the
    block works in that folder.
    """
    kept, before = dict(os.environ), Path.cwd()
    for name in kept:
        if name.lower() in Settings.model_fields:
            del os.environ[name]
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(kept)


def copy_repository(source: Path, target: Path, *, customers: int, seed: int, step: Step) -> None:
    """A Feast repository of one's own: the definitions, with sources of these customers, applied and materialised.

    Raises
    ------
    SettingsError
        If the source is none.
    UnavailableError
        If Feast fails; the message has what it said last.
    """
    if not (source / "feature_store.yaml").is_file():
        raise SettingsError(f"{source} is no Feast repository: it has no feature_store.yaml")
    target.mkdir(parents=True)
    for file in (source / "feature_store.yaml", *source.glob("*.py")):
        shutil.copy(file, target)
    with step(f"filling a feature store with {customers:,} customers"):
        write_sources(target / "data", customers=customers, seed=seed)
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        for arguments in (["apply"], ["materialize", "2000-01-01T00:00:00", now]):
            command = [sys.executable, "-W", "ignore", "-m", "feast.cli.cli", "--chdir", str(target), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = (done.stderr or done.stdout).strip().splitlines()
                raise UnavailableError(f"feast {arguments[0]} failed: {said[-1] if said else 'it said nothing'}")


def example_site(folder: Path, *, more: Mapping[str, Any], step: Step) -> Path:
    """Train the example into a data directory; its champion serves, nobody challenges it.

    Parameters
    ----------
    more
        Sections of the deployment file beside the example's.

    Returns
    -------
    Path
        The deployment file.
    """
    settings = load_settings(data_dir=folder)
    registry = Registry(settings.tracking_uri, settings.artifact_root)
    file = train_example(registry, folder / "example", step=step).deployment_file
    registry.delete_alias("churn", "challenger")
    with file.open("a", encoding="utf-8") as text:
        for section, content in more.items():
            text.write(f"{section}: {json.dumps(content)}\n")  # JSON is YAML
    return file


class Site:
    """A data directory that processes of this command serve.

    Parameters
    ----------
    settings
        Of the processes.
    environment
        The same as variables, for what is started as a command.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self._environment = {
            **os.environ,
            "DATA_DIR": str(settings.data_dir),
            "DEPLOYMENT_FILE": str(settings.deployment_file),
            "API_HOST": "127.0.0.1",
            "API_PORT": "0",
            **environment,
        }
        self._token = operator_token(settings.data_dir, settings.operator_token.get_secret_value())

    @property
    def url(self) -> str:
        """Where its gateway answers."""
        return gateway_url(self.settings)

    @contextmanager
    def running(self, command: Sequence[str], *, features: bool = False, untrained: bool = False) -> Iterator[None]:
        """Run a command of ``shadow`` until the block ends; ready when it answers, and has its feature store.

        Parameters
        ----------
        features
            Whether a feature process is to be started beside it.
        untrained
            Whether the deployment file may not be there yet: the command trains the example then.

        Raises
        ------
        UnavailableError
            If it ends or is not ready in time; what it said is in ``output.log`` of the data directory.
        """
        (self.settings.data_dir / "run" / "gateway.json").unlink(missing_ok=True)  # another life's port
        said = self.settings.data_dir / "output.log"
        environment = dict(self._environment)
        if untrained and not self.settings.deployment_file.exists():
            del environment["DEPLOYMENT_FILE"]
        with said.open("ab") as output:
            process = subprocess.Popen(shadow(*command), env=environment, stdout=output, stderr=output)
        started = [process]
        try:
            if features:
                started.append(start("shadow_mlops.processes.features", self.settings))
            self._wait_until_ready(process, said)
            yield
        finally:
            for each in reversed(started):
                _end(each)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], said: Path) -> None:
        def ready() -> bool:
            if process.poll() is not None:
                raise UnavailableError(f"a process ended with exit code {process.returncode}: see {said}")
            try:
                checks = self.get("/health").get("checks", {})
                self.get("/models")
            except UnavailableError:
                return False
            return bool(checks) and checks.get("feature_store", {}).get("status", "ok") == "ok"

        wait_for(ready, f"{self.settings.data_dir} does not answer, see {said}", _READY_SECONDS)

    def get(self, path: str) -> dict[str, Any]:
        """JSON of a route, asked as operator.

        Raises
        ------
        UnavailableError
            If nothing answers, or not with 200.
        """
        request = Request(self.url + path, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310 - loopback
        try:
            with urlopen(request, timeout=_ASK_SECONDS) as answer:  # noqa: S310
                found = answer.read()
        except HTTPError as error:
            raise UnavailableError(f"{self.url}{path} answers {error.code}: {error.read()[:200]!r}") from None
        except OSError as error:
            raise UnavailableError(f"{self.url} does not answer: {error}") from None
        return dict(msgspec.json.decode(found))

    def pid(self, role: str) -> int | None:
        """Process id of one of the processes that ``shadow up`` has started; None while it is being restarted."""
        try:
            pids = msgspec.json.decode((self.settings.data_dir / "run" / "processes.json").read_bytes(), type=dict)
        except (OSError, msgspec.DecodeError):
            return None
        return pids.get(role)

    def labelled(self) -> int:
        """Events in the lake whose label is joined."""
        lake = self.settings.data_dir / "lake"
        manifest = read_manifest(lake)
        if not manifest.schemas:
            return 0
        with reading(lake), closing(connect(lake, manifest, tables=("labels",))) as connection:
            found = connection.execute("SELECT count(*) FROM labels WHERE verdict = 'joined'").fetchone()
        return int(found[0]) if found else 0


def record(
    settings: Settings, *, rows: int, rate: float, drift_at: int | None, seed: int, feature_repo: Path | None
) -> int:
    """Serve the example from a data directory, send it customers with labels until all is archived, and end.

    Returns
    -------
    int
        Labelled events that were added.

    Raises
    ------
    UnavailableError
        If a process does not answer, or a request failed.
    """
    site = Site(settings.model_copy(update={"deployment_file": settings.data_dir / "example" / "shadow.yaml"}), {})
    repository = [] if feature_repo is None else ["--feature-repo", str(feature_repo)]
    with site.running(["up", *repository], untrained=True):
        known = site.labelled()
        sent = islice(example_rows(seed=seed, drift_at=drift_at), rows)
        sender = Traffic(site.url, sent, rate=rate, label_delay=0.5, connections=64, timeout=10.0)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            summary = runner.run(sender.run(asyncio.Event()))
        if summary.failed or summary.labels_failed:
            raise UnavailableError(f"not all was answered: {summary.failed}, labels {summary.labels_failed}")
        wait_for(lambda: site.labelled() - known >= rows, "the labels are not archived", _ARCHIVE_SECONDS)
    return site.labelled() - known


def wait_for(happened: Callable[[], object], what: str, seconds: float) -> None:
    """Poll until the result is true.

    Raises
    ------
    UnavailableError
        Saying what did not happen.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise UnavailableError(f"after {seconds:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
