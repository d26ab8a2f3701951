"""From a prepared directory to a model that has shown that it answers as it did when it was prepared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.prepared import difference, file_sha256, read_card, read_recorded, recorded_rows
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import Runtime, load_runtime

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
        """
        return self.runtime.predict(numbers, strings)


def load_model(directory: Path) -> LoadedModel:
    """Load a prepared directory, verify it, and warm it up.

    Raises
    ------
    ModelRefusedError
        If the file is not the one that was prepared, cannot be loaded, or does not give its recorded answers.
    """
    card = read_card(directory)
    try:
        found = file_sha256(directory / card.file)
    except OSError as error:
        raise ModelRefusedError(f"{directory / card.file} cannot be read: {error}") from error
    if found != card.sha256:
        raise ModelRefusedError(f"{directory / card.file} is not the file that was prepared: its SHA-256 is {found}")
    runtime = load_runtime(directory, card)
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
    return LoadedModel(directory, card, runtime, _warm_up(runtime, rows))


def _warm_up(runtime: Runtime, rows: Rows) -> float:
    """Median seconds for one row; 0 when there is no row to try."""
    one = rows.take(1)
    durations: list[float] = []
    while len(one) and sum(durations) < _WARM_UP_SECONDS and len(durations) < _WARM_UP_ROWS:
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
    command = [sys.executable, "-m", "shadow_mlops.models.loading", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ModelRefusedError(f"{directory} does not load within {seconds:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ModelRefusedError(said[-1] if said else f"loading {directory} ended with {done.returncode}")


def main() -> int:
    """Load the directory that the command line names."""
    try:
        load_model(Path(sys.argv[1]))
    except ModelRefusedError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    # Threads that a model has started must not keep this process: its answer is all that was wanted.
    code = main()
    sys.stderr.flush()
    os._exit(code)
