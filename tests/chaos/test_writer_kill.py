"""A writer that is killed, and a file that may not grow: what was acknowledged is there, once; nothing else is."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import frame_checker
from logrows import events, ids_of, read_all
from shadow_mlops.domain.errors import AppendError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.seam import Frame, Gone
from shadow_mlops.eventlog.segments import SegmentLog

TESTS = Path(__file__).parents[1]
HEADER_BYTES, SEAL_BYTES = 256, 56
ROTATING = (4, 12)
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from logrows import events
from shadow_mlops.eventlog.segments import SegmentLog
import os, signal
from shadow_mlops.eventlog import appending

appender = SegmentLog(Path(sys.argv[2]), segment_bytes=2_000_000).appender("events", writer=sys.argv[3])

class Torn:
    def __getattr__(self, name):
        return getattr(os, name)

    def pwrite(self, fd, data, at):
        os.pwrite(fd, data[: len(data) * 2 // 3], at)
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[5] == "rotating":
    appending._OpenSegment.close = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
number = 0
while True:
    if number == 30 and sys.argv[5] == "torn":
        appending.os = Torn()
    # A long id makes the write long, so that some kills hit inside it.
    ids = [f"{sys.argv[3]}-{number}-{i}" + "x" * int(sys.argv[4]) for i in range(1 + number % 50)]
    appender.append(events(ids))
    sys.stdout.write("".join(each.rstrip("x") + "\\n" for each in ids))
    sys.stdout.flush()
    number += 1
"""
RACER = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from logrows import events
from shadow_mlops.eventlog.segments import SegmentLog
appender = SegmentLog(Path(sys.argv[2]), segment_bytes=20_000).appender("events", writer=sys.argv[3])
number = 0
while True:
    appender.append(events([f"{sys.argv[3]}-{number}"]))
    number += 1
    if number % 10 == 0:
        time.sleep(random.random() / 100)
        appender.beat()
"""
CAPPED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from logrows import events
from shadow_mlops.domain.errors import AppendError
from shadow_mlops.eventlog.segments import SegmentLog
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
appender = SegmentLog(Path(sys.argv[2])).appender("events", writer="w")
for number in range(300):
    if number == 200:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        appender.append(events([f"{number}-{i}" for i in range(1 + number % 7)]))
    except AppendError:
        continue
    print(number, flush=True)
"""


@pytest.mark.chaos
def test_acknowledged_rows_survive_kill_9_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    torn: list[int] = []
    log = SegmentLog(tmp_path / "log", on_set_aside=lambda _, size: torn.append(size))
    following = log.tail(EVENTS)
    seen: list[str] = []
    acknowledged: list[str] = []
    for kill in range(20):
        size = rng.choice((0, 100, 20_000))
        # A kill from outside seldom hits inside a write or a rotation; some writers are killed exactly there.
        how = "torn" if kill % 2 else "rotating" if kill in ROTATING else "killed"
        command = [sys.executable, "-c", WRITER, str(TESTS), str(tmp_path / "log"), str(kill), str(size), how]
        output = tmp_path / f"acknowledged-{kill}"
        with output.open("wb") as file, subprocess.Popen(command, stdout=file) as writer:
            while output.stat().st_size == 0:
                seen += ids_of(following.poll(500))
                time.sleep(0.005)
            until = time.monotonic() + rng.uniform(0.01, 0.15)
            while writer.poll() is None and (how != "killed" or time.monotonic() < until):
                seen += ids_of(following.poll(500))
            writer.kill()
        text = output.read_text()
        acknowledged += text[: text.rfind("\n") + 1].split()
    seen += ids_of(read_all(following))
    seen = [each.rstrip("x") for each in seen]

    logged = [each.rstrip("x") for each in frame_checker.request_ids(tmp_path / "log")]
    assert len(acknowledged) > 500
    assert len(set(logged)) == len(logged)
    assert set(acknowledged) <= set(logged)
    assert len(seen) == len(logged)
    assert set(seen) == set(logged)
    assert following.backlog() == 0

    reports = list(frame_checker.read_log(tmp_path / "log"))
    infos = Retention(tmp_path / "log").segments()
    assert all(info.state in ("dead", "sealed") for info in infos)
    writers = {info.segment: info.writer for info in infos}
    unsealed: dict[str, list[frame_checker.SegmentReport]] = {str(kill): [] for kill in range(20)}
    for report in reports:
        if not report.sealed:
            unsealed[writers[report.segment]].append(report)
    for kill, (last, *new) in unsealed.items():
        # A rotation makes the next segment before it seals the last one, in which no row is missing then.
        assert [(report.rows, report.path.stat().st_size) for report in new] in ([], [(0, HEADER_BYTES)])
        assert not new or last.set_aside < SEAL_BYTES
        assert new or int(kill) not in ROTATING
    assert sorted(torn) == sorted(report.set_aside for report in reports if report.set_aside)
    unfinished = list((tmp_path / "log").glob("**/*.new"))  # killed while it made a new segment
    assert len(torn) + len(unfinished) >= 10
    assert len(torn) >= 3


@pytest.mark.chaos
def test_ordered_reading_never_goes_back_while_writers_race_rotate_and_die(tmp_path: Path) -> None:
    tail = SegmentLog(tmp_path / "log").tail(EVENTS)
    frames: list[Frame] = []

    def read(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            frames.extend(frame for frame in tail.poll_ordered(200) if isinstance(frame, Frame))

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", RACER, str(TESTS), str(tmp_path / "log"), name])

    writers = [start(f"{number}") for number in range(3)]
    try:
        for turn in range(6):
            read(0.7)
            writers[turn % 3].kill()
            writers[turn % 3].wait()
            writers[turn % 3] = start(f"{turn + 3}")
        read(0.7)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    while new := tail.poll_ordered(1000):
        frames.extend(frame for frame in new if isinstance(frame, Frame))
    order = [(frame.boot, frame.monotonic_ns) for frame in frames]
    assert order == sorted(order)
    assert sum(frame.segment != after.segment for frame, after in itertools.pairwise(frames)) > 100
    assert sorted(ids_of(frames)) == sorted(frame_checker.request_ids(tmp_path / "log"))


@pytest.mark.chaos
@pytest.mark.parametrize("limit", [20_000, 20_001, 20_100, 33_333])
def test_a_file_that_may_not_grow_is_never_damaged(tmp_path: Path, limit: int) -> None:
    log = SegmentLog(tmp_path / "log")
    following = log.tail(EVENTS)
    command = [sys.executable, "-c", CAPPED, str(TESTS), str(tmp_path / "log"), str(limit)]
    seen: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            seen += ids_of(following.poll(100))
        assert writer.stdout is not None
        numbers = [int(line) for line in writer.stdout]
    seen += ids_of(read_all(following))
    assert writer.returncode == 0
    assert 0 < len(numbers) < 300
    assert numbers[-100:] == list(range(200, 300))  # once there is room, appends succeed again
    expected = [f"{number}-{i}" for number in numbers for i in range(1 + number % 7)]
    assert seen == expected
    assert frame_checker.request_ids(tmp_path / "log") == expected
    assert sum(report.set_aside for report in frame_checker.read_log(tmp_path / "log")) == 0


@pytest.mark.chaos
@pytest.mark.needs_tmpfs
def test_a_full_disk_loses_only_what_was_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=True)
    try:
        log = SegmentLog(disk / "log", segment_bytes=30_000)
        appender = log.appender(EVENTS, writer="w")
        retention = Retention(disk / "log")
        retention.segments()
        tail = log.tail(EVENTS)
        kept, refused = [], 0
        for number in range(3000):
            try:
                appender.append(events([str(number)]))
                kept.append(str(number))
            except AppendError:
                refused += 1
        assert refused > 100
        seen = ids_of(read_all(tail))
        assert seen == kept
        for info in retention.segments():
            if info.state == "sealed":
                retention.retire(info)
        appender._no_rotation_before_ns = 0
        appender.append(events(["after"]))
        assert ids_of(read_all(tail)) == ["after"]
        late = read_all(log.tail(EVENTS, {}))
        assert sum(item.count for item in late) == len(kept) + 1
        assert any(isinstance(item, Gone) for item in late)
        assert sum(report.set_aside for report in frame_checker.read_log(disk / "log")) == 0
        for item in (tail, appender):
            item.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
