"""Many hypotheses at once, each with an e-value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def e_benjamini_hochberg(log_e_values: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Which of m hypotheses are rejected with a false discovery rate of ``level`` at most, whatever their dependence.

    The k largest, with the greatest k for which the k-th largest e-value is at least m / (k · level).

    Parameters
    ----------
    log_e_values
        float64 (m,): logarithms.

    Returns
    -------
    bool (m,)

    References
    ----------
    Wang and Ramdas, "False discovery rate control with e-values", JRSS B 84 (2022).

    Examples
    --------
    >>> e_benjamini_hochberg(np.log([1.0, 100.0, 25.0]), 0.1).tolist()
    [False, True, True]
    """
    count = len(log_e_values)
    if not count:
        return np.zeros(0, dtype=np.bool_)
    order = np.argsort(-log_e_values, kind="stable")
    needed = np.log(count / (np.arange(1, count + 1) * level))
    passing = np.flatnonzero(log_e_values[order] >= needed)
    rejected = np.zeros(count, dtype=np.bool_)
    if passing.size:
        rejected[order[: passing[-1] + 1]] = True
    return rejected
