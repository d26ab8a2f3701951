"""What a decision rests on, as bytes that anybody with the lake can make again.

A record names the versions, the spec with its hash, every cohort with the position at which it closed and the digest of
its rows, and the state of each process to the last bit. It has no clock in it. Each record names the hash of the one
before, so none can be changed or taken out without all later ones telling.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from shadow_mlops.comparison.cohorts import Matchup
from shadow_mlops.rollout.decision import Decision
from shadow_mlops.rollout.folding import GateState
from shadow_mlops.rollout.spec import GateSpec, canonical

FORMAT = 1


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One record."""

    format: int = FORMAT
    previous: str
    """SHA-256 of the record before it."""
    model: str
    challenger_name: str
    champion: str
    challenger: str
    challengers: int
    """M: alpha was shared by so many."""
    spec_hash: str
    spec: GateSpec
    first_cohort: int
    decision: Decision
    state: GateState


def encode_evidence(evidence: Evidence) -> bytes:
    """The record's canonical bytes."""
    return canonical(evidence)


def decode_evidence(record: bytes) -> Evidence:
    """The inverse of :func:`encode_evidence`."""
    return msgspec.json.decode(record, type=Evidence)


def record_hash(record: bytes) -> str:
    """SHA-256 of a record, hexadecimal: what the next one names, and the beginning of its id."""
    return hashlib.sha256(record).hexdigest()


def evidence_id(record: bytes) -> str:
    """Id of a record: the first 16 digits of its hash."""
    return record_hash(record)[:16]


def matchup_of(spec: GateSpec, champion: str, challenger: str, name: str) -> Matchup:
    """What the cohorts of a gate are cut by.

    Parameters
    ----------
    name
        Of the challenger.
    """
    return Matchup(
        name=name,
        champion=champion,
        challenger=challenger,
        cohort_us=spec.cohort_us,
        delay_us=spec.delay_us,
        final_labels=spec.final_labels,
    )


def differences_between(ours: bytes, theirs: bytes) -> list[str]:
    """Paths at which two records differ, in words for a person; empty if they are the same bytes."""
    return _apart(msgspec.json.decode(ours), msgspec.json.decode(theirs), "") if ours != theirs else []


def _apart(one: Any, other: Any, path: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted(one.keys() | other.keys())
            for line in _apart(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in _apart(*pair, f"{path}[{i}]")]
    return [] if one == other else [f"{path}: recorded {_short(one)}, recomputed {_short(other)}"]


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
