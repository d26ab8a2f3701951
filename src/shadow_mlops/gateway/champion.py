"""The champion in force: followed through ``serving.json``, loaded beside the old one, then swapped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.deployment.fields import AcceptedFields
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import DeploymentError, ModelRefusedError, ShadowError, UnavailableError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import ModelCard, Serving
from shadow_mlops.domain.positive import positive_class
from shadow_mlops.gateway.answers import Renderer, renderer
from shadow_mlops.models.loading import LoadedModel, load_model
from shadow_mlops.models.serving import read_serving

POLL_SECONDS = 0.1
INLINE_SECONDS = 0.0003  # a model run of more than 300 µs would hold up the other clients of the event loop
_AWAY_SECONDS = 1.0  # between attempts at a champion whose model is elsewhere and away

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Canary:
    """A challenger that answers a part of the entities."""

    share: float
    served: Served


@dataclass(frozen=True, slots=True)
class Served:
    """Everything needed to answer with one champion; replaced as a whole, never changed."""

    serving: Serving
    loaded: LoadedModel
    fields: AcceptedFields
    number_columns: NDArray[np.intp] | None
    string_columns: NDArray[np.intp] | None
    """Where the model's inputs are among the accepted fields; None: they are exactly these."""
    render: Renderer
    schema: EventSchema
    challengers: dict[str, ModelCard]
    inline: bool
    canary: Canary | None = None

    @property
    def card(self) -> ModelCard:
        """Card of the champion."""
        return self.loaded.card

    def predict(self, numbers: NDArray[np.float64], strings: NDArray[np.object_]) -> NDArray[np.float64]:
        """Scores (n, k) of columns that are in the order of ``fields``."""
        if self.number_columns is not None:
            numbers = numbers[:, self.number_columns]
        if self.string_columns is not None:
            strings = strings[:, self.string_columns]
        return self.loaded.predict(numbers, strings)


def assemble(
    deployment: Deployment,
    serving: Serving,
    loaded: LoadedModel,
    challengers: dict[str, ModelCard],
    *,
    canary: LoadedModel | None = None,
) -> Served:
    """Fit a loaded champion to its deployment.

    Parameters
    ----------
    canary
        Model of the canary step that ``serving`` names; None: the champion answers all.

    Raises
    ------
    DeploymentError
        Model and deployment do not fit.
    """
    card = loaded.card
    if card.name != deployment.name:
        raise DeploymentError(f"the deployment serves {deployment.name}, serving.json names {card.name}")
    fields, challengers = _accepted(deployment, card, challengers)
    served = _fitted(deployment, serving, loaded, fields, challengers)
    if canary is None or serving.canary is None:
        return served
    trial = _fitted(deployment, serving, canary, fields, challengers)
    trial = replace(trial, schema=msgspec.structs.replace(trial.schema, role="challenger"))
    return replace(served, canary=Canary(serving.canary.share, trial), inline=served.inline and trial.inline)


def _fitted(
    deployment: Deployment,
    serving: Serving,
    loaded: LoadedModel,
    fields: AcceptedFields,
    challengers: dict[str, ModelCard],
) -> Served:
    card = loaded.card
    numbers, strings = fields.signature.numbers, fields.signature.strings
    return Served(
        serving=serving,
        loaded=loaded,
        fields=fields,
        number_columns=_columns(card.signature.numbers, numbers),
        string_columns=_columns(card.signature.strings, strings),
        render=renderer(deployment, card),
        schema=EventSchema(
            deployment=deployment.name,
            task=deployment.task,
            model=card.name,
            version=card.version,
            registry_version=card.registry_version,
            numbers=numbers,
            strings=strings,
            outputs=card.outputs,
            positive=positive_class(deployment, card),
            threshold=deployment.decision.threshold,
        ),
        challengers=challengers,
        inline=loaded.detached is None and loaded.single_row_seconds <= INLINE_SECONDS,
    )


def _accepted(
    deployment: Deployment, card: ModelCard, challengers: dict[str, ModelCard]
) -> tuple[AcceptedFields, dict[str, ModelCard]]:
    """Fields of the champion and of those challengers that fit: one that does not must not keep the champion away."""
    fields = AcceptedFields(deployment, [card.signature])
    fitting: dict[str, ModelCard] = {}
    for name, challenger in challengers.items():
        signatures = [card.signature, *(c.signature for c in fitting.values()), challenger.signature]
        try:
            fields = AcceptedFields(deployment, signatures)
        except DeploymentError as error:
            log.error("a challenger does not fit, its own features are not accepted", name=name, reason=str(error))
        else:
            fitting[name] = challenger
    return fields, fitting


def _columns(wanted: Sequence[str], given: Sequence[str]) -> NDArray[np.intp] | None:
    if tuple(wanted) == tuple(given):
        return None
    return np.array([given.index(name) for name in wanted], dtype=np.intp)


class ChampionFollower:
    """Keeps the champion that ``serving.json`` names.

    A version that cannot be loaded, does not give its recorded outputs or does not fit the deployment is refused: the
    old one stays in force and ``refusal`` says why until another generation is published. One whose model is elsewhere
    and does not answer is tried again until it does.

    Parameters
    ----------
    data_dir
        Folder of ``serving.json`` and of the prepared models.
    deployment
        What the model must fit.
    on_swap
        Called in the event loop with the new :class:`Served`.
    """

    def __init__(self, data_dir: Path, deployment: Deployment, on_swap: Callable[[Served], None]) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "serving.json"
        self._deployment = deployment
        self._on_swap = on_swap
        self._seen: tuple[int, int, int] | None = None
        self._not_before = 0.0
        self.served: Served | None = None
        self.refusal: str | None = None
        self.canary_refusal: str | None = None

    async def step(self) -> None:
        """Look once; load and swap when ``serving.json`` has changed."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if mark == self._seen or time.monotonic() < self._not_before:
            return
        self._seen = mark
        try:
            serving = read_serving(self._path)
            if serving is None:
                return
            served = await asyncio.to_thread(self._load, serving)
        except (ShadowError, OSError, msgspec.MsgspecError) as error:
            refusal = f"{type(error).__name__}: {error}"
            if isinstance(error, UnavailableError):
                self._seen, self._not_before = None, time.monotonic() + _AWAY_SECONDS
            if refusal != self.refusal:
                log.error("champion refused, the old one stays", reason=refusal)
            self.refusal = refusal
            return
        self.served, self.refusal = served, None
        self._on_swap(served)
        log.info(
            "champion in force",
            version=served.card.version,
            generation=serving.generation,
            inline=served.inline,
        )

    def _load(self, serving: Serving) -> Served:
        directory = self._data_dir / serving.champion
        there = self._in_memory()
        loaded = there.get(serving.champion) or load_model(directory)
        challengers = {name: self._card(path) for name, path in serving.challengers.items()}
        try:
            canary = self._canary(serving, there)
            served = assemble(self._deployment, serving, loaded, challengers, canary=canary)
        except (ModelRefusedError, DeploymentError, UnavailableError, OSError) as error:
            if serving.canary is None:
                raise
            served = assemble(self._deployment, serving, loaded, challengers)  # a trial must not keep a champion away
            log.error("canary refused, the champion answers all", reason=str(error))
            self.canary_refusal = f"the canary does not answer: {error}"
        else:
            self.canary_refusal = None
        return served

    def _in_memory(self) -> dict[str, LoadedModel]:
        """Directory -> model that this process has loaded already: a canary that becomes champion is there."""
        served = self.served
        if served is None:
            return {}
        there = {served.serving.champion: served.loaded}
        if served.canary is not None and served.serving.canary is not None:
            there[served.serving.canary.directory] = served.canary.served.loaded
        return there

    def _canary(self, serving: Serving, there: dict[str, LoadedModel]) -> LoadedModel | None:
        if serving.canary is None:
            return None
        canary = there.get(serving.canary.directory) or load_model(self._data_dir / serving.canary.directory)
        if canary.detached is not None:
            raise ModelRefusedError("its model runs elsewhere: only one that is loaded here can be a canary")
        return canary

    def _card(self, path: str) -> ModelCard:
        try:
            return msgspec.json.decode((self._data_dir / path / "card.json").read_bytes(), type=ModelCard)
        except (OSError, msgspec.MsgspecError) as error:
            raise ModelRefusedError(f"card of challenger {path} cannot be read: {error}") from None

    async def follow(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(POLL_SECONDS)
