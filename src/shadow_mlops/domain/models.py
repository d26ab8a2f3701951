"""What is known of a model version, and which versions serve."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from shadow_mlops.domain.features import Signature

Task: TypeAlias = Literal["binary", "multiclass", "regression"]


CREATED_US = "created_us"
"""Key in a card's provenance: when the version was registered, microseconds since 1970 by the registry's clock."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One prepared model version, as its directory's ``card.json`` holds it.

    The directory is ``<data-dir>/models/<name>/<registry_version>/``: the card, the model file that it names, and
    ``recorded.json`` with inputs and the outputs that this very file gave for them when it was prepared.
    """

    name: str
    version: str
    """Human version: the registry tag ``version``, or the registry number of an untagged one."""
    registry_version: str
    task: Task
    runtime: str
    """Entry point of group ``shadow_mlops.runtimes`` that loads ``file``: onnx, skops, lightgbm, …"""
    file: str
    sha256: str
    signature: Signature
    classes: tuple[str, ...] = ()
    """Class labels as text, one per score column; empty for regression."""
    metrics: dict[str, float] = {}
    provenance: dict[str, str] = {}
    """How the file came to be: origin flavour, ``largest_difference`` and ``tolerance`` of the export, data hash."""

    @property
    def created_us(self) -> int:
        """When the version was registered; 0: not known."""
        return int(self.provenance.get(CREATED_US, 0))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the score columns: the classes, or ``("value",)`` for regression."""
        return self.classes or ("value",)


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and the outputs that a model file gave for them when it was prepared: what it must still answer."""

    numbers: list[list[float | None]]
    strings: list[list[str | None]]
    scores: list[list[float]]
    tolerance: float = 1e-6


class CanaryStep(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger that answers a part of the entities, and the step that it has reached."""

    challenger: str
    """Its role: ``challenger``, ``challenger-NAME``."""
    directory: str
    """Of its card, relative to the data directory."""
    share: float
    """Part of the entities, in (0, 1]; those of a smaller share are among those of a larger one."""
    step: int
    """Counts from 0."""
    rollout: str
    """Which rollout it is: the evidence that started it, or the order."""
    since_us: int = 0
    """When the step began, microseconds since 1970."""
    frozen: bool = False
    """The share stays until somebody says otherwise; harm still ends it."""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """The resolver's word to every other process: which prepared versions play which role (``serving.json``)."""

    generation: int
    """Grows by one with each change; workers report the generation that they serve."""
    published_at: str
    champion: str
    """Directory of the champion's card, relative to the data directory."""
    challengers: dict[str, str] = {}
    """Challenger name -> directory of its card."""
    canary: CanaryStep | None = None
    pinned: tuple[str, ...] = ()
    """Roles whose version a setting fixes: ``champion``, ``challenger``."""
    problems: tuple[str, ...] = ()
    """What the registry asked for and could not be obeyed, in words, shown in ``/health``."""
