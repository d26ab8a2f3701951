"""``serving.json``: the one arrow from the registry back to the processes that serve."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shadow_mlops.domain.errors import ModelError
from shadow_mlops.domain.models import Serving
from shadow_mlops.durable import replace_durably

SERVING = "serving.json"
"""Its name in the data directory."""


def read_serving(path: Path) -> Serving | None:
    """What serves; None when nothing has been published yet.

    Raises
    ------
    ModelError
        If the file is there and cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Serving)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def publish_serving(path: Path, serving: Serving) -> None:
    """Replace the file as a whole: a reader sees the old word or the new one, also after a loss of power.

    Raises
    ------
    ModelError
        If it cannot be written; the old word stays.
    """
    try:
        replace_durably(path, msgspec.json.format(msgspec.json.encode(serving), indent=2))
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error}") from error
