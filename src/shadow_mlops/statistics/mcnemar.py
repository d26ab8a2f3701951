"""McNemar's test, watched after every pair: which side wins where exactly one of two models is right."""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, betaln


def log_e_value(wins: int, losses: int) -> float:
    """Log e-value against "the challenger wins at most half of the discordant pairs".

    The bet is a uniform mixture over win probabilities above one half:
    e = 2^(n+1) · B(w+1, l+1) · P[Beta(w+1, l+1) > ½].

    Parameters
    ----------
    wins, losses
        Pairs in which only the challenger, or only the champion, was right; n = w + l.

    Raises
    ------
    ValueError
        If one is negative.

    References
    ----------
    The mixture of Robbins (1970) for a coin, restricted to one side.

    Examples
    --------
    >>> log_e_value(0, 0)
    0.0
    >>> round(np.exp(log_e_value(10, 0)), 2)  # 2^11 / 11 · (1 - 2^-11)
    186.09
    """
    if wins < 0 or losses < 0:
        raise ValueError("wins and losses are counts")
    upper = betainc(losses + 1, wins + 1, 0.5)  # P[Beta(w+1, l+1) > ½], without the cancellation of 1 - …
    with np.errstate(divide="ignore"):
        log_e = (wins + losses + 1) * np.log(2.0) + betaln(wins + 1, losses + 1) + np.log(upper)
    return float(log_e) if wins + losses else 0.0
