"""Steps of a command that takes its time: what is done, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from rich.console import Console

Step: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Called with what is about to be done; what it returns is left when that is done."""


def quiet(_doing: str) -> AbstractContextManager[object]:
    """A step that shows nothing."""
    return nullcontext()


def shown_on(console: Console) -> Step:
    """Steps with a spinner on a terminal, one line each elsewhere."""

    @contextmanager
    def step(doing: str) -> Iterator[None]:
        began = time.perf_counter()
        with console.status(f"{doing} …") if console.is_terminal else nullcontext():
            yield
        console.print(f"{doing}: {time.perf_counter() - began:.1f} s", style="dim", highlight=False)

    return step
