"""All processes of one deployment under one roof: ``shadow up``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import DeploymentError
from shadow_mlops.models.serving import read_serving
from shadow_mlops.processes.files import write_word
from shadow_mlops.processes.gateway import BackOff, bind
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import signal_quietly, start
from shadow_mlops.telemetry.logs import configure_logs

TICK_SECONDS = 0.1
STOP_SECONDS = 20.0  # the gateway's own drain and end take up to 14
CONSOLE_SECONDS = 5.0  # it starts after the first answer, and is there soon also where nothing can be answered

log = structlog.get_logger()


@dataclass(slots=True)
class Member:
    """One process that must be running."""

    name: str
    module: str
    arguments: list[str]
    pass_fds: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: BackOff = field(default_factory=BackOff)


class Supervisor:
    """Keeps gateway, monitor, console and one challenger process per published challenger running.

    Parameters
    ----------
    settings
        With ``deployment_file`` naming an existing file.
    watch
        Folders and files; when one changes, workers are replaced (a changed deployment file is checked first).
    on_ready
        Called once, with the URL, when the first answer can be given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        watch: Sequence[Path] = (),
        on_ready: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._run = settings.data_dir / "run"
        self._run.mkdir(parents=True, exist_ok=True)
        self._listener = bind(settings.api_host, settings.api_port)
        self._watch = [path.resolve() for path in watch]
        self._on_ready = on_ready
        self._members: dict[str, Member] = {}
        self._leaving: list[tuple[Member, float]] = []
        self._stopping = False
        self._signals = 0
        self._published: object = None
        self._answering = False

    @property
    def port(self) -> int:
        """Port that is listened on."""
        port: int = self._listener.getsockname()[1]
        return port

    async def run(self) -> int:
        """Start everything and keep it running until SIGINT or SIGTERM.

        Returns
        -------
        int
            Exit code: 0 after a clean end, 1 if a process had to be killed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self._prepare_run()
        fd = self._listener.fileno()
        self._add(Member("gateway", "shadow_mlops.processes.gateway", [str(fd)], [fd]))
        self._add(Member("monitor", "shadow_mlops.processes.monitor", []))
        if load_deployment(self._settings.deployment_file).feature_store is not None:
            self._add(Member("features", "shadow_mlops.processes.features", []))
        tasks = [asyncio.create_task(self._announce())]
        if self._watch:
            tasks.append(asyncio.create_task(self._reload(self._settings.deployment_file.resolve())))
        begun = time.monotonic()
        while not self._stopping:
            self._follow_challengers()
            if "console" not in self._members and (self._answering or time.monotonic() - begun > CONSOLE_SECONDS):
                # its imports take seconds of the processor that the first answer needs
                self._add(Member("console", "shadow_mlops.processes.console", []))
            for member in self._members.values():
                self._keep(member)
            self._reap()
            self._publish()
            await asyncio.sleep(TICK_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await self._end()

    def _prepare_run(self) -> None:
        # Words of processes of an earlier life must not pass for today's.
        for path in self._run.glob("*.json"):
            path.unlink(missing_ok=True)
        for path in (self._run / "metrics").glob("*.db"):
            path.unlink(missing_ok=True)
        write_word(self._run / "deployment.json", {"status": "ok", "detail": str(self._settings.deployment_file)})

    def _stop(self) -> None:
        self._signals += 1
        self._stopping = True
        if self._signals > 1:
            for member in self._all():
                if member.process is not None and member.process.poll() is None:
                    os.killpg(member.process.pid, signal.SIGKILL)

    def _all(self) -> list[Member]:
        return [*self._members.values(), *(member for member, _ in self._leaving)]

    def _add(self, member: Member) -> None:
        self._members[member.name] = member
        self._keep(member)

    def _keep(self, member: Member) -> None:
        if member.process is not None:
            code = member.process.poll()
            if code is None:
                return
            lived = time.monotonic() - member.started
            member.backoff.note(lived)
            member.process = None
            if member.name == "console":  # its port may soon be another's: nobody must send the token there
                (self._run / "console.json").unlink(missing_ok=True)
            log.warning("a process ended, restarting it", child=member.name, code=code, lived_seconds=round(lived, 1))
        if member.backoff.over:
            member.process = start(member.module, self._settings, member.arguments, pass_fds=member.pass_fds)
            member.started = time.monotonic()

    def _follow_challengers(self) -> None:
        serving = read_serving(self._settings.data_dir / "serving.json")
        wanted = {f"challenger-{name}": name for name in (serving.challengers if serving else {})}
        running = {name for name, member in self._members.items() if member.module.endswith(".challenger")}
        for name in running - wanted.keys():
            self._dismiss(name)
        for name in wanted.keys() - running:
            self._add(Member(name, "shadow_mlops.processes.challenger", [wanted[name]]))

    def _dismiss(self, name: str) -> None:
        member = self._members.pop(name)
        if member.process is not None:
            signal_quietly(member.process, signal.SIGTERM)
            self._leaving.append((member, time.monotonic() + STOP_SECONDS))

    def _reap(self) -> None:
        for member, deadline in list(self._leaving):
            if member.process is None or member.process.poll() is not None:
                self._leaving.remove((member, deadline))
            elif time.monotonic() > deadline:
                signal_quietly(member.process, signal.SIGKILL)

    def _publish(self) -> None:
        pids = {"supervisor": os.getpid()}
        pids |= {
            m.name: m.process.pid for m in self._members.values() if m.process is not None and m.process.poll() is None
        }
        gateway = self._gateway_word()
        pids |= gateway.get("children", {})
        if pids != self._published:
            self._published = pids
            write_word(self._run / "processes.json", pids)

    def _gateway_word(self) -> dict[str, dict[str, int]]:
        try:
            return msgspec.json.decode((self._run / "gateway.json").read_bytes(), type=dict)
        except (OSError, msgspec.DecodeError):
            return {}  # the gateway's parent has not spoken yet

    async def _announce(self) -> None:
        while not any(self._gateway_word().get("generations", {}).values()):
            await asyncio.sleep(TICK_SECONDS)
        self._answering = True
        host = "localhost" if self._settings.api_host in {"0.0.0.0", "::"} else self._settings.api_host  # noqa: S104
        self._on_ready(f"http://{host}:{self.port}")

    async def _reload(self, deployment_file: Path) -> None:
        async for changed in _changes(self._watch):
            file = deployment_file
            if file in changed:
                try:
                    load_deployment(file)
                except DeploymentError as error:
                    log.error(
                        "the changed deployment file is refused, the running one stays in force",
                        reason=str(error),
                    )
                    write_word(self._run / "deployment.json", {"status": "failed", "detail": str(error)})
                    continue
                write_word(self._run / "deployment.json", {"status": "ok", "detail": str(file)})
            log.info("reloading", changed=sorted(str(path) for path in changed)[:3])
            for name, member in self._members.items():
                if member.process is not None:
                    signal_quietly(member.process, signal.SIGHUP if name == "gateway" else signal.SIGTERM)

    async def _end(self) -> int:
        members = self._all()
        # challengers and monitor first: whatever the gateway still appends is read by the next start
        for member in reversed(members):
            if member.process is not None:
                signal_quietly(member.process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(m.process is not None and m.process.poll() is None for m in members) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        late = [m for m in members if m.process is not None and m.process.poll() is None]
        for member in late:
            assert member.process is not None  # noqa: S101 - filtered above
            log.error("a process did not end, killing it", child=member.name, pid=member.process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(member.process.pid, signal.SIGKILL)
        self._listener.close()
        return 1 if late else 0


async def _changes(paths: Sequence[Path]) -> AsyncIterator[set[Path]]:
    try:
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - an extra, needed only with --reload
    except ImportError:
        log.error("--reload needs the extra: pip install 'shadow-mlops[reload]'")
        return
    watched = PythonFilter(extra_extensions=[".yaml", ".yml"])
    async for changes in awatch(*paths, watch_filter=watched):
        yield {Path(path) for _, path in changes}


def run(settings: Settings, *, watch: Sequence[Path] = (), on_ready: Callable[[str], None] = lambda _: None) -> int:
    """Run the supervisor in the foreground.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    ConflictError
        Another one runs on the same data directory.
    SettingsError
        The address cannot be listened on.
    DeploymentError
        The deployment file is wrong.
    """
    load_deployment(settings.deployment_file)
    configure_logs("up", level=settings.log_level)
    with only_one(settings.data_dir / "run" / "supervisor.lock", "shadow up"):
        return asyncio.run(Supervisor(settings, watch=watch, on_ready=on_ready).run())
