"""Model runtimes that misbehave on traffic, planted by the entry points that any third party uses.

Each loads the ONNX file of a good model and gives its recorded answers, so that it is let in.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.runtimes import onnx

_LEAK_BYTES = 128 << 20
_leaked: list[bytearray] = []


class FaultyRuntime:
    """A good model until it sees rows that are not its recorded ones."""

    def __init__(self, good: onnx.OnnxRuntime, fault: Callable[[], None]) -> None:
        self._good = good
        self._fault = fault
        self._recorded: NDArray[np.float64] | None = None

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        if self._recorded is None:
            self._recorded = numbers.copy()
        elif len(numbers) != 1 or not np.array_equal(numbers, self._recorded[:1], equal_nan=True):
            self._fault()
        return self._good.predict(numbers, strings)


def _sleep_for_ever() -> None:
    time.sleep(1e6)


def _leak() -> None:
    block = bytearray(_LEAK_BYTES)
    block[::4096] = b"x" * len(block[::4096])
    _leaked.append(block)


def _burn() -> None:
    if not any(thread.name == "burner" for thread in threading.enumerate()):
        threading.Thread(target=_spin, name="burner", daemon=True).start()


def _spin() -> None:
    while True:
        np.sort(np.random.default_rng(0).random(200_000))  # outside the interpreter's lock, and hard on the cache


def hang(directory: Path, card: ModelCard) -> FaultyRuntime:
    return FaultyRuntime(onnx.load(directory, card), _sleep_for_ever)


def crash(directory: Path, card: ModelCard) -> FaultyRuntime:
    return FaultyRuntime(onnx.load(directory, card), os.abort)


def burn(directory: Path, card: ModelCard) -> FaultyRuntime:
    return FaultyRuntime(onnx.load(directory, card), _burn)


def leak(directory: Path, card: ModelCard) -> FaultyRuntime:
    return FaultyRuntime(onnx.load(directory, card), _leak)
