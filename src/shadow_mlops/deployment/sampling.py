"""Which predictions challengers see, and which a canary answers: a part of the entities, always the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SAMPLE = b"shadow.sample"
_CANARY = b"shadow.canary"  # drawn independently: who is in the sample says nothing of who gets the new model


def in_sample(
    deployment: str, entities: Sequence[str | None], request_ids: Sequence[str], share: float
) -> NDArray[np.bool_]:
    """Which of n predictions are in the deployment's sample, bool (n,).

    Parameters
    ----------
    request_ids
        Decide where there is no entity.
    share
        0 to 1.

    Examples
    --------
    >>> in_sample("churn", ["CUST-1", None], ["a", "b"], 1.0).tolist()
    [True, True]
    """
    return _drawn(deployment, entities, request_ids, share, _SAMPLE)


def in_canary(
    deployment: str, entities: Sequence[str | None], request_ids: Sequence[str], share: float
) -> NDArray[np.bool_]:
    """Which of n predictions the canary answers, bool (n,); parameters as :func:`in_sample`.

    An entity that is in a share is in every larger one, so it changes sides once at most on the way up.
    """
    return _drawn(deployment, entities, request_ids, share, _CANARY)


def _drawn(
    deployment: str, entities: Sequence[str | None], request_ids: Sequence[str], share: float, person: bytes
) -> NDArray[np.bool_]:
    bound = int(share * 2**64)
    keys = (
        entity if entity is not None else request_id for entity, request_id in zip(entities, request_ids, strict=True)
    )
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(
                    f"{deployment}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8, person=person
                ).digest(),
                "big",
            )
            < bound
            for key in keys
        ],
        dtype=np.bool_,
    )
