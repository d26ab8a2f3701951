"""kill -9 of challenger, scorer and monitor while events are written: each sampled event has exactly one result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

import frame_checker
import planted_challenger as planted
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.domain.models import Serving
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import settings_to_environment
from shadowing import counted, event_rows, events, fates

pytestmark = pytest.mark.chaos

KILLS = 20
_CHALLENGER = (
    "import os, sys; from shadow_mlops.processes.challenger import run; "
    "from shadow_mlops.processes.spawn import settings_from_environment; "
    "run(settings_from_environment(), 'c', parent=os.getppid(), loader=sys.argv[1])"
)


class Host:
    """A data directory with one prepared challenger, and the processes that the test started."""

    def __init__(self, folder: Path) -> None:
        self.data = folder
        planted.prepare(folder / "models" / "planted")
        serving = Serving(generation=1, published_at="", champion="none", challengers={"c": "models/planted/1.0"})
        (folder / "serving.json").write_bytes(msgspec.json.encode(serving))
        deployment = folder / "shadow.yaml"
        deployment.write_text("name: d\nshadow: {timeout_ms: 1000}\nlog: {max_bytes: 1GiB}\n")
        self.settings = Settings(
            data_dir=folder, deployment_file=deployment, segment_bytes=200_000, challenger_batch_rows=64
        )
        self.log = SegmentLog(folder / "log", segment_bytes=200_000)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.written = 0

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**settings_to_environment(self.settings), "PYTHONPATH": str(planted.FOLDER)}
        with (self.data / "output").open("ab") as output:
            process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=output, stderr=output)
        self.processes.append(process)
        return process

    def start_challenger(self) -> subprocess.Popen[bytes]:
        return self.start("-c", _CHALLENGER, planted.LOADER)

    def start_monitor(self) -> subprocess.Popen[bytes]:
        return self.start("-m", "shadow_mlops.processes.monitor")

    @contextmanager
    def traffic(self, pause: float) -> Iterator[None]:
        """Frames of every size, a tenth of them not sampled, one in 5000 a crash."""
        stop = threading.Event()

        def write() -> None:
            appender, dice = self.log.appender(EVENTS, writer="gateway-0"), random.Random(1)
            while not stop.wait(pause):
                n = dice.choice([1, 1, 2, 3, 8, 40, 150])
                values = [planted.CRASH if dice.random() < 0.0002 else dice.random() for _ in range(n)]
                appender.append(events(values, sampled=[dice.random() > 0.1 for _ in range(n)]))
                self.written += n
            appender.close()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def books(self) -> dict:
        try:
            return json.loads((self.data / "run" / "accounting.json").read_bytes())
        except FileNotFoundError:
            return {"events": 0, "challengers": {}}

    def beats(self, challenger: subprocess.Popen[bytes]) -> bool:
        """The challenger named c that is alive by its own heart-beat is this one."""
        try:
            return bool(json.loads((self.data / "run" / "challenger-c.json").read_bytes())["pid"] == challenger.pid)
        except FileNotFoundError:
            return False

    def output(self) -> str:
        return (self.data / "output").read_text(errors="replace")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for process in host.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(happened: Callable[[], bool], what: str, host: Host, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what}\n{host.output()[-5000:]}"
        time.sleep(0.2)


def scorer_of(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    try:
        return next(iter(psutil.Process(process.pid).children()), None)
    except psutil.NoSuchProcess:
        return None


def test_kill_9_of_the_challenger_leaves_exactly_one_result_for_each_sampled_event(host: Host) -> None:
    dice = random.Random(2)
    scorers: set[int] = set()
    with host.traffic(0.02):
        challenger = host.start_challenger()
        for round_ in range(KILLS):
            before = sum(counted(host.log, "c").values())
            wait_for(lambda: sum(counted(host.log, "c").values()) > before, "no results", host)  # noqa: B023
            time.sleep(dice.random() * 0.3)
            scorer = scorer_of(challenger)
            if scorer is not None:
                scorers.add(scorer.pid)
                if round_ % 2:
                    scorer.kill()
                    time.sleep(dice.random() * 0.1)
            challenger.kill()
            challenger.wait()
            challenger = host.start_challenger()
    wait_for(lambda: fates(host.log, "c").keys() == event_rows(host.log), "results are missing", host)
    assert len(event_rows(host.log)) == host.written > 1000
    _check_by_the_frame_format_alone(host)
    found = counted(host.log, "c")
    assert found["shed"] == 0
    assert found["paired"] > host.written * 0.5
    assert found["unsampled"] > 0
    wait_for(lambda: host.beats(challenger), "no heart-beat of the last one", host)  # before it, nothing hears SIGTERM
    challenger.send_signal(signal.SIGTERM)
    assert challenger.wait(10) == 0
    for pid in scorers:
        wait_for(lambda: not _runs(pid), f"scorer {pid} outlived its challenger", host, 10)  # noqa: B023


def test_a_scorer_that_hangs_dies_with_its_killed_challenger(host: Host) -> None:
    host.log.appender(EVENTS, writer="gateway-0").append(events([planted.HANG]))
    host.settings = host.settings.model_copy(update={"deployment_file": host.data / "patient.yaml"})
    (host.data / "patient.yaml").write_text("name: d\nshadow: {timeout_ms: 600000}\n")
    challenger = host.start_challenger()
    wait_for(lambda: scorer_of(challenger) is not None, "no scorer", host)
    scorer = scorer_of(challenger)
    assert scorer is not None
    wait_for(lambda: "scorer ready" in host.output(), "not loaded", host)
    time.sleep(0.5)
    challenger.kill()
    wait_for(lambda: not _runs(scorer.pid), "the scorer outlived its challenger", host, 10)


def test_a_second_challenger_of_the_name_is_refused(host: Host) -> None:
    host.start_challenger()
    lock = host.data / "run" / "challenger-c.json"
    wait_for(lock.exists, "no heart-beat", host)
    second = host.start_challenger()
    assert second.wait(60) != 0
    assert "ConflictError" in host.output()
    assert "already running" in host.output()


def test_kill_9_of_the_monitor_keeps_the_books_exact(host: Host) -> None:
    dice = random.Random(3)
    with host.traffic(0.02):
        challenger, monitor = host.start_challenger(), host.start_monitor()
        for round_ in range(KILLS // 2):
            wait_for(lambda: host.books()["events"] > 0, "nothing was published", host)
            time.sleep(dice.random() * 1.5)
            monitor.kill()
            monitor.wait()
            if round_ % 3 == 0:
                challenger.kill()
                challenger.wait()
                challenger = host.start_challenger()
            monitor = host.start_monitor()
    wait_for(lambda: fates(host.log, "c").keys() == event_rows(host.log), "results are missing", host)
    found: Counter[str] = counted(host.log, "c")
    expected = {
        "sampled": found.total() - found["unsampled"],
        **{state: found[state] for state in ("paired", "timed_out", "shed", "errored")},
        "pending": 0,
    }

    def settled() -> bool:
        books = host.books()
        account = books["challengers"].get("c", {})
        return books["events"] == host.written and all(account.get(k) == v for k, v in expected.items())

    wait_for(settled, f"expected {expected}", host, 30)
    assert "not conserved" not in host.output()
    assert "contradict" not in host.output()
    monitor.send_signal(signal.SIGTERM)
    assert monitor.wait(10) == 0
    state = json.loads((host.data / "monitor" / "accounting.json").read_bytes())
    assert state["events"] == host.written


def test_the_challenger_ends_with_the_process_that_started_it(host: Host) -> None:
    script = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {_CHALLENGER!r}, '{planted.LOADER}']); "
        "print(p.pid, flush=True); time.sleep(1000)"
    )
    supervisor = host.start("-c", script)
    beat = host.data / "run" / "challenger-c.json"
    wait_for(beat.exists, "no heart-beat", host)
    pid = json.loads(beat.read_bytes())["pid"]
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not _runs(pid), "the challenger outlived its parent", host, 15)


def _check_by_the_frame_format_alone(host: Host) -> None:
    root = host.data / "log"
    told = frame_checker.accounted(root, "results/c")
    rows = [row for report in frame_checker.read_log(root) if report.stream == EVENTS for row in report.items]
    assert len(rows) == host.written
    for row in rows:
        (status,) = told[row.segment, row.row]
        assert (status == "unsampled") == (not row.sampled)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
