"""Remote models in the registry: probed once, their answers recorded, served like any other version from then on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import structlog

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.endpoint import ENDPOINT, Endpoint, tags_of, write_endpoint
from shadow_mlops.models.outputs import OUTPUTS, OUTPUTS_TAG, Outputs, refuse_labels
from shadow_mlops.models.prepared import (
    CARD,
    PREPARED,
    RECORDED,
    read_card,
    read_recorded,
    recorded_rows,
    write_prepared,
)
from shadow_mlops.models.registration import refuse_duplicate, settle
from shadow_mlops.models.registry import VERSION_TAG, Registry
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes.http import HttpRuntime

log = structlog.get_logger()

_PROBED = 32
_TOLERANCE = 1e-5  # whatever it computes on: float32 sums differ with the size of a batch


class RemoteSignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a remote model takes and gives, as the file of ``--signature`` says it.

    Examples
    --------
    >>> RemoteSignature(features=(Feature("tenure", "integer"), Feature("gender", "string")), task="binary",
    ...                 rows=({"tenure": 3, "gender": "female"},)).classes
    ('0', '1')
    """

    features: tuple[Feature, ...]
    """In the model's order; kinds are number, integer, boolean, string."""
    task: Task
    classes: tuple[str, ...] = ()
    """Labels in the order of the probabilities; 0 and 1 where a binary model names none."""
    outputs: Outputs | None = None
    """What the answers are, where that cannot be seen from them."""
    rows: tuple[dict[str, Any], ...] = ()
    """A few examples of requests, with which the model is probed; null or absent is a missing value."""

    def __post_init__(self) -> None:
        """Fill in the classes of a binary model."""
        if self.task == "binary" and not self.classes:
            msgspec.structs.force_setattr(self, "classes", ("0", "1"))


def read_remote_signature(path: Path) -> tuple[RemoteSignature, Rows]:
    """Read a JSON file as :class:`RemoteSignature` describes it, or a prepared directory with its recorded rows.

    Raises
    ------
    ModelRefusedError
        If it is neither, or has no rows.
    """
    if path.is_dir():
        card = read_card(path)
        found = RemoteSignature(features=card.signature.features, task=card.task, classes=card.classes)
        return found, recorded_rows(read_recorded(path), card)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=RemoteSignature)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelRefusedError(
            f"{path} is no signature: {error}. It is a JSON object with features, task and rows, or a prepared"
            f" directory with {CARD} and {RECORDED}"
        ) from error
    if not found.features:
        raise ModelRefusedError(f"{path} names no features")
    if found.task == "multiclass" and len(found.classes) < 2:
        raise ModelRefusedError(
            f"{path} must name the classes of a multiclass model, in the order of its probabilities"
        )
    if not found.rows:
        raise ModelRefusedError(f"{path} has no rows: a few examples of requests, with which the model is probed")
    return found, _rows(found, path)


def _rows(found: RemoteSignature, path: Path) -> Rows:
    signature = Signature(found.features)
    unknown = sorted({name for row in found.rows for name in row} - set(signature.names))
    if unknown:
        raise ModelRefusedError(f"the rows of {path} have {', '.join(unknown)}, which are none of its features")
    numbers = np.full((len(found.rows), len(signature.numbers)), np.nan)
    strings = np.full((len(found.rows), len(signature.strings)), None, dtype=object)
    for i, row in enumerate(found.rows):
        for j, name in enumerate(signature.numbers):
            value = row.get(name)
            if isinstance(value, str) or (value is not None and not isinstance(value, int | float)):
                raise ModelRefusedError(f"row {i} of {path}: {name} is no number: {value!r}")
            numbers[i, j] = np.nan if value is None else float(value)
        strings[i] = [None if row.get(name) is None else str(row[name]) for name in signature.strings]
    return Rows(numbers, strings)


def register_remote(
    registry: Registry,
    *,
    name: str,
    version: str,
    endpoint: Endpoint,
    signature: RemoteSignature,
    rows: Rows,
    aliases: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> ModelCard:
    """Register a model that runs elsewhere as a version, after it has been probed.

    Parameters
    ----------
    version
        Human version, unique among the model's versions.
    rows
        The model is asked for their scores once; what it answers is what it must answer whenever it is loaded.
    aliases
        Set last, when all else is in place.

    Returns
    -------
    ModelCard
        As prepared, with the registry's number.

    Raises
    ------
    ConflictError
        If the model has that version already.
    UnavailableError
        If the remote model does not answer, or not as it should.
    ModelRefusedError
        If its answers are labels, or it refuses the rows.
    RegistryError
        If the registry does not answer.
    """
    refuse_duplicate(registry, name, version)
    known = ModelCard(
        name=name,
        version=version,
        registry_version="",
        task=signature.task,
        runtime="",
        file="",
        sha256="",
        signature=Signature(signature.features),
        classes=signature.classes,
        metrics=dict(metrics or {}),
        provenance={"flavor": "remote"} | ({OUTPUTS: signature.outputs} if signature.outputs else {}),
    )
    marks = {**tags_of(endpoint), VERSION_TAG: version, "task": signature.task, "runtime": "http"}
    if signature.outputs:
        marks[OUTPUTS_TAG] = signature.outputs
    with tempfile.TemporaryDirectory(prefix="shadow-register-") as scratch:
        model = Path(scratch) / "model"
        card = prepare_remote(model / PREPARED, endpoint, known, rows)
        run_id = registry.log_run(name, folders={"model": model}, metrics=metrics or {}, params={}, tags=marks)
    registered = registry.create_version(name, run_id=run_id, path="model", tags=marks)
    settle(registry, registered, aliases)
    log.info("remote model registered", model=name, version=version, number=registered.number, url=endpoint.shown)
    return msgspec.structs.replace(card, registry_version=registered.number)


def prepare_remote(directory: Path, endpoint: Endpoint, card: ModelCard, rows: Rows) -> ModelCard:
    """Probe a remote model, and make the prepared directory of its version.

    Parameters
    ----------
    card
        With task and classes; a binary model that names none has the classes 0 and 1.

    Raises
    ------
    ModelRefusedError
        If it refuses the rows, answers with labels, or does not answer as it should.
    UnavailableError
        If it does not answer.
    """
    if card.task not in get_args(Task) or (card.task == "multiclass" and not card.classes):
        raise ModelRefusedError("the classes of a multiclass remote model are not known: log it with metadata classes")
    classes = () if card.task == "regression" else card.classes or ("0", "1")
    card = msgspec.structs.replace(card, runtime="http", file=ENDPOINT, classes=classes)
    directory.mkdir(parents=True, exist_ok=True)
    write_endpoint(directory / ENDPOINT, endpoint)
    with closing(HttpRuntime(endpoint, card)) as runtime:
        some = rows.take(_PROBED)
        scores = runtime.predict(some.numbers, some.strings)
        if not np.isfinite(scores).any():
            raise ModelRefusedError(
                f"the remote model {endpoint.shown} gives no score for any row that it was probed with"
            )
        refuse_labels(scores, card)
        return write_prepared(directory, card, runtime, some, tolerance=_TOLERANCE)
