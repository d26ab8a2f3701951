"""The process in which a challenger's model runs.

``python -m shadow_mlops.challenger.scorer_child FD LOADER DIRECTORY PARENT`` knows neither log nor settings.
Whatever the model does here (hang, crash, leak), the challenger only has to replace it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.challenger.messages import Ready, Refused, Rows, Scores
from shadow_mlops.domain.errors import UnavailableError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.eventlog.records import Floats, Strings

_PR_SET_PDEATHSIG = 1


class Model(Protocol):
    """What a loader returns."""

    @property
    def card(self) -> ModelCard:
        """Which version it is and what it expects."""
        ...

    def predict(self, numbers: Floats, strings: Strings) -> Floats:
        """Scores, float64 (n, k)."""
        ...


def score_rows(predict: Callable[[Floats, Strings], Floats], numbers: Floats, strings: Strings, outputs: int) -> Scores:
    """Score rows so that a row on which the model fails costs no other row its score.

    Parameters
    ----------
    predict
        Takes (n, …) numbers and strings, returns (n, ``outputs``) scores.

    Returns
    -------
    Scores
        A row has failed if the model raises on it alone, or answers with another shape, NaN or infinity.

    Raises
    ------
    UnavailableError
        If the model runs elsewhere and does not answer.
    """
    count = len(numbers)
    scores = np.full((count, outputs), np.nan)
    failed = np.ones(count, dtype=np.bool_)
    problem = ""
    started = time.perf_counter()
    # Halving finds one bad row among n in 2·log2(n) more runs; one by one would take n.
    todo = [(0, count)]
    while todo:
        first, last = todo.pop()
        try:
            answer = _checked(predict(numbers[first:last], strings[first:last]), last - first, outputs)
        except UnavailableError:  # no fault of any row: this process ends, and the seat brings another, with pauses
            raise
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and the rows are marked as failed
            problem = problem or f"{type(error).__name__}: {error}"[:500]
            if last - first > 1:
                middle = (first + last) // 2
                todo += [(middle, last), (first, middle)]
            continue
        finite = np.isfinite(answer).all(axis=1)
        scores[first:last][finite] = answer[finite]
        failed[first:last] = ~finite
        if not finite.all():
            problem = problem or "the model answered with NaN or infinity"
    return Scores(scores.tobytes(), failed.tobytes(), time.perf_counter() - started, problem)


def _checked(answer: object, count: int, outputs: int) -> NDArray[np.float64]:
    array = np.asarray(answer, dtype=np.float64)
    if array.shape != (count, outputs):
        raise ValueError(f"the model answered with shape {array.shape} instead of {(count, outputs)}")
    return array


def _bind_to_parent(parent: int) -> None:
    """End with the parent even while the model hangs in C code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a scorer ends
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):  # without it the kernel may choose another process when memory runs out
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _load(loader: str, directory: Path) -> Model:
    module, _, function = loader.partition(":")
    model: Model = getattr(importlib.import_module(module), function)(directory)
    return model


def serve(connection: Connection, loader: str, directory: Path) -> None:
    """Load the model, then answer rows with scores until the other end closes."""
    encode = msgspec.msgpack.encode
    try:
        model = _load(loader, directory)
        card = model.card
    except BaseException as error:  # noqa: BLE001 - whatever loading raises, the challenger must hear of it
        connection.send_bytes(encode(Refused(f"{type(error).__name__}: {error}"[:1000])))
        return
    connection.send_bytes(encode(Ready(card)))
    decoder = msgspec.msgpack.Decoder(Rows)
    while True:
        try:
            rows = decoder.decode(connection.recv_bytes())
        except EOFError:
            return
        numbers = np.frombuffer(rows.numbers).reshape(rows.count, len(card.signature.numbers))
        strings = np.empty((rows.count, len(card.signature.strings)), dtype=np.object_)
        if strings.size:
            strings[:] = rows.strings
        connection.send_bytes(encode(score_rows(model.predict, numbers, strings, len(card.outputs))))


def main() -> None:
    """Entry point of the process."""
    descriptor, loader, directory, parent = sys.argv[1:]
    _bind_to_parent(int(parent))
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone; nobody is left to tell
        try:
            serve(Connection(int(descriptor)), loader, Path(directory))
        except UnavailableError as error:
            sys.stderr.write(f"the scorer ends: {error}\n")
            sys.exit(1)


if __name__ == "__main__":
    main()
