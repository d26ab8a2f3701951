"""The resolver: ``python -m shadow_mlops.processes.resolver`` under the gateway's parent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ModelError
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.domain.features import Signature
from shadow_mlops.eventlog import EventBatch, EventLog, Frame
from shadow_mlops.eventlog.segments import SegmentLog
from shadow_mlops.models.promoted import PROMOTED, read_promoted
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.resolver import Resolver
from shadow_mlops.processes.files import write_word
from shadow_mlops.processes.lifetime import Lifetime
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import parent_from_environment, settings_from_environment
from shadow_mlops.telemetry.logs import configure_logs

log = structlog.get_logger()

_STEP_SECONDS = 1.0
_LONGEST_PAUSE = 5.0
_NAP_SECONDS = 0.1  # an end, and a promotion on this host, are noticed that soon
_RECENT_ROWS = 1000
_LOW_PRIORITY = 10  # converting a stranger's model takes seconds of CPU that clients need more


def run(settings: Settings, deployment: Deployment, *, parent: int | None = None) -> None:
    """Follow the registry's aliases until asked to end.

    Each step writes ``<data-dir>/run/resolver.json``: ``{"at", "status": "ok|failed", "detail"}``.

    Parameters
    ----------
    parent
        Process id with which this process ends; None if there is none.
    """
    configure_logs("resolver", level=settings.log_level)
    with suppress(OSError):  # nicer than allowed is no reason not to serve
        os.setpriority(os.PRIO_PROCESS, 0, _LOW_PRIORITY)
    lifetime = Lifetime(parent)
    events = SegmentLog(settings.data_dir / "log", segment_bytes=settings.segment_bytes)
    resolver = Resolver(
        Registry(settings.tracking_uri, settings.artifact_root),
        name=deployment.name,
        data_dir=settings.data_dir,
        champion_pin=settings.model_champion_version,
        challenger_pin=settings.model_challenger_version,
        allow_pickle=settings.allow_pickle,
        recent_rows=lambda signature: recent_rows(events, signature),
    )
    word = settings.data_dir / "run" / "resolver.json"
    word.parent.mkdir(parents=True, exist_ok=True)
    follow(resolver, word, ending=lifetime.ending, nudged=Nudges(resolver, settings.data_dir))
    log.info("resolver has ended")


class Nudges:
    """Whether a promotion on this host has moved the aliases since it was asked last; its version is trusted."""

    def __init__(self, resolver: Resolver, data_dir: Path) -> None:
        self._resolver = resolver
        self._data_dir = data_dir
        self._seen = self._mark()

    def __call__(self) -> bool:
        """True once for each promotion."""
        mark = self._mark()
        if mark == self._seen:
            return False
        self._seen = mark
        try:
            promoted = read_promoted(self._data_dir)
        except ModelError as error:
            log.warning("the word of a promotion is not understood", reason=str(error))
            return False
        if promoted is not None:
            self._resolver.trust(promoted)
        return True

    def _mark(self) -> tuple[int, int] | None:
        try:
            stat = (self._data_dir / PROMOTED).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino


def follow(
    resolver: Resolver,
    word: Path,
    *,
    ending: Callable[[], bool],
    nudged: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Step each second, at once when nudged or when a version is ready.

    When the registry fails, step less often, and never end because of it.
    """
    failures = 0
    told = ""
    while not ending():
        begun = time.monotonic()
        try:
            serving = resolver.step()
        except ModelError as error:
            failures += 1
            status, detail = "failed", str(error)
        else:
            failures = 0
            status, detail = "ok", f"generation {serving.generation}" if serving else "nothing to serve yet"
            if resolver.problems:
                status, detail = "failed", "; ".join(resolver.problems)
        if status == "failed" and detail != told:
            log.warning("the registry is not obeyed", reason=detail)
        elif told and status == "ok":
            log.info("the registry is obeyed again", detail=detail)
        told = detail if status == "failed" else ""
        detail += "".join(f"; version {number} is being prepared" for number in resolver.trying)
        write_word(word, {"at": datetime.now(UTC).isoformat(), "status": status, "detail": detail})
        wait = min(_LONGEST_PAUSE, _STEP_SECONDS * 2**failures) if failures else _STEP_SECONDS
        due = begun + wait
        while not (ending() or nudged() or resolver.news) and (left := due - time.monotonic()) > 0:
            pause(min(left, _NAP_SECONDS))


def recent_rows(
    events: EventLog, signature: Signature, count: int = _RECENT_ROWS
) -> tuple[NDArray[np.float64], NDArray[np.object_]] | None:
    """The last recorded rows that have all features of a signature; None when there are none.

    Returns
    -------
    tuple or None
        ``numbers`` float64 (n, Fn) and ``strings`` object (n, Fs), at most about ``count`` rows.
    """
    tail = events.tail(EVENTS)
    try:
        surplus = tail.backlog() - count
        if surplus > 0:
            tail.skip(surplus)
        batches = []
        while found := tail.poll(count):
            batches += [f.batch for f in found if isinstance(f, Frame) and isinstance(f.batch, EventBatch)]
            if sum(len(batch) for batch in batches) >= count:  # clients may append faster than this reads
                break
    finally:
        tail.close()
    usable = [b for b in batches if _has(b, signature)]
    if not usable:
        return None
    numbers = [b.numbers[:, [b.schema.numbers.index(n) for n in signature.numbers]] for b in usable]
    strings = [b.strings[:, [b.schema.strings.index(n) for n in signature.strings]] for b in usable]
    return np.vstack(numbers)[-count:], np.vstack(strings)[-count:]


def _has(batch: EventBatch, signature: Signature) -> bool:
    schema = batch.schema
    return set(signature.numbers) <= set(schema.numbers) and set(signature.strings) <= set(schema.strings)


def main() -> None:
    """Run with the settings that the parent passed on."""
    settings = settings_from_environment()
    run(settings, load_deployment(settings.deployment_file), parent=parent_from_environment())
    sys.stderr.flush()
    os._exit(0)  # neither a preparation that hangs nor the threads of its download keep this process


if __name__ == "__main__":
    main()
