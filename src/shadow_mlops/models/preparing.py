"""The part of preparation that touches a stranger's model: ``python -m shadow_mlops.models.preparing JOB PARENT``."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.elsewhere import report, run_elsewhere
from shadow_mlops.models.export import export
from shadow_mlops.models.foreign import PYFUNC, Artefacts, prepare_onnx, read_artefacts
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.pyfuncs import prepare_pyfunc
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes.skops import load_estimator

_SECONDS = 300.0  # a forest of thousands of trees takes a minute to convert at the resolver's priority


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that the process needs to know, as the file ``job.msgpack`` holds it."""

    artefacts: str
    """Folder of the downloaded artefacts."""
    made: str
    """Prepared directory to make."""
    flavor: str
    card: ModelCard
    allow_pickle: bool
    count: int
    numbers: bytes
    strings: list[list[str | None]]


def prepare_elsewhere(
    artefacts: Artefacts, made: Path, flavor: str, card: ModelCard, rows: Rows, *, allow_pickle: bool
) -> ModelCard:
    """Prepare a version in a process of its own.

    Parameters
    ----------
    made
        Prepared directory to make, in a scratch folder.
    card
        What MLflow's files say of it.
    rows
        On which the model is tried; they go to the process by a file.

    Returns
    -------
    ModelCard
        As the process wrote it.

    Raises
    ------
    ModelRefusedError
        If the version cannot be served, or kills its process, or takes too long.
    """
    rows = _encodable(rows)
    job = Job(
        artefacts=str(artefacts.folder),
        made=str(made),
        flavor=flavor,
        card=card,
        allow_pickle=allow_pickle,
        count=len(rows),
        numbers=np.ascontiguousarray(rows.numbers).tobytes(),
        strings=rows.strings.tolist(),
    )
    path = made.with_name("job.msgpack")
    path.write_bytes(msgspec.msgpack.encode(job))
    run_elsewhere("shadow_mlops.models.preparing", [str(path)], what="its preparation", seconds=_SECONDS)
    return read_card(made)


def _encodable(rows: Rows) -> Rows:
    """The rows whose texts are Unicode: half a surrogate pair, which a client may send, goes into no file."""
    keep = np.ones(len(rows), dtype=np.bool_)
    for i, row in enumerate(rows.strings):
        try:
            "".join(cell for cell in row if cell is not None).encode()
        except UnicodeEncodeError:
            keep[i] = False
    return Rows(rows.numbers[keep], rows.strings[keep])


def prepare_job(job: Job) -> ModelCard:
    """Prepare a version in this process.

    Raises
    ------
    ModelRefusedError
        If the version cannot be served; the message says why.
    """
    strings = np.empty((job.count, len(job.card.signature.strings)), dtype=object)
    if strings.size:
        strings[:] = job.strings
    numbers = np.frombuffer(job.numbers).reshape(job.count, len(job.card.signature.numbers))
    artefacts, rows, made = read_artefacts(Path(job.artefacts)), Rows(numbers, strings), Path(job.made)
    entry = artefacts.described["flavors"][job.flavor]
    try:
        return _prepare(job, artefacts, entry, made, rows)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ModelRefusedError(f"its description by MLflow is not understood: {what}") from error


def _prepare(job: Job, artefacts: Artefacts, entry: Mapping[str, Any], made: Path, rows: Rows) -> ModelCard:
    if job.flavor == PYFUNC:
        return prepare_pyfunc(made, artefacts, job.card, rows)
    if job.flavor == "onnx":
        return prepare_onnx(made, artefacts, entry, job.card, rows)
    is_booster = str(entry.get("model_class", "")).endswith(".Booster")
    if job.flavor == "lightgbm" and is_booster:
        from shadow_mlops.models.boosters import export_booster  # noqa: PLC0415 - lightgbm is an extra

        return export_booster(made, artefacts.file(entry["data"]), job.card, rows)
    if job.flavor == "xgboost":
        try:
            from shadow_mlops.models.xgboosters import export_xgboost  # noqa: PLC0415
        except ImportError as error:
            raise ModelRefusedError(f"{error.name} is absent: pip install 'shadow-mlops[xgboost]'") from error
        return export_xgboost(made, artefacts.file(entry["data"]), job.card, rows, wrapped=not is_booster)
    path = artefacts.file(entry.get("pickled_model") or entry.get("data"))
    estimator = _estimator(path, str(entry.get("serialization_format", "")), allow_pickle=job.allow_pickle)
    task, classes = _task_of(estimator)
    card = msgspec.structs.replace(job.card, task=task, classes=classes)
    return export(made, estimator=estimator, rows=rows, card=card)


def _estimator(path: Path, stored_as: str, *, allow_pickle: bool) -> Any:
    if stored_as == "skops" or path.suffix == ".skops":
        return load_estimator(path)
    if not allow_pickle:
        raise ModelRefusedError(
            f"{path.name} is pickled, and loading it runs code from the artefact: log it with"
            " serialization_format='skops', or set ALLOW_PICKLE=true if you trust whoever registers models"
        )
    try:
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - the setting allows it
    except Exception as error:  # unpickling fails in whatever way the classes do
        raise ModelRefusedError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from error


def _task_of(estimator: Any) -> tuple[Task, tuple[str, ...]]:
    if not hasattr(estimator, "predict"):
        raise ModelRefusedError(f"a {type(estimator).__name__} predicts nothing")
    labels = getattr(estimator, "classes_", None)
    if labels is None:
        return "regression", ()
    classes = tuple(str(label) for label in labels)
    return ("binary" if len(classes) == 2 else "multiclass"), classes


if __name__ == "__main__":
    report(lambda: prepare_job(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Job)))
