"""What scores rows: one file per format, found by entry point, so that a third party's comes in by the same door."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard

GROUP = "shadow_mlops.runtimes"
_INSTALL = {
    "onnx": "pip install onnxruntime",
    "skops": "pip install 'shadow-mlops[train]'",
    "lightgbm": "pip install 'shadow-mlops[lightgbm]'",
    "xgboost": "pip install 'shadow-mlops[xgboost]'",
    "http": "pip install httpx2",
}


class Runtime(Protocol):
    """A loaded model file.

    A loader, ``load(directory: Path, card: ModelCard) -> Runtime``, is registered as an entry point of group
    ``shadow_mlops.runtimes``; it raises :class:`~shadow_mlops.domain.errors.ModelRefusedError` for a file that may not
    serve.
    """

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """Scores of rows.

        Parameters
        ----------
        numbers
            float64 (n, Fn) in the order of ``card.signature.numbers``; NaN is missing.
        strings
            object (n, Fs) of str or None in the order of ``card.signature.strings``; None is missing, and models
            see it as the empty string.

        Returns
        -------
        ndarray
            float64 (n, k): a probability per class, or (n, 1) values. Row i depends on row i of the input alone.

        Raises
        ------
        PredictionError
            If the model cannot score these rows.
        UnavailableError
            If a :class:`Detached` runtime cannot score anything now.
        """
        ...


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the calls of a detached model since somebody last asked."""

    calls: dict[str, int]
    """Result -> count: ``ok``, ``refused`` (its answer was that it cannot score these rows), and the failures
    ``timeout``, ``unreachable``, ``status``, ``garbage``, ``died``, ``skipped`` (it failed too often to be tried)."""
    state: Literal["closed", "half-open", "open"]
    """Of the breaker: ``open`` means that calls are skipped."""


@runtime_checkable
class Detached(Protocol):
    """Further power of a runtime whose model is in another process or on another host.

    However fast it was when it was loaded, it may be slow or away the next time, so nobody calls it where others wait.
    Its ``predict`` returns within a time-out, raises :class:`~shadow_mlops.domain.errors.UnavailableError` when the
    model does not answer as it should (trying again, row by row, is then of no use), and gives NaN for rows that the
    model refused.
    """

    def tally(self) -> Tally:
        """What became of the calls since the last time this was asked."""
        ...

    def close(self) -> None:
        """End the process, close the connections, without waiting; ``predict`` may fail from now on."""
        ...


def load_runtime(directory: Path, card: ModelCard) -> Runtime:
    """Load ``card.file`` by the entry point that ``card.runtime`` names.

    Raises
    ------
    ModelRefusedError
        If there is no such runtime, a package it needs is absent (the message has the install line), or it refuses
        the file.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    point = found.get(card.runtime)
    if point is None:
        raise ModelRefusedError(f"no runtime {card.runtime!r} is installed; installed are {', '.join(sorted(found))}")
    try:
        load: Any = point.load()
    except ImportError as error:
        line = _INSTALL.get(card.runtime, f"pip install {point.dist.name if point.dist else card.runtime}")
        raise ModelRefusedError(f"runtime {card.runtime!r} needs {error.name or error}: {line}") from error
    runtime: Runtime = load(directory, card)
    return runtime


def without_none(strings: NDArray[np.object_]) -> NDArray[np.object_]:
    """The strings as models see them: a missing one is the empty string.

    >>> without_none(np.array([["a", None]], dtype=object)).tolist()
    [['a', '']]
    """
    cells = strings.ravel().tolist()  # a list is scanned ten times faster than an object array is compared
    if None not in cells:
        return strings
    filled = np.empty(len(cells), dtype=object)
    filled[:] = ["" if cell is None else cell for cell in cells]
    return filled.reshape(strings.shape)
