"""Which reference belongs to a champion: a baseline that an operator has set for it, else the rows kept with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.livestate import Identity, InForce, ReferenceOf
from shadow_mlops.durable import replace_durably, sync_folder
from shadow_mlops.models.prepared import REFERENCE_PROFILE
from shadow_mlops.models.reference import (
    ReferenceProfile,
    decode_reference,
    encode_reference,
    read_reference_profile,
)

log = structlog.get_logger()

_ID_LETTERS = 12


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``<data-dir>/drift/baseline.json``."""

    format: int = 1
    at: str
    """When it was set, RFC 3339."""
    who: str
    reason: str
    source: str
    """Where its rows are from, in words."""
    model: str
    version: str
    registry_version: str
    """It holds for this version only, whenever that is champion."""
    rows: int
    reference: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, and what it is called.

    Attributes
    ----------
    id
        Another one for other rows or other bins.
    words
        Where it is from, for people.
    of
        Model and registry version that it belongs to.
    """

    id: str
    kind: ReferenceOf
    words: str
    profile: ReferenceProfile
    of: tuple[str, str]

    @property
    def in_force(self) -> InForce:
        """As it is remembered."""
        return InForce(id=self.id, kind=self.kind, words=self.words, content=encode_reference(self.profile))


def remembered(saved: InForce) -> ReferenceProfile:
    """The profile of a reference that was saved.

    Raises
    ------
    DriftError
        If it is damaged.
    """
    return decode_reference(saved.content)


class References:
    """Finds references in the data directory; each file is read again only when it has changed.

    Parameters
    ----------
    data_dir
        With ``models/NAME/REGISTRY VERSION/`` and ``drift/baseline.json``.
    """

    def __init__(self, data_dir: Path) -> None:
        self._models = data_dir / "models"
        self._baseline = baseline_path(data_dir)
        self._read: dict[Path, tuple[object, Reference | str]] = {}

    def find(self, identity: Identity) -> Reference | str:
        """The reference of a version, or why there is none and what to do."""
        set_one = self._cached(self._baseline, self._read_baseline)
        if isinstance(set_one, Reference) and set_one.of == (identity.model, identity.registry_version):
            return set_one
        directory = self._models / identity.model / identity.registry_version
        own = self._cached(directory / REFERENCE_PROFILE, lambda: _of_version(directory, identity))
        return own if isinstance(own, Reference) or not isinstance(set_one, str) or not set_one else f"{own}; {set_one}"

    def _cached(self, path: Path, read: Callable[[], Reference | str]) -> Reference | str:
        try:
            found = path.stat()
            stamp: object = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            stamp = None
        known = self._read.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        answer = read()
        self._read[path] = (stamp, answer)
        return answer

    def _read_baseline(self) -> Reference | str:
        try:
            baseline = read_baseline(self._baseline)
        except DriftError as error:
            log.error("the drift baseline is not used", problem=str(error))
            return str(error)
        if baseline is None:
            return ""
        profile = decode_reference(bytes(baseline.reference))
        words = f"baseline set by {baseline.who} at {baseline.at}: {baseline.source}"
        of = (baseline.model, baseline.registry_version)
        return Reference(_id_of(baseline.version, profile), "baseline", words, profile, of)


def baseline_path(data_dir: Path) -> Path:
    """Where an operator's baseline is."""
    return data_dir / "drift" / "baseline.json"


def read_baseline(path: Path) -> Baseline | None:
    """The baseline that is set; None: there is none.

    Raises
    ------
    DriftError
        If it cannot be read.
    """
    try:
        baseline = msgspec.json.decode(path.read_bytes(), type=Baseline)
        decode_reference(bytes(baseline.reference))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, DriftError) as error:
        raise DriftError(
            f"{path} cannot be read ({error}): set it again with `shadow drift baseline --from FILE`, or remove it with"
            " `shadow drift baseline clear`"
        ) from error
    return baseline


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Set a baseline.

    Raises
    ------
    DriftError
        If it cannot be written; the old one holds.
    """
    try:
        replace_durably(path, msgspec.json.encode(baseline))
    except OSError as error:
        raise DriftError(f"{path} cannot be written: {error}") from error


def clear_baseline(path: Path) -> bool:
    """Remove the baseline; False if there is none.

    Raises
    ------
    DriftError
        If it cannot be removed.
    """
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DriftError(f"{path} cannot be removed: {error}") from error
    return True


def _of_version(directory: Path, identity: Identity) -> Reference | str:
    try:
        profile = read_reference_profile(directory)
    except DriftError as error:
        return f"the reference of version {identity.version} cannot be read: {error}"
    if profile is None:
        return (
            f"version {identity.version} has no reference: set one with `shadow drift baseline --from FILE` or"
            " `shadow drift baseline --since 7d`"
        )
    words = f"{identity.model} {identity.version}: {profile.source}"
    of = (identity.model, identity.registry_version)
    return Reference(_id_of(identity.version, profile), "version", words, profile, of)


def _id_of(version: str, profile: ReferenceProfile) -> str:
    digest = hashlib.sha256(encode_reference(profile)).hexdigest()[:_ID_LETTERS]
    return f"{version[:100]}-{digest}"
