"""What live drift remembers across restarts: one file, so that positions and what was counted up to them never part."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from shadow_mlops.domain.models import Task
from shadow_mlops.drift.buckets import Packed, Unit
from shadow_mlops.drift.episodes import Watched
from shadow_mlops.durable import replace_durably

log = structlog.get_logger()

FORMAT = 1
ReferenceOf: TypeAlias = Literal["version", "baseline"]
"""The rows that are kept with a version, or those that an operator has named."""
_MAGIC = b"SHDRIFT1"
_DIGEST_BYTES = 16
_QUICKLY = 1  # of zlib: a third of the size at a few hundredths of a second


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A model version, as the log names it."""

    model: str
    version: str
    registry_version: str
    task: Task


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """The reference that rows are counted against."""

    id: str
    kind: ReferenceOf
    words: str
    content: bytes
    """As :func:`~shadow_mlops.models.reference.encode_reference` gives it."""


class DetectorMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The e-detector, as bytes of its arrays."""

    log_levels: bytes
    seen: bytes
    seasons: Packed | None = None
    """Counts of each hour of the week that it began with; None: those of the version."""


class LaneState(msgspec.Struct, kw_only=True):
    """One stream, up to its newest closed bucket."""

    positions: dict[int, int] = {}
    """Segment -> rows, all of them in closed buckets."""
    last: int | None = None
    """The newest closed bucket."""
    identity: Identity | None = None
    """Version in force."""
    before: str | None = None
    """Registry version that was in force before it."""
    reference: InForce | None = None
    problem: str = ""
    """Why there is no reference."""
    since: int = 0
    """First bucket that was counted against it."""
    layout: str = ""
    """Of the panel: which features the counts are of."""
    units: list[list[Unit]] = []
    lost: int = 0
    """Rows that retention removed before they were read."""


class ChampionState(LaneState, kw_only=True):
    """The events, and what is watched in them."""

    offsets: dict[int, int] = {}
    """Boot -> offset of the clock."""
    detector: DetectorMemory | None = None
    watched: dict[str, Watched] = {}
    deployment_alarms: int = 0
    checked: int = -1
    """Number of the newest check."""
    capped: int = 0
    """Rows that were left out because a bucket had more entities than are remembered."""


class LiveState(msgspec.Struct, kw_only=True):
    """Contents of the file."""

    format: int = FORMAT
    deployment: str = ""
    bucket_us: int = 0
    champion: ChampionState = msgspec.field(default_factory=ChampionState)
    challengers: dict[str, LaneState] = {}


def save_state(path: Path, state: LiveState) -> None:
    """Replace the file.

    Raises
    ------
    OSError
        It is the old one still.
    """
    body = zlib.compress(msgspec.msgpack.encode(state), _QUICKLY)
    replace_durably(path, _MAGIC + _digest(body) + body)


def read_state(path: Path, *, deployment: str, bucket_us: int) -> LiveState:
    """What was saved last, or a new state.

    A file that is damaged, of another format, deployment or length of buckets is set aside under another name, with a
    message: what the log retains is then counted anew.
    """
    fresh = LiveState(deployment=deployment, bucket_us=bucket_us)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return fresh
    try:
        state = _decode(content)
        if state.format != FORMAT:
            problem = f"it has format {state.format}, this version reads {FORMAT}"
        elif state.deployment != deployment:
            problem = f"it is of the deployment {state.deployment}"
        elif state.bucket_us != bucket_us:
            problem = (
                f"it has buckets of {state.bucket_us / 1e6:g} s, the deployment file asks for {bucket_us / 1e6:g} s"
            )
        else:
            return state
    except (msgspec.MsgspecError, ValueError, zlib.error) as error:
        problem = str(error)
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    log.warning("saved drift counts are not used, counting begins anew", problem=problem, set_aside=str(aside))
    return fresh


def _decode(content: bytes) -> LiveState:
    start = len(_MAGIC) + _DIGEST_BYTES
    body = content[start:]
    if content[:start] != _MAGIC + _digest(body):
        raise ValueError("its check sum does not hold")
    return msgspec.msgpack.decode(zlib.decompress(body), type=LiveState)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
