"""Preparation: from a registered version to the directory that any process can load, once, at first sight."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.export import export
from shadow_mlops.models.foreign import (
    Artefacts,
    RecentRows,
    prepare_onnx,
    read_artefacts,
    read_signature,
    rows_of,
    stated_task,
)
from shadow_mlops.models.prepared import CARD, PREPARED, file_sha256, read_card, write_card
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes.skops import load_estimator

log = structlog.get_logger()

MODELS = "models"
"""Folder of the prepared directories in the data directory."""


def no_traffic(_: Signature) -> None:
    """There are no recorded rows."""


def prepared_directory(data_dir: Path, name: str, number: str) -> Path:
    """Where the prepared directory of a version is, or will be."""
    return data_dir / MODELS / name / number


def prepare(
    registry: Registry,
    version: RegisteredVersion,
    *,
    data_dir: Path,
    allow_pickle: bool = False,
    recent_rows: RecentRows = no_traffic,
) -> Path:
    """Make the prepared directory of a version, unless it is there.

    Parameters
    ----------
    allow_pickle
        Whether files whose loading runs code may be loaded.
    recent_rows
        Gives recorded rows on which the export of a version without our artefacts is compared with its original.

    Returns
    -------
    Path
        The directory; it appears complete or not at all.

    Raises
    ------
    ModelRefusedError
        If the version cannot be served; the message says why.
    RegistryError
        If its artefacts cannot be had now.
    """
    target = prepared_directory(data_dir, version.name, version.number)
    source = version.run_id or "none"
    # a number alone is no identity: a registry that was begun anew counts from 1 again
    if (target / CARD).exists() and read_card(target).provenance.get("run_id", source) == source:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{version.number}-", dir=target.parent) as scratch:
        downloads, made = Path(scratch) / "download", Path(scratch) / "prepared"
        ours = registry.download(version, downloads, PREPARED)
        if ours is not None:
            card = _adopt(ours, made, version)
        else:
            everything = registry.download(version, downloads)
            if everything is None:
                raise ModelRefusedError(f"version {version.human} of model {version.name!r} has no artefacts")
            try:
                card = _prepare_foreign(
                    read_artefacts(everything),
                    made,
                    version,
                    metrics=registry.metrics(version),
                    allow_pickle=allow_pickle,
                    recent_rows=recent_rows,
                )
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                what = f"{type(error).__name__}: {error}"
                raise ModelRefusedError(f"its description by MLflow is not understood: {what}") from error
        provenance = {**card.provenance, "run_id": source}
        write_card(made, msgspec.structs.replace(card, provenance=provenance))
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    log.info(
        "model prepared",
        model=version.name,
        version=version.human,
        number=version.number,
        runtime=card.runtime,
    )
    return target


def _adopt(ours: Path, made: Path, version: RegisteredVersion) -> ModelCard:
    """Take over what registration prepared; the registry, not the file, says which version it is."""
    card = read_card(ours)
    if Path(card.file).name != card.file or file_sha256(ours / card.file) != card.sha256:
        raise ModelRefusedError(f"the prepared file {card.file!r} in the registry is not the one its card describes")
    shutil.copytree(ours, made)
    return msgspec.structs.replace(card, name=version.name, version=version.human, registry_version=version.number)


def _prepare_foreign(
    artefacts: Artefacts,
    made: Path,
    version: RegisteredVersion,
    *,
    metrics: dict[str, float],
    allow_pickle: bool,
    recent_rows: RecentRows,
) -> ModelCard:
    flavor, entry = artefacts.flavor()
    signature = read_signature(artefacts)
    rows, origin = rows_of(artefacts, signature, recent_rows)
    stated = stated_task(artefacts, version.tags)
    provenance = {"flavor": flavor, "compared_on": origin} | ({"task": stated} if stated else {})
    card = ModelCard(
        name=version.name,
        version=version.human,
        registry_version=version.number,
        task=stated or "binary",
        runtime="",
        file="",
        sha256="",
        signature=signature,
        metrics=metrics,
        provenance=provenance,
    )
    if flavor == "onnx":
        return prepare_onnx(made, artefacts, entry, card, rows)
    if flavor == "lightgbm" and str(entry.get("model_class", "")).endswith(".Booster"):
        return _prepare_booster(made, artefacts.file(entry["data"]), card, rows)
    named = entry.get("pickled_model") or entry.get("data")
    path = artefacts.file(named)
    estimator = _estimator(path, str(entry.get("serialization_format", "")), allow_pickle=allow_pickle)
    task, classes = _task_of(estimator)
    return export(made, estimator=estimator, rows=rows, card=msgspec.structs.replace(card, task=task, classes=classes))


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


def _prepare_booster(made: Path, path: Path, card: ModelCard, rows: Rows) -> ModelCard:
    from shadow_mlops.models.boosters import export_booster  # noqa: PLC0415 - lightgbm is an extra

    return export_booster(made, path, card, rows)
