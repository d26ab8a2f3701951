"""Reported events become frames of the log: checked as the gateway checks its own requests, all of them or none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from shadow_mlops.console.reported import ReportedEvent, ScoresError, microseconds, scores_of
from shadow_mlops.deployment.fields import AcceptedFields
from shadow_mlops.deployment.sampling import in_sample
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import InvalidFieldsError, ModelError, Problem, UnavailableError
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.domain.positive import positive_class
from shadow_mlops.eventlog.records import EventBatch
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.serving import SERVING, read_serving

_AHEAD_US = 86_400_000_000  # clocks differ; an event of next week would be the newest for a week
_LARGEST_LATENCY = 2**32 - 1
# Clients name versions, and each is a schema in every snapshot of the lake, and one more champion to compare with. Who
# reports more has put a time or a request id there.
_MOST_VERSIONS = 1000


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is accepted while one ``serving.json`` is in force."""

    fields: AcceptedFields
    champion: ModelCard
    cards: dict[str, ModelCard]
    """Human version -> card, of those that serve or shadow."""
    schemas: dict[str, EventSchema]
    """Version -> schema of its events; filled as versions are seen."""


class Checker:
    """Turns reported events into batches of the event log.

    Parameters
    ----------
    data_dir
        Folder of ``serving.json`` and of the prepared models.
    """

    def __init__(self, data_dir: Path, deployment: Deployment) -> None:
        self._data_dir = data_dir
        self._deployment = deployment
        self._mark: tuple[int, int, int] | None = None
        self._accepted: Accepted | None = None
        self._foreign: set[str] = set()
        """Versions of accepted events that no alias named."""

    @property
    def accepted(self) -> Accepted:
        """What is accepted now.

        Raises
        ------
        UnavailableError
            If no version serves or shadows yet.
        DeploymentError
            If champion and deployment do not fit.
        """
        path = self._data_dir / SERVING
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._accepted is None or mark != self._mark:
                self._accepted, self._mark = self._read(path), mark
        except (FileNotFoundError, ModelError) as error:
            raise UnavailableError(
                f"which features the model has is not known yet ({error}): register the model that answers, and give"
                " it the alias champion"
            ) from None
        return self._accepted

    def _read(self, path: Path) -> Accepted:
        serving = read_serving(path)
        if serving is None:
            raise FileNotFoundError(path)
        champion = read_card(self._data_dir / serving.champion)
        shadows = [read_card(self._data_dir / directory) for directory in serving.challengers.values()]
        return Accepted(
            fields=AcceptedFields(self._deployment, [champion.signature, *(card.signature for card in shadows)]),
            champion=champion,
            cards={card.version: card for card in (*shadows, champion)},
            schemas={},
        )

    def batches(self, events: Sequence[ReportedEvent]) -> list[EventBatch]:
        """Check events: a batch for each version, in the order of the events.

        Raises
        ------
        InvalidFieldsError
            Naming every problem of every event.
        UnavailableError
            If no version serves or shadows yet.
        DeploymentError
            If champion and deployment do not fit.
        """
        accepted = self.accepted
        now_us = time.time_ns() // 1000
        times = np.array([now_us if each.time is None else microseconds(each.time) for each in events], dtype=np.int64)
        problems = [
            Problem("time", "must be after 1970, and at most a day ahead", index)
            for index in np.flatnonzero((times < 0) | (times > now_us + _AHEAD_US)).tolist()
        ]
        try:
            values = accepted.fields.convert_each([each.features for each in events])
            columns = accepted.fields.check_all(values)
        except InvalidFieldsError as error:
            problems += [Problem(_place("features", each.field), each.problem, each.index) for each in error.problems]
        versions: dict[str, list[int]] = {}
        scores: list[list[float]] = []
        for index, event in enumerate(events):
            versions.setdefault(event.version, []).append(index)
            try:
                scores.append(scores_of(event, self._schema(accepted, event.version)))
            except ScoresError as error:
                problems.append(Problem(error.field, str(error), index))
        problems += self._wrong_versions(accepted, versions)
        if problems:
            problems.sort(key=lambda problem: problem.index or 0)
            raise InvalidFieldsError("the events are invalid; none of them was accepted", problems)
        self._foreign |= versions.keys() - accepted.cards.keys()
        found = accepted.fields.entities_of(values)
        entities = [
            inside if each.entity is None else str(each.entity) for each, inside in zip(events, found, strict=True)
        ]
        share = self._deployment.shadow.sample
        batches = []
        for version, rows in versions.items():
            ids, own = [events[row].request_id for row in rows], [entities[row] for row in rows]
            latencies = [min(round(events[row].latency_ms * 1000), _LARGEST_LATENCY) for row in rows]
            batches.append(
                EventBatch(
                    schema=self._schema(accepted, version),
                    times=times[rows],
                    latencies=np.array(latencies, dtype=np.uint32),
                    request_ids=ids,
                    entities=own,
                    numbers=columns.numbers[rows],
                    strings=columns.strings[rows],
                    scores=np.array([scores[row] for row in rows], dtype=np.float64),
                    origins=None if columns.origins is None else columns.origins[rows],
                    sampled=None if share >= 1.0 else in_sample(self._deployment.name, own, ids, share),
                )
            )
        return batches

    def _wrong_versions(self, accepted: Accepted, versions: Mapping[str, Sequence[int]]) -> list[Problem]:
        """Problems of versions, each told of its first event."""
        new = [version for version in versions if version not in accepted.cards and version not in self._foreign]
        problems = [
            Problem("version", "must have printable characters only", versions[version][0])
            for version in new
            if not version.isprintable()
        ]
        room = max(_MOST_VERSIONS - len(self._foreign), 0)
        if len(new) > room:
            problem = (
                f"is one more than {_MOST_VERSIONS} that no alias names: it must be the model's, and not change with"
                " each request; a restart of the console forgets them"
            )
            problems.append(Problem("version", problem, versions[new[room]][0]))
        return problems

    def _schema(self, accepted: Accepted, version: str) -> EventSchema:
        schema = accepted.schemas.get(version)
        if schema is None:
            card = accepted.cards.get(version)
            if card is None or card.task != self._deployment.task:
                card = msgspec.structs.replace(accepted.champion, version=version, registry_version="")
            if len(accepted.schemas) >= _MOST_VERSIONS:
                accepted.schemas.clear()
            schema = accepted.schemas[version] = EventSchema(
                deployment=self._deployment.name,
                task=self._deployment.task,
                model=self._deployment.name,
                version=version,
                registry_version=card.registry_version,
                numbers=accepted.fields.signature.numbers,
                strings=accepted.fields.signature.strings,
                outputs=card.outputs,
                positive=positive_class(self._deployment, card),
                threshold=self._deployment.decision.threshold,
            )
        return schema


def _place(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if inner else outer
