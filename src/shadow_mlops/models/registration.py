"""Registration: from a fitted estimator to a version in the registry that any process can serve."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from shadow_mlops.domain.errors import ConflictError, ModelError, ModelNotFoundError
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.export import export
from shadow_mlops.models.mlflow_format import save_mlflow_model
from shadow_mlops.models.prepared import PREPARED, REFERENCE_FOLDER, REFERENCE_ROWS, write_reference
from shadow_mlops.models.reference import reference_of, write_reference_profile
from shadow_mlops.models.registry import VERSION_TAG, RegisteredVersion, Registry
from shadow_mlops.models.rows import Rows, table_rows
from shadow_mlops.models.runtimes import load_runtime

if TYPE_CHECKING:
    import pyarrow as pa

log = structlog.get_logger()


def register(
    registry: Registry,
    *,
    name: str,
    version: str,
    estimator: Any,
    signature: Signature,
    task: Task,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    reference: pa.Table,
    data_hash: str,
    params: Mapping[str, str] | None = None,
    aliases: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    tolerance: float = 1e-5,
) -> ModelCard:
    """Register a fitted estimator as a version of a model.

    It is stored in MLflow's own format, so that other tools can load it, beside the file that this platform serves: its
    ONNX export where that agrees with the estimator on the reference rows, else the estimator itself.

    Parameters
    ----------
    name
        Registered model; created if it is new.
    version
        Human version, unique among the model's versions.
    estimator
        Fitted scikit-learn estimator or pipeline (or LightGBM's scikit-learn estimator). It takes a DataFrame with the
        signature's columns in order: numbers as float64 with NaN, strings as object with ``""`` for a missing one.
    classes
        Class labels as text, in the order of the columns of ``predict_proba``; empty for regression.
    metrics
        Measured on held-out rows; shown by ``/models``.
    reference
        Rows of the training data, at most 100,000 of which are kept; must have the signature's columns, may have more.
    data_hash
        Identifies the training data.
    aliases
        Set last, when all else is in place.
    tolerance
        Largest difference between the export and the estimator; in units of the value where that is above 1.

    Returns
    -------
    ModelCard
        As prepared, with the registry's number.

    Raises
    ------
    ConflictError
        If the model has that version already.
    ModelRefusedError
        If neither the export nor the estimator can be served.
    RegistryError
        If the registry does not answer; no alias has been changed then.
    """
    refuse_duplicate(registry, name, version)
    with tempfile.TemporaryDirectory(prefix="shadow-register-") as scratch:
        model, extras = Path(scratch) / "model", Path(scratch) / "reference"
        rows = table_rows(reference, signature)
        known = ModelCard(
            name=name,
            version=version,
            registry_version="",
            task=task,
            runtime="",
            file="",
            sha256="",
            signature=signature,
            classes=tuple(classes),
            metrics=dict(metrics),
            provenance={"estimator": type(estimator).__name__, "data_hash": data_hash},
        )
        save_mlflow_model(model, estimator=estimator, card=known, rows=rows)
        card = export(model / PREPARED, estimator=estimator, rows=rows, tolerance=tolerance, card=known)
        _describe(model / PREPARED, rows.take(REFERENCE_ROWS), card)
        write_reference(extras, reference)
        marks = {
            **(tags or {}),
            VERSION_TAG: version,
            "data_hash": data_hash,
            "task": task,
            "runtime": card.runtime,
        }
        run_id = registry.log_run(
            name,
            folders={"model": model, REFERENCE_FOLDER: extras},
            metrics=metrics,
            params=params or {},
            tags=marks,
        )
    registered = registry.create_version(name, run_id=run_id, path="model", tags=marks)
    settle(registry, registered, aliases)
    log.info("model registered", model=name, version=version, number=registered.number, runtime=card.runtime)
    return msgspec.structs.replace(card, registry_version=registered.number)


def _describe(directory: Path, rows: Rows, card: ModelCard) -> None:
    """Write down what the rows look like, and the scores of the very file that will serve."""
    scores = load_runtime(directory, card).predict(rows.numbers, rows.strings)
    source = f"the {len(rows):,} rows kept with it"
    write_reference_profile(directory, reference_of(rows, scores, card, source=source))


def refuse_duplicate(registry: Registry, name: str, version: str) -> None:
    """Raise ``ConflictError`` if the model has that version already."""
    try:
        taken = registry.tagged(name, version)
    except ModelNotFoundError:
        return
    if taken:
        raise ConflictError(f"model {name!r} already has version {version!r} (registry number {taken[0].number})")


def settle(registry: Registry, registered: RegisteredVersion, aliases: Sequence[str]) -> None:
    """Set the aliases, all or none; a registration that lost a race for its version is undone."""
    name, human = registered.name, registered.human
    first = registry.tagged(name, human)[0]
    if first.number != registered.number:
        registry.delete_version(registered)
        raise ConflictError(f"model {name!r} already has version {human!r} (registry number {first.number})")
    before = registry.aliases(name) if aliases else {}
    done: list[str] = []
    try:
        for alias in aliases:
            registry.set_alias(name, alias, registered.number)
            done.append(alias)
    except ModelError:
        for alias in done:
            if alias in before:
                registry.set_alias(name, alias, before[alias])
            else:
                registry.delete_alias(name, alias)
        raise
