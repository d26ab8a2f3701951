"""Which predictions challengers see: a part of the entities, always the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PERSON = b"shadow.sample"  # another use of the same entity (a canary) must draw independently of this one


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
    bound = int(share * 2**64)
    keys = (
        entity if entity is not None else request_id for entity, request_id in zip(entities, request_ids, strict=True)
    )
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(
                    f"{deployment}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8, person=_PERSON
                ).digest(),
                "big",
            )
            < bound
            for key in keys
        ],
        dtype=np.bool_,
    )
