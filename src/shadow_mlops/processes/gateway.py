"""The gateway's parent: holds the socket, keeps workers and resolver alive, makes the log durable, merges metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from shadow_mlops.domain.errors import LogError, SettingsError
from shadow_mlops.eventlog.syncing import Syncer
from shadow_mlops.gateway.limiter import create_table
from shadow_mlops.processes.channel import Message, serve_worker
from shadow_mlops.processes.files import RATE_TABLE, write_word
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment, signal_quietly, start
from shadow_mlops.telemetry.logs import configure_logs
from shadow_mlops.telemetry.metrics import merged_text, open_metrics

BACKLOG = 2048
HANG_SECONDS = 30.0  # a worker says that it is alive each second; half a minute of silence is no garbage collection
STOP_SECONDS = 12.0  # longer than a worker's own drain
TICK_SECONDS = 0.05
_QUICK_DEATH_SECONDS = 5.0

log = structlog.get_logger()


def bind(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises
    ------
    SettingsError
        The address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port or API_PORT"
        ) from None
    listener.listen(BACKLOG)
    return listener


@dataclass(slots=True)
class Child:
    """One child process and what the parent knows of it."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    heard: float
    task: asyncio.Task[None] | None = None
    identity: str = ""
    generation: int = 0
    stopping: bool = False


@dataclass(slots=True)
class BackOff:
    """How long to wait before a child that keeps dying is started again."""

    delay: float = 0.0
    until: float = 0.0

    def note(self, lived: float) -> None:
        """Take account of a death after so many seconds of life."""
        self.delay = 0.0 if lived >= _QUICK_DEATH_SECONDS else min(5.0, self.delay * 2 or 0.1)
        self.until = time.monotonic() + self.delay

    @property
    def over(self) -> bool:
        """True when it may be started."""
        return time.monotonic() >= self.until


@dataclass(slots=True)
class GatewayParent:
    """Runs until SIGTERM or SIGINT, or until its own parent is gone."""

    settings: Settings
    listener: socket.socket
    workers: dict[int, Child] = field(default_factory=dict)
    retired: list[Child] = field(default_factory=list)
    resolver: Child | None = None
    _backoffs: dict[str, BackOff] = field(default_factory=dict)
    _stopping: bool = False
    _roll: bool = False
    _published: object = None

    async def run(self) -> None:
        """Start everything, keep it running, end it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._request_roll)
        parent = parent_from_environment()
        metrics = open_metrics(self.settings.data_dir / "run" / "metrics", "gateway-parent")
        restarts = metrics.process_restarts
        sync = asyncio.create_task(self._sync())
        while not self._stopping:
            if os.getppid() != parent:
                log.warning("the supervisor is gone, ending")
                break
            self._keep_resolver(restarts)
            self._keep_workers(restarts)
            if self._roll:
                self._roll = False
                await self._roll_workers()
            self._reap_retired()
            self._publish()
            await asyncio.sleep(TICK_SECONDS)
        sync.cancel()
        await self._end()

    def _stop(self) -> None:
        self._stopping = True

    def _request_roll(self) -> None:
        self._roll = True

    def _may_start(self, name: str) -> bool:
        return self._backoffs.setdefault(name, BackOff()).over

    def _start_worker(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        listen_fd = self.listener.fileno()
        process = start(
            "shadow_mlops.processes.worker",
            self.settings,
            [str(listen_fd), str(theirs.fileno())],
            pass_fds=[listen_fd, theirs.fileno()],
        )
        theirs.close()
        now = time.monotonic()
        child = Child(f"gateway-worker-{slot}", process, now, now)

        def heard(message: Message) -> None:
            child.heard = time.monotonic()
            if message.kind == "alive":
                _, child.identity, generation = message.text.split()
                child.generation = int(generation)

        directory = self.settings.data_dir / "run" / "metrics"
        ours.setblocking(False)
        child.task = asyncio.create_task(serve_worker(ours, lambda: merged_text(directory), heard))
        self.workers[slot] = child

    def _keep_workers(self, restarts: Counter) -> None:
        for slot in range(self.settings.api_workers):
            child = self.workers.get(slot)
            if child is not None and child.process.poll() is None:
                if time.monotonic() - child.heard > HANG_SECONDS:
                    log.error("a worker hangs, killing it", worker=child.name, pid=child.process.pid)
                    signal_quietly(child.process, signal.SIGKILL)
                continue
            if child is not None:
                self._note_death(child, restarts)
                del self.workers[slot]
            if self._may_start(f"gateway-worker-{slot}"):
                self._start_worker(slot)

    def _keep_resolver(self, restarts: Counter) -> None:
        if self.resolver is not None and self.resolver.process.poll() is None:
            return
        if self.resolver is not None:
            self._note_death(self.resolver, restarts)
            self.resolver = None
        if self._may_start("resolver"):
            now = time.monotonic()
            self.resolver = Child("resolver", start("shadow_mlops.processes.resolver", self.settings), now, now)

    def _note_death(self, child: Child, restarts: Counter) -> None:
        lived = time.monotonic() - child.started
        log.warning(
            "a process ended, restarting it",
            child=child.name,
            code=child.process.returncode,
            lived_seconds=round(lived, 1),
        )
        self._backoffs.setdefault(child.name, BackOff()).note(lived)
        restarts.labels(child.name).inc()

    async def _roll_workers(self) -> None:
        """Replace the workers one at a time; the old one goes when the new one answers."""
        for slot in list(self.workers):
            old = self.workers.pop(slot)
            self._start_worker(slot)
            new = self.workers[slot]
            deadline = time.monotonic() + 30
            while (
                new.generation == 0
                and new.process.poll() is None
                and time.monotonic() < deadline
                and not self._stopping
            ):
                await asyncio.sleep(TICK_SECONDS)
            if new.process.poll() is not None:
                log.error(
                    "the new worker did not start, the old one stays",
                    worker=old.name,
                    code=new.process.returncode,
                )
                self.workers[slot] = old
                return
            signal_quietly(old.process, signal.SIGTERM)
            old.heard, old.stopping = time.monotonic(), True
            self.retired.append(old)
        log.info("workers replaced", workers=len(self.workers))

    def _reap_retired(self) -> None:
        for child in list(self.retired):
            if child.process.poll() is not None:
                self.retired.remove(child)
            elif time.monotonic() - child.heard > STOP_SECONDS:
                signal_quietly(child.process, signal.SIGKILL)

    async def _sync(self) -> None:
        syncer = Syncer(self.settings.data_dir / "log")
        while True:
            await asyncio.sleep(1.0)
            try:
                await asyncio.to_thread(syncer.sync)
            except (LogError, OSError) as error:
                log.error("the log could not be made durable", reason=str(error))

    def _publish(self) -> None:
        pids = {child.name: child.process.pid for child in self.workers.values()}
        if self.resolver is not None:
            pids["resolver"] = self.resolver.process.pid
        generations = {child.name: child.generation for child in self.workers.values()}
        word = {
            "pid": os.getpid(),
            "port": self.listener.getsockname()[1],
            "children": pids,
            "generations": generations,
        }
        if word != self._published:
            self._published = word
            write_word(self.settings.data_dir / "run" / "gateway.json", word)

    async def _end(self) -> None:
        children = [*self.workers.values(), *self.retired, *([self.resolver] if self.resolver else [])]
        for child in children:
            signal_quietly(child.process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(child.process.poll() is None for child in children) and time.monotonic() < deadline:
            await asyncio.sleep(TICK_SECONDS)
        for child in children:
            signal_quietly(child.process, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=2)
            if child.task is not None:
                child.task.cancel()


def run(settings: Settings, *, listen_fd: int | None = None) -> None:
    """Run the gateway's parent in the foreground.

    Parameters
    ----------
    listen_fd
        A listening socket that the supervisor holds, so that connections queue while this process restarts; None:
        bind one.
    """
    configure_logs("gateway", level=settings.log_level)
    (settings.data_dir / "run").mkdir(parents=True, exist_ok=True)
    create_table(settings.data_dir / "run" / RATE_TABLE)
    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else bind(settings.api_host, settings.api_port)
    asyncio.run(GatewayParent(settings, listener).run())


if __name__ == "__main__":
    run(settings_from_environment(), listen_fd=int(sys.argv[1]) if len(sys.argv) > 1 else None)
