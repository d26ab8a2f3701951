"""Preparation: from a registered version to the directory that any process can load, once, at first sight."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import CREATED_US, ModelCard
from shadow_mlops.models.endpoint import RUNTIME_TAG, TIMEOUT_TAG, Endpoint, endpoint_of_tags, read_endpoint
from shadow_mlops.models.foreign import Artefacts, RecentRows, read_artefacts, read_signature, rows_of, stated_task
from shadow_mlops.models.outputs import OUTPUTS, declared_outputs
from shadow_mlops.models.prepared import (
    CARD,
    PREPARED,
    REFERENCE_PROFILE,
    file_sha256,
    read_card,
    read_recorded,
    recorded_rows,
    write_card,
)
from shadow_mlops.models.preparing import prepare_elsewhere
from shadow_mlops.models.registry import RegisteredVersion, Registry
from shadow_mlops.models.remotes import prepare_remote
from shadow_mlops.models.runtimes.pyfunc import TIMEOUT

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
    UnavailableError
        If its model is elsewhere and does not answer now.
    """
    target = prepared_directory(data_dir, version.name, version.number)
    source = version.run_id or "none"
    endpoint = endpoint_of_tags(version.name, version.tags)
    if _is_prepared(target, source, endpoint):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{version.number}-", dir=target.parent) as scratch:
        downloads, made = Path(scratch) / "download", Path(scratch) / "prepared"
        ours = registry.download(version, downloads, PREPARED)
        if ours is not None:
            card = _adopt(ours, made, version, endpoint)
        else:
            artefacts = _artefacts(registry, version, downloads)
            try:
                described = _describe(artefacts, version, registry.metrics(version), allow_pickle=allow_pickle)
                rows, origin = rows_of(artefacts, described.card.signature, recent_rows)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                what = f"{type(error).__name__}: {error}"
                raise ModelRefusedError(f"its description by MLflow is not understood: {what}") from error
            card = _with_notes(described.card, compared_on=origin)
            if endpoint is not None:
                card = prepare_remote(made, endpoint, card, rows)
            else:
                card = prepare_elsewhere(artefacts, made, described.flavor, card, rows, allow_pickle=allow_pickle)
        write_card(made, _with_notes(card, run_id=source, **{CREATED_US: str(version.created_us)}))
        _put(made, target, source, endpoint)
    log.info(
        "model prepared",
        model=version.name,
        version=version.human,
        number=version.number,
        runtime=card.runtime,
        onnx_refused=card.provenance.get("onnx_refused"),  # the process that found out has no log of its own
    )
    return target


def _put(made: Path, target: Path, source: str, endpoint: Endpoint | None) -> None:
    """Put it in its place, unless another process was quicker: what it has put there may be being loaded."""
    if _is_prepared(target, source, endpoint):
        return
    if target.exists():
        shutil.rmtree(target)
    try:
        made.rename(target)
    except OSError:
        if not _is_prepared(target, source, endpoint):
            raise


def _is_prepared(target: Path, source: str, endpoint: Endpoint | None) -> bool:
    if not (target / CARD).exists():
        return False
    card = read_card(target)
    # a number alone is no identity: a registry that was begun anew counts from 1 again
    if card.provenance.get("run_id", source) != source:
        return False
    return endpoint is None or (card.runtime == "http" and read_endpoint(target / card.file) == endpoint)


def _adopt(ours: Path, made: Path, version: RegisteredVersion, endpoint: Endpoint | None) -> ModelCard:
    """Take over what registration prepared; the registry, not the file, says which version it is."""
    card = read_card(ours)
    if Path(card.file).name != card.file or file_sha256(ours / card.file) != card.sha256:
        raise ModelRefusedError(f"the prepared file {card.file!r} in the registry is not the one its card describes")
    if card.runtime == "pyfunc":  # it could not have been made here, and must not come in by this door
        raise ModelRefusedError("its prepared files are of a pyfunc; register the MLflow model itself")
    card = msgspec.structs.replace(card, name=version.name, version=version.human, registry_version=version.number)
    if endpoint is None:
        shutil.copytree(ours, made)
        return card
    if card.runtime != "http":  # the same model, served elsewhere
        card = prepare_remote(made, endpoint, card, recorded_rows(read_recorded(ours), card))
        if (ours / REFERENCE_PROFILE).exists():
            shutil.copyfile(ours / REFERENCE_PROFILE, made / REFERENCE_PROFILE)
        return card
    if endpoint != read_endpoint(ours / card.file):
        raise ModelRefusedError(
            f"its tags name {endpoint.shown}, which is not the remote model that was probed when it was registered:"
            " register another version"
        )
    shutil.copytree(ours, made)
    return card


def _artefacts(registry: Registry, version: RegisteredVersion, downloads: Path) -> Artefacts:
    everything = registry.download(version, downloads)
    if everything is not None:
        return read_artefacts(everything)
    if RUNTIME_TAG in version.tags:
        raise ModelRefusedError(
            f"version {version.human} of model {version.name!r} has no artefacts that say what its features are:"
            " register a remote model with shadow models register-remote"
        )
    raise ModelRefusedError(f"version {version.human} of model {version.name!r} has no artefacts")


class _Described(msgspec.Struct, frozen=True):
    flavor: str
    card: ModelCard


def _describe(
    artefacts: Artefacts, version: RegisteredVersion, metrics: dict[str, float], *, allow_pickle: bool
) -> _Described:
    """What MLflow's files and the version's tags say, before its model is touched."""
    wanted = version.tags.get(RUNTIME_TAG, "")
    if wanted not in {"", "http", "pyfunc"}:
        raise ModelRefusedError(f"its tag {RUNTIME_TAG} {wanted!r} is none of http, pyfunc")
    flavor = "remote"
    if wanted != "http":
        flavor, _ = artefacts.flavor(pyfunc=wanted == "pyfunc", allow_pickle=allow_pickle)
    stated = stated_task(artefacts, version.tags)
    declared = declared_outputs(version.tags, artefacts.metadata)
    card = ModelCard(
        name=version.name,
        version=version.human,
        registry_version=version.number,
        task=stated or "binary",
        runtime="",
        file="",
        sha256="",
        signature=read_signature(artefacts),
        classes=tuple(str(c) for c in artefacts.metadata.get("classes", ())) if wanted == "http" else (),
        metrics=metrics,
        provenance={"flavor": flavor},
    )
    notes = {"task": stated, OUTPUTS: declared, TIMEOUT: version.tags.get(TIMEOUT_TAG)}
    return _Described(flavor, _with_notes(card, **{key: value for key, value in notes.items() if value}))


def _with_notes(card: ModelCard, **notes: str) -> ModelCard:
    return msgspec.structs.replace(card, provenance={**card.provenance, **notes})
