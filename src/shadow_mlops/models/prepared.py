"""A prepared directory: ``card.json``, the model file that it names, ``recorded.json``. Written once, never changed.

One of a version with reference rows has ``reference.json`` beside them (:mod:`~shadow_mlops.models.reference`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard, Recorded
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import Runtime

if TYPE_CHECKING:
    import pyarrow as pa

PREPARED = "shadow"
"""Folder of a prepared directory inside the artefacts of a registered version."""
REFERENCE_FOLDER = "reference"
REFERENCE_FILE = "reference.parquet"
REFERENCE_ROWS = 100_000
REFERENCE_PROFILE = "reference.json"
RECORDED_ROWS = 32
_T = TypeVar("_T")
CARD = "card.json"
RECORDED = "recorded.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(expected: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    """Largest difference of scores, in units of their root mean square where that is above 1 (values of a regression).

    >>> difference(np.array([[0.5], [0.25]]), np.array([[0.5], [0.375]]))
    0.125
    >>> difference(np.array([[2000.0], [2000.0]]), np.array([[2000.0], [2002.0]]))
    0.001
    """
    if expected.shape != got.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    if same.all():
        return 0.0
    finite = expected[np.isfinite(expected)]
    size = max(1.0, float(np.sqrt(np.mean(finite * finite)))) if finite.size else 1.0
    largest = float(np.max(np.abs(expected[~same] - got[~same]))) / size
    return float("inf") if np.isnan(largest) else largest


def read_card(directory: Path) -> ModelCard:
    """The card of a prepared directory.

    Raises
    ------
    ModelRefusedError
        If there is none, or it is not a card.
    """
    return _read(directory / CARD, ModelCard)


def read_recorded(directory: Path) -> Recorded:
    """The recorded rows of a prepared directory.

    Raises
    ------
    ModelRefusedError
        If there are none.
    """
    return _read(directory / RECORDED, Recorded)


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelRefusedError(f"{path} cannot be read: {error}") from error


def write_prepared(
    directory: Path, card: ModelCard, runtime: Runtime, rows: Rows, *, tolerance: float = 1e-6
) -> ModelCard:
    """Complete a directory that holds ``card.file``: its hash, the card, and what the file answers to some rows.

    Parameters
    ----------
    tolerance
        Largest difference from these answers that the model may show when it is loaded.

    Returns
    -------
    ModelCard
        With the file's hash.
    """
    card = msgspec.structs.replace(card, sha256=file_sha256(directory / card.file))
    some = rows.take(RECORDED_ROWS)
    scores = runtime.predict(some.numbers, some.strings)
    scored = np.isfinite(scores).all(axis=1)  # a row without an answer can be checked by nobody
    recorded = Recorded(
        numbers=[[None if np.isnan(x) else float(x) for x in row] for row in some.numbers[scored]],
        strings=[list(row) for row in some.strings[scored]],
        scores=scores[scored].tolist(),
        tolerance=tolerance,
    )
    (directory / RECORDED).write_bytes(msgspec.json.encode(recorded))
    write_card(directory, card)
    return card


def write_card(directory: Path, card: ModelCard) -> None:
    """Write ``card.json``, indented for people."""
    (directory / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))


def recorded_rows(recorded: Recorded, card: ModelCard) -> Rows:
    """The recorded inputs as arrays."""
    signature = card.signature
    count = len(recorded.scores)
    numbers = np.array(recorded.numbers, dtype=np.float64).reshape(count, len(signature.numbers))
    strings = np.empty((count, len(signature.strings)), dtype=object)
    for i, row in enumerate(recorded.strings):
        strings[i, :] = row
    return Rows(numbers, strings)


def write_reference(directory: Path, table: pa.Table) -> None:
    """Keep the reference rows as Parquet: all, or ``REFERENCE_ROWS`` spread evenly over them."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    directory.mkdir(parents=True, exist_ok=True)
    if table.num_rows > REFERENCE_ROWS:
        table = table.take(np.linspace(0, table.num_rows - 1, REFERENCE_ROWS).astype(np.int64))
    pq.write_table(table, directory / REFERENCE_FILE, compression="zstd")
