"""What a prediction cost: differences of losses, bounded, positive where the challenger did better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Loss: TypeAlias = Literal["accuracy", "brier", "log_loss", "auc", "squared_error", "absolute_error"]
PROBABILITY_FLOOR = 0.01
"""ε of the gate's log loss: probabilities are clipped to [ε, 1 − ε], so that one row cannot decide."""
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Differences:
    """loss(champion) − loss(challenger).

    Attributes
    ----------
    values
        float64 (n,).
    bound
        No value is larger in absolute value, whatever the data.
    """

    values: Floats
    bound: float


def log_loss_bound() -> float:
    """ln((1 − ε) / ε), rounded up in the ninth decimal as the losses are."""
    return math.ceil(math.log((1 - PROBABILITY_FLOOR) / PROBABILITY_FLOOR) * 2.0**30) / 2.0**30


def bound_of(loss: Loss, *, classes: int = 2, declared: float | None = None) -> float:
    """Largest absolute difference that a loss can have.

    Parameters
    ----------
    classes
        2, or more where the Brier score sums over classes (its values then go to 2).
    declared
        b of an unbounded loss.

    Raises
    ------
    ValueError
        If the loss is unbounded and no bound is declared.
    """
    if loss == "log_loss":
        return log_loss_bound()
    if loss == "brier":
        return 1.0 if classes == 2 else 2.0
    if loss in {"squared_error", "absolute_error"}:
        if declared is None or not (math.isfinite(declared) and declared > 0):
            raise ValueError(f"{loss} has no bound of its own: declare one, a positive number")
        return declared
    return 1.0


def of_decisions(champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_]) -> Differences:
    """Accuracy: 1 where only the challenger was right, −1 where only the champion was."""
    return Differences(challenger_right.astype(np.float64) - champion_right.astype(np.float64), 1.0)


def of_log_loss(champion: Floats, challenger: Floats) -> Differences:
    """Log loss of the probabilities that each gave to what came true, clipped to [ε, 1 − ε], to the ninth decimal.

    Processors differ in a logarithm's last bit; evidence must not.
    """
    return Differences(_rounded_log(challenger) - _rounded_log(champion), log_loss_bound())


def _rounded_log(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
    return np.asarray(np.rint(logs * 2.0**30) / 2.0**30, dtype=np.float64)


def of_brier(champion: Floats, challenger: Floats, target: Floats) -> Differences:
    """Brier score, binary: (p − y)² of the positive class."""
    return Differences((champion - target) ** 2 - (challenger - target) ** 2, 1.0)


def of_multiclass_brier(
    champion: Floats, champion_outcome: Floats, challenger: Floats, challenger_outcome: Floats
) -> Differences:
    """Brier score over k classes: Σₖ (pₖ − 1{k came true})² = Σₖ pₖ² − 2 p_outcome + 1.

    Parameters
    ----------
    champion, challenger
        float64 (n, k): probabilities.
    champion_outcome, challenger_outcome
        float64 (n,): of them, those of the class that came true.
    """
    ours = (champion * champion).sum(axis=1) - 2 * champion_outcome
    theirs = (challenger * challenger).sum(axis=1) - 2 * challenger_outcome
    return Differences(np.clip(ours - theirs, -2.0, 2.0), 2.0)


def of_errors(
    champion: Floats, challenger: Floats, target: Floats, *, bound: float, squared: bool = True
) -> Differences:
    """Squared or absolute error of values, each loss clipped at the declared bound."""
    with np.errstate(over="ignore"):  # an absurd target costs both the bound
        ours, theirs = np.abs(champion - target), np.abs(challenger - target)
        if squared:
            ours, theirs = ours * ours, theirs * theirs
    return Differences(np.minimum(ours, bound) - np.minimum(theirs, bound), bound)
