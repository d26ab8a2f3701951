"""Two samples of the bundled example, the second drifted on request: something to try a drift check on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from numpy.typing import NDArray

from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.example import DRIFT_FEATURES, NAMES, generate

REFERENCE_ROWS = 10_000
CURRENT_ROWS = 5_000
MAGNITUDE = 1.0
_SEEDS = (1, 2)


def draw_samples(
    features: Sequence[str] | None = None, magnitude: float = MAGNITUDE
) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]:
    """Reference and current rows, by column; always the same ones for the same arguments.

    Parameters
    ----------
    features
        Which features drift; None: four of them.
    magnitude
        0 no drift, 1 about one standard deviation, or 40 % of the rows of a category.

    Raises
    ------
    SettingsError
        If a feature is not one of the example's.
    """
    for name in features or ():
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the features are {', '.join(NAMES)}"
            raise SettingsError(f"--drift-features: there is no feature {name!r}; {hint}")
    if magnitude < 0:
        raise SettingsError(f"--drift-magnitude must be at least 0, not {magnitude:g}")
    reference = generate(REFERENCE_ROWS, seed=_SEEDS[0])
    current = generate(
        CURRENT_ROWS, seed=_SEEDS[1], drift=magnitude, drift_features=DRIFT_FEATURES if features is None else features
    )
    return reference.features, current.features
