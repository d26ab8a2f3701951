"""Gates as they stand, and the chain of evidence: a cohort is taken in by one transaction, with all that follows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select, update

from shadow_mlops.domain.errors import ConflictError, StateError
from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import EVIDENCE, GATE_SPENT, GATES

Purpose: TypeAlias = Literal["metric", "service"]
CHAIN_START = "0" * 64
"""What the first record of evidence names as the one before it."""


class StoredGate(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``shadow_gates``."""

    id: int
    model: str
    name: str
    champion: str
    challenger: str
    spec_hash: str
    challengers: int
    first_cohort: int
    next_cohort: int
    state: str
    decision: str
    evidence: str | None


class StoredEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """A link of the chain."""

    id: int
    key: str
    hash: str
    previous: str
    record: bytes


def find(engine: Engine, *, model: str, name: str, champion: str, challenger: str) -> tuple[StoredGate, ...]:
    """Gates between two versions, whatever their specs, the newest first."""
    wanted = (
        select(GATES)
        .where(
            GATES.c.model == model,
            GATES.c.name == name,
            GATES.c.champion == champion,
            GATES.c.challenger == challenger,
        )
        .order_by(GATES.c.id.desc())
    )
    with transaction(engine) as connection:
        return tuple(StoredGate(**row) for row in connection.execute(wanted).mappings())


def begin(
    engine: Engine,
    *,
    model: str,
    name: str,
    champion: str,
    challenger: str,
    spec_hash: str,
    challengers: int,
    first_cohort: int,
    state: str,
) -> StoredGate:
    """Open a gate; one that is there already is given as it is."""
    values: dict[str, Any] = {
        "model": model,
        "name": name,
        "champion": champion,
        "challenger": challenger,
        "spec_hash": spec_hash,
        "challengers": challengers,
        "first_cohort": first_cohort,
        "next_cohort": first_cohort,
        "state": state,
        "decision": "keep_watching",
    }
    key = ("model", "name", "champion", "challenger", "spec_hash")
    with transaction(engine) as connection:
        there = select(GATES).where(*(GATES.c[column] == values[column] for column in key))
        row = connection.execute(there).mappings().first()
        if row is None:
            connection.execute(insert(GATES).values(values))
            row = connection.execute(there).mappings().one()
        return StoredGate(**row)


def spent(engine: Engine, gate: int, purpose: Purpose) -> set[bytes]:
    """Entities that have given their value to a gate."""
    wanted = select(GATE_SPENT.c.entity).where(GATE_SPENT.c.gate == gate, GATE_SPENT.c.purpose == purpose)
    with transaction(engine) as connection:
        return {bytes(entity) for entity in connection.execute(wanted).scalars()}


def advance(
    engine: Engine,
    gate: StoredGate,
    *,
    next_cohort: int,
    state: str,
    decision: str,
    newly_spent: dict[Purpose, Iterable[bytes]],
    evidence: Callable[[str], bytes] | None = None,
) -> StoredGate:
    """Take a cohort in: state, spent entities and, with a decision, its evidence; all of it or nothing.

    Parameters
    ----------
    evidence
        Makes the record from the hash of the one before it; None: nothing was decided.

    Raises
    ------
    ConflictError
        If somebody else has advanced the gate meanwhile.
    StateError
        If the database does not answer; nothing has happened then.
    """
    with transaction(engine) as connection:
        key = None if evidence is None else _link(connection, evidence)
        moved = connection.execute(
            update(GATES)
            .where(GATES.c.id == gate.id, GATES.c.next_cohort == gate.next_cohort)
            .values(next_cohort=next_cohort, state=state, decision=decision, evidence=key)
        )
        if moved.rowcount != 1:
            raise ConflictError(f"gate {gate.id} was advanced by another monitor meanwhile")
        rows = [
            {"gate": gate.id, "purpose": purpose, "entity": entity}
            for purpose, entities in newly_spent.items()
            for entity in entities
        ]
        if rows:
            connection.execute(insert(GATE_SPENT), rows)
        row = connection.execute(select(GATES).where(GATES.c.id == gate.id)).mappings().one()
        return StoredGate(**row)


def chain(engine: Engine) -> tuple[StoredEvidence, ...]:
    """All evidence, the oldest first."""
    with transaction(engine) as connection:
        return tuple(_stored(row) for row in connection.execute(select(EVIDENCE).order_by(EVIDENCE.c.id)).mappings())


def evidence_of(engine: Engine, key: str) -> StoredEvidence:
    """One record.

    Raises
    ------
    StateError
        If there is none of that id.
    """
    with transaction(engine) as connection:
        row = connection.execute(select(EVIDENCE).where(EVIDENCE.c.key == key)).mappings().first()
    if row is None:
        raise StateError(f"there is no evidence {key!r}: shadow gate status shows the ids")
    return _stored(row)


def _link(connection: Connection, evidence: Callable[[str], bytes]) -> str:
    newest = select(EVIDENCE.c.hash).where(EVIDENCE.c.id == select(func.max(EVIDENCE.c.id)).scalar_subquery())
    previous = connection.execute(newest).scalar_one_or_none() or CHAIN_START
    record = evidence(previous)
    digest = hashlib.sha256(record).hexdigest()
    connection.execute(insert(EVIDENCE).values(key=digest[:16], hash=digest, previous=previous, record=record))
    return digest[:16]


def _stored(row: Any) -> StoredEvidence:
    return StoredEvidence(**{**row, "record": bytes(row["record"])})
