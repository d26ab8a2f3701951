"""The feature process: reads a store for the gateway workers and challengers of a host, in a few threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from shadow_mlops.domain.errors import ShadowError, UnavailableError
from shadow_mlops.features.protocol import Question, Reply, pack, receive
from shadow_mlops.features.seam import FeatureStore

log = structlog.get_logger()

_COMPLAIN_SECONDS = 5.0


def listen(path: Path) -> socket.socket:
    """A Unix socket that only this user may connect to; what stands there is taken away."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # between binding and a later chmod anybody could connect
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


class FeatureServer:
    """Answers questions; more than it can hold are refused at once, and those that nobody waits for are not read.

    Parameters
    ----------
    open_store
        Called once in each thread: stores with one connection are not to be shared.
    threads
        Reads at a time: a network store answers several at once, and one that hangs must not stop all.
    waiting
        Questions that may wait for a thread.
    """

    def __init__(self, open_store: Callable[[], FeatureStore], *, threads: int = 2, waiting: int = 64) -> None:
        self._open_store = open_store
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="features")
        self._threads = threads
        self._bound = threads + waiting
        self._under_way = 0
        self._local = threading.local()
        self._complained = 0.0

    def warm(self, names: Sequence[str]) -> None:
        """Open the store in every thread and read once: the first request must not pay for that.

        Raises
        ------
        FeatureStoreError
            The store cannot be opened. One that does not answer may yet do so.
        """
        together = threading.Barrier(self._threads)

        def open_and_read() -> None:
            together.wait()  # so that no thread does it twice, and another not at all
            store = self._store()
            with contextlib.suppress(UnavailableError):
                store.online(names, ["-"])

        for done in [self._pool.submit(open_and_read) for _ in range(self._threads)]:
            done.result()

    async def serve(self, listener: socket.socket, ended: asyncio.Event) -> None:
        """Answer whoever connects until the event is set."""
        async with await asyncio.start_unix_server(self._connected, sock=listener):
            await ended.wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                question = await receive(reader, Question)
                task = asyncio.create_task(self._answer(question, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (UnavailableError, asyncio.CancelledError):
            # The client has ended or lost its patience, or this process ends: before Python 3.12 asyncio prints a
            # handler that was cancelled as if it had failed.
            writer.close()

    async def _answer(self, question: Question, writer: asyncio.StreamWriter) -> None:
        if self._under_way >= self._bound:
            reply = _refused(question, "too many reads are waiting")
        else:
            self._under_way += 1
            try:
                reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._read, question)
            finally:
                self._under_way -= 1
        if not writer.is_closing():
            writer.write(pack(reply))

    def _read(self, question: Question) -> Reply:
        if time.monotonic() > question.deadline:
            return _refused(question, "too late")
        try:
            store = self._store()
            if question.times is None:
                vectors = store.online(question.names, question.keys)
            else:
                vectors = store.history(question.names, question.keys, question.times)
        except ShadowError as error:
            if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
                self._complained = time.monotonic()
                log.warning("features could not be read", reason=str(error))
            return _refused(question, str(error))
        except Exception:
            # Without an answer the client would only see a time-out, and nobody would learn of the defect.
            log.exception("a read of features failed")
            return _refused(question, "the read failed; the feature process's log says why")
        return Reply(question.id, vectors.values, vectors.held, vectors.times)

    def _store(self) -> FeatureStore:
        if not hasattr(self._local, "store"):
            self._local.store = self._open_store()
        store: FeatureStore = self._local.store
        return store


def _refused(question: Question, problem: str) -> Reply:
    return Reply(question.id, [], [], [], problem)
