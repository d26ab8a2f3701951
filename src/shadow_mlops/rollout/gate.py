"""Gates at work: closed cohorts from the lake, one transaction each, a decision with its evidence at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Engine

from shadow_mlops.comparison.cohorts import Cohort, Matchup, first_cohort, next_cohort
from shadow_mlops.domain.errors import StateError
from shadow_mlops.lake.manifest import Manifest, read_manifest
from shadow_mlops.lake.queries import connect, reading
from shadow_mlops.rollout.decision import Decision, decide
from shadow_mlops.rollout.evidence import (
    Evidence,
    decode_evidence,
    differences_between,
    encode_evidence,
    evidence_id,
    matchup_of,
    record_hash,
)
from shadow_mlops.rollout.folding import Folded, GateState, feature_columns, fold, opened
from shadow_mlops.rollout.spec import GateSpec
from shadow_mlops.state import gates as stored
from shadow_mlops.state.gates import StoredGate

log = structlog.get_logger()


class GateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A gate as ``shadow gate status`` shows it."""

    name: str
    """Of the challenger."""
    champion: str
    challenger: str
    decision: Decision
    evidence_id: str | None
    cohorts: int
    late: int
    without_value: int


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shadow gate verify`` found."""

    evidence_id: str
    valid: bool
    problems: tuple[str, ...]


class Gates:
    """The gates of one deployment.

    Parameters
    ----------
    lake
        Folder of the lake.
    model
        Registered model.
    threads
        Of DuckDB.
    """

    def __init__(self, lake: Path, state: Engine, spec: GateSpec, *, model: str, threads: int | None = 1) -> None:
        self.spec = spec
        self._lake = lake
        self._state = state
        self._model = model
        self._threads = threads

    def advance(
        self, champion: str, challengers: Mapping[str, str], created_us: Mapping[str, int] | None = None
    ) -> list[GateStatus]:
        """Take in whatever cohorts have closed, for each challenger, until it is decided.

        Parameters
        ----------
        champion
            Version that serves.
        challengers
            Challenger name -> version.
        created_us
            Challenger name -> when its version was registered, microseconds since 1970. It may have learned from what
            happened before, so its gate begins with the first cohort after that.

        Raises
        ------
        LakeError, StateError
            Everything up to the cohort before stands.
        """
        manifest = read_manifest(self._lake)
        found = []
        for name, version in sorted(challengers.items()):
            floor = -(-(created_us or {}).get(name, 0) // self.spec.cohort_us)
            gate = self._gate(manifest, name, champion, version, challengers=len(challengers), floor=floor)
            if gate is not None:
                found.append(self._advanced(manifest, gate))
        return found

    def status(self, champion: str, challengers: Mapping[str, str]) -> list[GateStatus]:
        """As :meth:`advance`, without advancing."""
        found = []
        for name, version in sorted(challengers.items()):
            known = stored.find(self._state, model=self._model, name=name, champion=champion, challenger=version)
            gate = next((each for each in known if each.spec_hash == self.spec.hash), None)
            if gate is not None:
                found.append(self._told(gate, _state_of(gate)))
        return found

    def verify(self, key: str) -> Verified:
        """Make a record of evidence again from the lake, and follow the chain up to it.

        Raises
        ------
        StateError
            If there is no such record.
        LakeError
            If the lake cannot be read.
        """
        link = stored.evidence_of(self._state, key)
        problems = list(_broken_links(stored.chain(self._state)))
        evidence = decode_evidence(link.record)
        state, rows_gone = self._recomputed(evidence)
        if rows_gone:
            problems.append(rows_gone)
        else:
            again = msgspec.structs.replace(
                evidence, state=state, decision=decide(state, evidence.spec, challengers=evidence.challengers)
            )
            problems += differences_between(link.record, encode_evidence(again))
        return Verified(evidence_id=key, valid=not problems, problems=tuple(problems))

    def _gate(
        self, manifest: Manifest, name: str, champion: str, challenger: str, *, challengers: int, floor: int
    ) -> StoredGate | None:
        known = stored.find(self._state, model=self._model, name=name, champion=champion, challenger=challenger)
        gate = next((each for each in known if each.spec_hash == self.spec.hash), None)
        if gate is not None:
            return gate
        if known:  # another spec looked at the cohorts before: what it has seen cannot be evidence for this one
            first: int | None = max(each.next_cohort for each in known)
        else:
            with self._reading(manifest, None) as connection:
                first = first_cohort(connection, matchup_of(self.spec, champion, challenger, name))
        if first is None:
            return None
        first = max(first, floor)
        log.info("gate opened", challenger=name, version=challenger, champion=champion, first_cohort=first)
        return stored.begin(
            self._state,
            model=self._model,
            name=name,
            champion=champion,
            challenger=challenger,
            spec_hash=self.spec.hash,
            challengers=challengers,
            first_cohort=first,
            state=_encoded(opened(self.spec, first)),
        )

    def _advanced(self, manifest: Manifest, gate: StoredGate) -> GateStatus:
        state = _state_of(gate)
        if gate.decision != "keep_watching":
            return self._told(gate, state)
        spent: set[bytes] | None = None
        served: set[bytes] = set()
        matchup = matchup_of(self.spec, gate.champion, gate.challenger, gate.name)
        for cohort in self._cohorts(manifest, matchup, gate.next_cohort, self.spec):
            if spent is None:  # most looks find no cohort, and a gate may have spent a hundred thousand entities
                spent = stored.spent(self._state, gate.id, "metric")
                served = stored.spent(self._state, gate.id, "service")
            folded = fold(state, cohort, self.spec, schemas=manifest.schemas, spent=spent, served=served)
            gate = self._taken(gate, folded)
            state = folded.state
            spent.update(folded.spent)
            served.update(folded.served)
            if gate.decision != "keep_watching":
                log.info("gate decided", challenger=gate.name, decision=gate.decision, evidence=gate.evidence)
                break
        return self._told(gate, state)

    def _taken(self, gate: StoredGate, folded: Folded) -> StoredGate:
        decision = decide(folded.state, self.spec, challengers=gate.challengers)
        # what came late is known only as far as the lake reached then: no part of what anybody can make again
        shown = msgspec.structs.replace(folded.state, late=0)

        def evidence(previous: str) -> bytes:
            return encode_evidence(
                Evidence(
                    previous=previous,
                    model=gate.model,
                    challenger_name=gate.name,
                    champion=gate.champion,
                    challenger=gate.challenger,
                    challengers=gate.challengers,
                    spec_hash=gate.spec_hash,
                    spec=self.spec,
                    first_cohort=gate.first_cohort,
                    decision=decision,
                    state=shown,
                )
            )

        return stored.advance(
            self._state,
            gate,
            next_cohort=folded.state.next_cohort,
            state=_encoded(folded.state),
            decision=decision.decision,
            newly_spent={"metric": folded.spent, "service": folded.served},
            evidence=None if decision.decision == "keep_watching" else evidence,
        )

    def _recomputed(self, evidence: Evidence) -> tuple[GateState, str]:
        spec = evidence.spec
        state = opened(spec, evidence.first_cohort)
        spent: set[bytes] = set()
        served: set[bytes] = set()
        manifest = read_manifest(self._lake)
        wanted = len(evidence.state.cohorts)
        matchup = matchup_of(spec, evidence.champion, evidence.challenger, evidence.challenger_name)
        cohorts = self._cohorts(manifest, matchup, evidence.first_cohort, spec)
        for _, cohort in zip(range(wanted), cohorts, strict=False):
            folded = fold(state, cohort, spec, schemas=manifest.schemas, spent=spent, served=served)
            state = folded.state
            spent.update(folded.spent)
            served.update(folded.served)
        if len(state.cohorts) < wanted:
            return state, f"the lake has {len(state.cohorts)} of the {wanted} cohorts: the others are past retention"
        return msgspec.structs.replace(state, late=evidence.state.late), ""

    def _cohorts(self, manifest: Manifest, matchup: Matchup, number: int, spec: GateSpec) -> Iterator[Cohort]:
        with self._reading(manifest, number * spec.cohort_us) as connection:
            while True:
                cohort = next_cohort(
                    connection, matchup, number, matched_us=manifest.matched_us, features=feature_columns(spec)
                )
                if cohort is None:
                    return
                yield cohort
                number = cohort.number + 1

    @contextmanager
    def _reading(self, manifest: Manifest, since_us: int | None) -> Iterator[Any]:
        with (
            reading(self._lake),
            closing(connect(self._lake, manifest.between(since_us), threads=self._threads)) as connection,
        ):
            yield connection

    def _told(self, gate: StoredGate, state: GateState) -> GateStatus:
        return GateStatus(
            name=gate.name,
            champion=gate.champion,
            challenger=gate.challenger,
            decision=decide(state, self.spec, challengers=gate.challengers),
            evidence_id=gate.evidence,
            cohorts=len(state.cohorts),
            late=state.late,
            without_value=state.without_value,
        )


def _broken_links(chain: tuple[stored.StoredEvidence, ...]) -> Iterator[str]:
    before = stored.CHAIN_START
    for link in chain:
        named = msgspec.json.decode(link.record, type=dict[str, Any]).get("previous")
        if link.previous != before or named != before:
            yield f"evidence {link.key} does not follow the one before it: a record was changed or taken out"
        if record_hash(link.record) != link.hash or evidence_id(link.record) != link.key:
            yield f"evidence {link.key} is not what it was when it was written"
        before = link.hash


def _state_of(gate: StoredGate) -> GateState:
    try:
        return msgspec.json.decode(gate.state, type=GateState)
    except msgspec.MsgspecError as error:
        raise StateError(f"the state of gate {gate.id} cannot be read: {error}") from error


def _encoded(state: GateState) -> str:
    return msgspec.json.encode(state).decode()
