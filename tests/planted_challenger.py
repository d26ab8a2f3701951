"""A challenger's model that does what the rows tell it to: the first number is its score, or one of these orders.

The scorer's process imports it by name, so this folder must be on its ``PYTHONPATH``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard

LOADER = "planted_challenger:load"
FOLDER = Path(__file__).parent
HANG, CRASH, EXIT, RAISE, ANSWER_NAN, ANSWER_MISSHAPEN, LEAK, LEAK_AND_HANG = (
    -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0,
)  # fmt: skip
_leaked: list[bytearray] = []


def prepare(folder: Path, version: str = "1.0", *, order: str = "") -> Path:
    """A prepared directory; ``order`` is given to the model when it is loaded."""
    directory = folder / version
    directory.mkdir(parents=True)
    card = ModelCard(
        name="planted",
        version=version,
        registry_version=version,
        task="binary",
        runtime="planted",
        file="order",
        sha256="",
        signature=Signature((Feature("a"), Feature("s", "string"), Feature("b"))),
        classes=("0", "1"),
    )
    (directory / "card.json").write_bytes(msgspec.json.encode(card))
    (directory / "order").write_text(order)
    return directory


def _leak() -> None:
    _leaked.append(bytearray(b"x") * (300 << 20))


class Planted:
    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def predict(self, numbers: np.ndarray, _strings: np.ndarray) -> np.ndarray:
        first = numbers[:, 0]
        if (first == HANG).any():
            time.sleep(1e6)
        if (first == CRASH).any():
            os.abort()
        if (first == EXIT).any():
            sys.exit(3)
        if (first == RAISE).any():
            raise RuntimeError("this row is poison")
        if (first == ANSWER_MISSHAPEN).any():
            return np.zeros((len(numbers), 3))
        if (first == LEAK).any():
            threading.Timer(0.3, _leak).start()
        if (first == LEAK_AND_HANG).any():
            _leak()
            time.sleep(1e6)
        scores = np.column_stack([1 - first, first])
        scores[first == ANSWER_NAN] = np.nan
        return scores


def load(directory: Path) -> Planted:
    order = (directory / "order").read_text()
    if order == "refuse":
        raise ValueError("it was ordered to")
    if order == "hang":
        time.sleep(1e6)
    return Planted(msgspec.json.decode((directory / "card.json").read_bytes(), type=ModelCard))
