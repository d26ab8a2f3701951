"""The area under the ROC curve one comparison at a time: disjoint pairs of a positive and a negative row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Waiting: TypeAlias = tuple[bool, float, float]
"""A row without a partner yet: its class, the champion's score, the challenger's score."""
MOST_WAITING = 256


class RankedPairs:
    """Makes of labelled rows, in their order, one value for each (positive, negative) pair.

    A row meets the longest-waiting row of the other class. Its value is 1{the challenger orders the two right} −
    1{the champion does}, a tie counting one half; its mean is the difference of the two areas. No row is in two pairs,
    so the values are independent where rows are. Of the more frequent class some 256 rows wait at the most; what comes
    beyond is passed over, whatever its scores.

    Parameters
    ----------
    waiting
        As :attr:`waiting` gave it, to go on.

    Examples
    --------
    >>> pairs = RankedPairs()
    >>> pairs.update(np.array([True, False]), np.array([0.2, 0.4]), np.array([0.9, 0.1])).tolist()
    [1.0]
    """

    __slots__ = ("_waiting", "passed_over")

    def __init__(self, waiting: Sequence[Waiting] = (), passed_over: int = 0) -> None:
        self._waiting: list[Waiting] = [(bool(p), float(a), float(b)) for p, a, b in waiting]
        self.passed_over = passed_over
        """Rows that found no partner and no room."""

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """Rows without a partner, all of one class, the oldest first."""
        return tuple(self._waiting)

    def update(
        self, positive: NDArray[np.bool_], champion: NDArray[np.float64], challenger: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Take n more rows; values in [−1, 1] of the pairs that they complete, in the order of their completion."""
        values = []
        for row in zip(positive.tolist(), champion.tolist(), challenger.tolist(), strict=True):
            if not self._waiting or self._waiting[0][0] == row[0]:
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(row)
                else:
                    self.passed_over += 1
                continue
            other = self._waiting.pop(0)
            above, below = (row, other) if row[0] else (other, row)
            values.append(_order(above[2], below[2]) - _order(above[1], below[1]))
        return np.array(values, dtype=np.float64)


def _order(positive: float, negative: float) -> float:
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0
