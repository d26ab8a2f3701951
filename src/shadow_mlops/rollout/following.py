"""Whether the gateway of this host serves what the registry asks for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from shadow_mlops.domain.errors import ModelError
from shadow_mlops.domain.models import Serving
from shadow_mlops.models.serving import SERVING, read_serving

_POLL_SECONDS = 0.02


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a switch on this host."""

    served: bool
    """True when every gateway worker answers with the new champion."""
    gateway: bool
    """False when none runs on this data directory: there is nobody to follow."""
    seconds: float | None
    """From the last alias write to the word of the last worker; None unless served."""
    detail: str


class _Gateway(msgspec.Struct):
    """``run/gateway.json``, as the gateway's parent writes it."""

    pid: int
    generations: dict[str, int] = {}


def await_followed(data_dir: Path, directory: Path, *, seconds: float) -> Followed:
    """Wait until every worker of this host serves a prepared directory as champion.

    Parameters
    ----------
    directory
        Prepared directory of the new champion.
    seconds
        How long to wait at most.
    """
    wanted = str(directory.relative_to(data_dir))
    return await_agreed(data_dir, lambda serving: serving.champion == wanted, seconds=seconds)


def await_agreed(data_dir: Path, agrees: Callable[[Serving], bool], *, seconds: float) -> Followed:
    """Wait until what is published agrees with an order, and every worker of this host serves it."""
    begun = time.monotonic()
    while True:
        gateway, serving = _gateway(data_dir), _serving(data_dir)
        passed = time.monotonic() - begun
        if gateway is None:
            detail = "no gateway runs on this data directory; the next one starts with this"
            return Followed(served=False, gateway=False, seconds=None, detail=detail)
        published = serving is not None and agrees(serving)
        if published and serving is not None and _all_serve(gateway, serving):
            workers = len(gateway.generations)
            detail = f"served by {workers} {'worker' if workers == 1 else 'workers'} after {passed:.2f} s"
            return Followed(served=True, gateway=True, seconds=round(passed, 3), detail=detail)
        if passed >= seconds:
            why = _why(gateway, serving, seconds, published=published)
            return Followed(served=False, gateway=True, seconds=None, detail=why)
        time.sleep(_POLL_SECONDS)


def _all_serve(gateway: _Gateway, serving: Serving) -> bool:
    return bool(gateway.generations) and min(gateway.generations.values()) >= serving.generation


def _why(gateway: _Gateway, serving: Serving | None, seconds: float, *, published: bool) -> str:
    if serving is None or not published:
        problems = "; ".join(serving.problems) if serving is not None else ""
        return f"not published within {seconds:g} s{': ' + problems if problems else ''}; see /health"
    behind = sorted(name for name, generation in gateway.generations.items() if generation < serving.generation)
    return f"published, but not served within {seconds:g} s by {', '.join(behind) or 'any worker'}; see /health"


def _gateway(data_dir: Path) -> _Gateway | None:
    try:
        word = msgspec.json.decode((data_dir / "run" / "gateway.json").read_bytes(), type=_Gateway)
    except (OSError, msgspec.DecodeError):
        return None
    try:
        os.kill(word.pid, 0)
    except PermissionError:
        return word  # another user's, and alive
    except OSError:
        return None
    return word


def _serving(data_dir: Path) -> Serving | None:
    try:
        return read_serving(data_dir / SERVING)
    except ModelError:
        return None  # damaged: the resolver writes it anew
