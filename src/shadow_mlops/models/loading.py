"""From a prepared directory to a model that has shown that it answers as it did when it was prepared."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.elsewhere import report, run_elsewhere
from shadow_mlops.models.prepared import difference, file_sha256, read_card, read_recorded, recorded_rows
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import Detached, Runtime, load_runtime

_WARM_UP_SECONDS = 0.1
_WARM_UP_ROWS = 200


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model version that may serve.

    Attributes
    ----------
    single_row_seconds
        Median duration of scoring one row in this process; decides whether the model may run on the event loop.
    """

    directory: Path
    card: ModelCard
    runtime: Runtime
    single_row_seconds: float

    @property
    def detached(self) -> Detached | None:
        """The runtime, if its model is in another process or on another host; None for one that is in this process."""
        return self.runtime if isinstance(self.runtime, Detached) else None

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """Scores, float64 (n, len(card.outputs)).

        Parameters
        ----------
        numbers, strings
            As :class:`~shadow_mlops.domain.features.Signature` has them.

        Raises
        ------
        PredictionError
            If the model fails on these rows. A row for which a model has no answer (a missing value that its pipeline
            does not fill) may also come back as NaN.
        UnavailableError
            If a detached model does not answer now.
        """
        return self.runtime.predict(numbers, strings)


def load_model(directory: Path) -> LoadedModel:
    """Load a prepared directory, verify it, and warm it up.

    Raises
    ------
    ModelRefusedError
        If the file is not the one that was prepared, cannot be loaded, or does not give its recorded answers.
    UnavailableError
        If its model is elsewhere and does not answer now; it may serve later.
    """
    card = read_card(directory)
    try:
        found = file_sha256(directory / card.file)
    except OSError as error:
        raise ModelRefusedError(f"{directory / card.file} cannot be read: {error}") from error
    if found != card.sha256:
        raise ModelRefusedError(f"{directory / card.file} is not the file that was prepared: its SHA-256 is {found}")
    runtime = load_runtime(directory, card)
    try:
        rows = _checked(directory, card, runtime)
        return LoadedModel(directory, card, runtime, _warm_up(runtime, rows))
    except BaseException:
        if isinstance(runtime, Detached):
            runtime.close()  # a remote that is away is tried each second: nothing may stay behind each time
        raise


def _checked(directory: Path, card: ModelCard, runtime: Runtime) -> Rows:
    """The recorded rows, once the model has answered them as recorded."""
    recorded = read_recorded(directory)
    try:
        rows = recorded_rows(recorded, card)
        expected = np.array(recorded.scores, dtype=np.float64).reshape(len(rows), len(card.outputs))
        apart = difference(expected, runtime.predict(rows.numbers, rows.strings))
    except (ValueError, PredictionError) as error:
        raise ModelRefusedError(f"{directory} cannot score its recorded rows: {error}") from error
    if apart > recorded.tolerance:
        raise ModelRefusedError(
            f"{directory} answers its recorded rows otherwise:"
            f" the difference is {apart:.3g}, above {recorded.tolerance:g}"
        )
    return rows


def _warm_up(runtime: Runtime, rows: Rows) -> float:
    """Median seconds for one row; 0 when there is no row to try."""
    one = rows.take(1)
    durations: list[float] = []
    most = 1 if isinstance(runtime, Detached) else _WARM_UP_ROWS  # somebody else's server is not warmed up by the dozen
    while len(one) and sum(durations) < _WARM_UP_SECONDS and len(durations) < most:
        begun = time.perf_counter()
        runtime.predict(one.numbers, one.strings)
        durations.append(time.perf_counter() - begun)
    return float(np.median(durations)) if durations else 0.0


def load_elsewhere(directory: Path, *, seconds: float = 60.0) -> None:
    """Load a prepared directory in a process of its own, as :func:`load_model` does, and let it go.

    A model that hangs, crashes or leaves threads behind then harms nobody who has other models to look after.

    Raises
    ------
    ModelRefusedError
        As :func:`load_model`, or when the process dies or takes too long.
    """
    run_elsewhere("shadow_mlops.models.loading", [str(directory)], what=f"loading {directory}", seconds=seconds)


if __name__ == "__main__":
    report(lambda: load_model(Path(sys.argv[1])))
