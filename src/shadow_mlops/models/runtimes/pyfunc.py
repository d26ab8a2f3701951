"""MLflow pyfuncs, whatever they are made of: in a process of their own, with an interpreter of their own."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.breaker import Breaker
from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.outputs import OutputsError, in_order, scores_of
from shadow_mlops.models.permission import permitted_python
from shadow_mlops.models.runtimes import Tally, without_none
from shadow_mlops.models.runtimes.detached import CallError, Calls, RowsRefusedError
from shadow_mlops.models.runtimes.pyfunc_process import ModelProcess, message_of

MANIFEST = "pyfunc.json"
MODEL_FOLDER = "model"
TIMEOUT = "timeout_ms"
"""Key in a card's provenance: within which the model must answer."""
_TIMEOUT_MS = 1000
_FIRST_SECONDS = 30.0  # a first answer imports, compiles and fills caches


class PyfuncRuntime:
    """Scores rows by a pyfunc in a child process.

    A :class:`~shadow_mlops.models.runtimes.Detached` runtime: the process is killed when it does not answer in time,
    and started again, after a pause that doubles. It ends with this object, and with the process that has it.
    """

    def __init__(self, process: ModelProcess, card: ModelCard) -> None:
        self._process = process
        self._card = card
        self._milliseconds = int(card.provenance.get(TIMEOUT, _TIMEOUT_MS))
        self._calls = Calls("the model's process", breaker=Breaker())
        self._finalizer = weakref.finalize(self, process.stop)

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while none answers."""
        return self._process.pid

    def tally(self) -> Tally:
        """See :meth:`shadow_mlops.models.runtimes.Detached.tally`."""
        return self._calls.tally()

    def close(self) -> None:
        """See :meth:`shadow_mlops.models.runtimes.Detached.close`."""
        self._finalizer()

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """See :meth:`shadow_mlops.models.runtimes.Runtime.predict`."""
        known = self._process.warm_up is not None
        seconds = self._milliseconds / 1000 if known else _FIRST_SECONDS
        return self._calls.score(self._ask, numbers, strings, width=len(self._card.outputs), seconds=seconds)

    def describe(self, card: ModelCard) -> None:
        """From now on the answers are understood as this card says; preparation knows its outputs only after one."""
        self._card = card

    def answer(self, numbers: NDArray[np.float64], strings: NDArray[np.object_], seconds: float) -> Answer:
        """What the model answers, before anything is known of its shape.

        Raises
        ------
        CallError, RowsRefusedError
            As :class:`~shadow_mlops.models.runtimes.detached.Calls` wants them.
        """
        try:
            message = _rows_message(numbers, strings)
        except UnicodeEncodeError as error:  # half a surrogate pair: no message can carry it
            raise RowsRefusedError(str(error)) from error
        header, payload = self._process.ask(message, seconds)
        if header.get("is") == "failed":
            raise RowsRefusedError(str(header.get("problem")))
        try:
            found = Answer(_values(header, payload), header.get("columns"))
        except (KeyError, TypeError, ValueError) as error:
            raise CallError("garbage", f"answers with what is no message of ours: {error}") from error
        if self._process.warm_up is None:
            self._process.warm_up = _rows_message(numbers[:1], strings[:1])
        return found

    def _ask(self, numbers: NDArray[np.float64], strings: NDArray[np.object_], seconds: float) -> NDArray[np.float64]:
        found = self.answer(numbers, strings, seconds)
        try:
            return scores_of(in_order(found.values, found.columns, self._card), len(numbers), self._card)
        except OutputsError as error:
            raise CallError("garbage", str(error)[:300]) from error


class Answer(msgspec.Struct, frozen=True):
    """What a pyfunc answered.

    Attributes
    ----------
    values
        Array of float64, or a list of what are no numbers.
    columns
        Names, if it was a DataFrame.
    """

    values: Any
    columns: list[str] | None


def _rows_message(numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> bytes:
    header = {"do": "score", "count": len(numbers), "strings": without_none(strings).tolist()}
    return message_of(header, np.ascontiguousarray(numbers, dtype="<f8").tobytes())


def _values(header: dict[str, Any], payload: bytes) -> Any:
    if header["is"] == "array":
        return np.frombuffer(payload, dtype="<f8").reshape(header["shape"])
    return header["values"]


def write_manifest(directory: Path) -> None:
    """Write down the SHA-256 of every file of the model, so that the one of this list vouches for all."""
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(_hashes(directory)), indent=2))


def _hashes(directory: Path) -> dict[str, str]:
    folder = directory / MODEL_FOLDER
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def load(directory: Path, card: ModelCard) -> PyfuncRuntime:
    """Start the process of a prepared pyfunc.

    Raises
    ------
    ModelRefusedError
        If pyfuncs are not allowed here, a file is not the one that was prepared, or the model cannot be loaded.
    """
    python = permitted_python()
    try:
        listed = msgspec.json.decode((directory / card.file).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError) as error:
        raise ModelRefusedError(f"{directory / card.file} cannot be read: {error}") from error
    if listed != _hashes(directory):
        raise ModelRefusedError(f"the files in {directory / MODEL_FOLDER} are not those that were prepared")
    features = card.signature.features
    process = ModelProcess(
        python,
        {
            "do": "load",
            "path": str((directory / MODEL_FOLDER).absolute()),
            "names": [feature.name for feature in features],
            "kinds": [feature.kind for feature in features],
        },
    )
    process.start()
    return PyfuncRuntime(process, card)
