"""Customers of the bundled generator who come back, drift from a row on, and churn anew each time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count

import msgspec
import numpy as np

from shadow_mlops.cli.trafficrows import Row
from shadow_mlops.example.generator import Customers, generate

_CHUNK = 1000  # drawing and encoding them takes some 10 ms


def returning_rows(
    *,
    customers: int,
    seed: int,
    drift_at: int,
    drift: float,
    concept_drift: float,
    without: Collection[str] = (),
) -> Iterator[Row]:
    """Rows without end: the customers one after the other, again and again.

    A label is drawn anew each time that its customer comes, so that no model can learn it by heart.

    Parameters
    ----------
    customers
        How many there are.
    seed
        The same seed gives the same customers, and the same labels.
    drift_at
        Rows after which customers have drifted by ``drift`` and churn for other reasons, as far as ``concept_drift``
        says; both as :func:`shadow_mlops.example.generate` takes them.
    without
        Features that a request leaves to the feature store.
    """
    before = generate(customers, seed=seed)
    after = generate(customers, seed=seed, drift=drift, concept_drift=concept_drift)
    encode = msgspec.json.Encoder().encode
    bodies = [_bodies(before, without), _bodies(after, without)]
    chance = np.stack([before.probability, after.probability])
    for start in count(0, _CHUNK):
        numbers = np.arange(start, start + _CHUNK)
        drifted = (numbers >= drift_at).astype(np.intp)
        draws = np.random.default_rng([seed, start]).random(_CHUNK)
        labels = draws < chance[drifted, numbers % customers]
        for number, side, label in zip(numbers.tolist(), drifted.tolist(), labels.tolist(), strict=True):
            yield Row(encode(bodies[side][number % customers]), int(label))


def _bodies(drawn: Customers, without: Collection[str]) -> list[dict[str, str | int | float | None]]:
    return [{name: value for name, value in body.items() if name not in without} for body in drawn.requests()]
