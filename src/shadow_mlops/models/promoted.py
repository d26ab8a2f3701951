"""A promotion's word to the resolver of its host: the aliases have moved, and this version has just proved itself."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec

from shadow_mlops.domain.errors import ModelError
from shadow_mlops.durable import replace_durably
from shadow_mlops.models.prepared import CARD

PROMOTED = Path("run") / "promoted.json"
"""Where it is in the data directory."""


class Promoted(msgspec.Struct, frozen=True, kw_only=True):
    """Which version was promoted."""

    number: str
    card: str
    """What :func:`card_mark` gave for the prepared directory that was checked."""


def card_mark(directory: Path) -> str | None:
    """SHA-256 of the card of a prepared directory, which holds that of the model file; None where there is none."""
    try:
        return sha256((directory / CARD).read_bytes()).hexdigest()
    except OSError:
        return None


def publish_promoted(data_dir: Path, promoted: Promoted) -> None:
    """Leave the word; the resolver looks for it several times a second.

    Raises
    ------
    ModelError
        If it cannot be written; the resolver then notices the aliases at its own pace.
    """
    try:
        replace_durably(data_dir / PROMOTED, msgspec.json.encode(promoted))
    except OSError as error:
        raise ModelError(f"{data_dir / PROMOTED} cannot be written: {error}") from error


def read_promoted(data_dir: Path) -> Promoted | None:
    """The last word; None where there is none.

    Raises
    ------
    ModelError
        If the file is there and cannot be read.
    """
    try:
        return msgspec.json.decode((data_dir / PROMOTED).read_bytes(), type=Promoted)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{data_dir / PROMOTED} cannot be read: {error}") from error
