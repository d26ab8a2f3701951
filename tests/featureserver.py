"""A feature process in a thread, over a store that tests can stop, and its word in ``run/``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.features.memory import MemoryFeatures
from shadow_mlops.features.protocol import Whereabouts
from shadow_mlops.features.seam import Vectors
from shadow_mlops.features.server import FeatureServer, listen

DAY_US = 86_400_000_000


class Stoppable(MemoryFeatures):
    """Waits while ``hanging`` is set, fails while ``failing``; counts its reads."""

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.hanging, self.failing = threading.Event(), False
        self.reads: list[int] = []

    def online(self, names: Sequence[str], keys: Sequence[str]) -> Vectors:
        self.reads.append(len(keys))
        while self.hanging.is_set():
            threading.Event().wait(0.005)
        if self.failing:
            raise UnavailableError("the store is down")
        return super().online(names, keys)


@contextmanager
def feature_process(run: Path, store: MemoryFeatures, *, waiting: int = 64) -> Iterator[None]:
    run.mkdir(parents=True, exist_ok=True)
    path = run / "f.sock"
    ended: asyncio.Event = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    begun = threading.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        begun.set()
        await FeatureServer(lambda: store, waiting=waiting).serve(listener, ended)

    with listen(path) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        begun.wait()
        word = Whereabouts(str(path), os.getpid(), tuple(store.declared))
        (run / "features.json").write_bytes(msgspec.json.encode(word))
        try:
            yield
        finally:
            (run / "features.json").unlink()
            loops[0].call_soon_threadsafe(ended.set)
            thread.join(10)
