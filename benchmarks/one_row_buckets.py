"""Many runs of the live detector at once, for buckets of one row and numeric features without missing values.

With one row in bin k a likelihood ratio is w_j(k)·ΣN/Σ(N·w_j): no Γ is needed, and the sums grow by what was seen. A
unit test holds this against :class:`shadow_mlops.statistics.edetector.EDetector`, which takes 50 times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shadow_mlops.statistics.alternatives import ODDS, normal_ratios

Floats = NDArray[np.float64]
BINS = 10
CHUNK = 256
DAY = 1440


def edges_of(reference: Floats) -> Floats:
    """Borders of quantile bins, float64 (..., 9), of references (..., n): the order statistics n/10, 2n/10, ..."""
    ranks = np.arange(1, BINS) * reference.shape[-1] // BINS - 1
    return np.partition(reference, ranks, axis=-1)[..., ranks]


def pseudo_counts(rows: int) -> Floats:
    """N at the start, float64 (11,): rows per bin, the last + 1, missing ½."""
    return np.array([rows / BINS] * (BINS - 1) + [rows / BINS + 1, 0.5])


@dataclass
class Runs:
    """Detectors that never begin anew: what follows a run's first alarm is not looked at.

    Parameters
    ----------
    edges
        float64 (runs, F, 9).
    rows
        Rows of each reference, a multiple of 10.
    """

    edges: Floats
    rows: int
    ratios: Floats = field(init=False)
    sums: Floats = field(init=False)
    """Σ(N·w_j), float64 (runs, F, 12)."""
    total: float = field(init=False)
    levels: Floats = field(init=False)
    """M_j, float64 (runs, F, 12)."""

    def __post_init__(self) -> None:
        start = pseudo_counts(self.rows)
        moves = normal_ratios(start[:-1] / start[:-1].sum())
        table = np.ones((len(moves) + len(ODDS), BINS + 1))
        table[: len(moves), :-1] = moves
        table[len(moves) :, -1] = ODDS
        self.ratios = np.ascontiguousarray(table.T)
        self.sums = np.broadcast_to(table @ start, (*self.edges.shape[:2], len(table))).copy()
        self.total = float(start.sum())
        self.levels = np.zeros_like(self.sums)

    def step(self, values: Floats) -> None:
        """Take one row (runs, F) each."""
        places = np.zeros(values.shape, dtype=np.uint8)
        for edge in range(BINS - 1):
            places += values > self.edges[..., edge]
        seen = self.ratios[places]
        self.levels += 1
        self.levels *= seen
        self.levels *= self.total / self.sums
        self.sums += seen
        self.total += 1

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Go on with some of the runs."""
        self.edges, self.sums, self.levels = self.edges[which], self.sums[which], self.levels[which]


@dataclass
class Traffic:
    """Standard normal features, their reference, and how live rows differ from independent ones.

    Parameters
    ----------
    shared
        Correlation of any two features.
    autocorrelation
        Of successive rows (AR(1)). The reference has independent rows of the same distribution.
    cycle
        Amplitude of a daily cycle, in standard deviations; the reference has rows of all hours.
    """

    runs: int
    features: int
    rng: np.random.Generator
    shared: float = 0.0
    autocorrelation: float = 0.0
    cycle: float = 0.0
    shift: float = 0.0
    """Of the first feature, after ``change`` rows."""
    change: int = 0
    taken: int = 0
    _last: Floats | None = None

    def edges(self, rows: int) -> Floats:
        """Borders from a reference of each run, some runs at a time."""
        some = max(1, 4_000_000 // (rows * self.features))
        parts = [min(some, self.runs - i) for i in range(0, self.runs, some)]
        return np.concatenate([edges_of(self._reference(part, rows)) for part in parts])

    def _reference(self, runs: int, rows: int) -> Floats:
        values = np.moveaxis(self._normal(rows, runs), 0, -1)
        if self.cycle:
            values += self.cycle * np.sin(2 * np.pi * self.rng.random((runs, 1, rows)))
        return values

    def _normal(self, rows: int, runs: int) -> Floats:
        own = self.rng.standard_normal((rows, runs, self.features))
        if not self.shared:
            return own
        return np.sqrt(1 - self.shared) * own + np.sqrt(self.shared) * self.rng.standard_normal((rows, runs, 1))

    def live(self, rows: int) -> Floats:
        """The next rows, float64 (rows, runs, F)."""
        values = self._normal(rows, self.runs)
        if self.autocorrelation:
            last = self._normal(1, self.runs)[0] if self._last is None else self._last
            a = self.autocorrelation
            values, end = lfilter([np.sqrt(1 - a * a)], [1, -a], values, axis=0, zi=a * last[np.newaxis])
            self._last = end[0] / a
        at = self.taken + np.arange(rows)
        if self.cycle:
            values += self.cycle * np.sin(2 * np.pi * at / DAY)[:, np.newaxis, np.newaxis]
        values[:, :, 0] += np.where(at >= self.change, self.shift, 0.0)[:, np.newaxis]
        self.taken += rows
        return values

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Go on with some of the runs."""
        self.runs = int(which.sum())
        if self._last is not None:
            self._last = self._last[which]


def first_passages(
    traffic: Traffic, rows: int, bars: tuple[float, ...], *, most: int, edges: Floats | None = None
) -> Floats:
    """Bucket in which the deployment level first reaches each bar.

    Parameters
    ----------
    rows
        Of each reference.
    edges
        Borders of the bins, where references were drawn before.

    Returns
    -------
    float64 (runs, bars)
        Counted from 1; inf where it does not within ``most`` buckets.
    """
    detectors = Runs(traffic.edges(rows) if edges is None else edges, rows)
    passed = np.full((traffic.runs, len(bars)), np.inf)
    going = np.arange(traffic.runs)
    while len(going) and traffic.taken < most:
        before = traffic.taken
        values = traffic.live(min(CHUNK, most - before))
        levels = np.empty(values.shape[:2])
        for row, level in zip(values, levels, strict=True):
            detectors.step(row)
            level[:] = detectors.levels.mean(axis=(1, 2))
        for at, bar in enumerate(bars):
            reached = levels >= bar
            first = np.where(reached.any(axis=0), before + reached.argmax(axis=0) + 1, np.inf)
            passed[going, at] = np.minimum(passed[going, at], first)
        on = ~np.isfinite(passed[going]).all(axis=1)
        if not on.all():
            going = going[on]
            detectors.keep(on)
            traffic.keep(on)
    return passed
