"""Quantiles of latencies in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

_RESOLUTION = math.log(1.01)


@dataclass(slots=True)
class Latencies:
    """Quantiles of any number of latencies in a few kilobytes, each within 1 % of the true one."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self.counts[int(math.log(max(seconds * 1e6, 1.0)) / _RESOLUTION)] += 1

    def quantile(self, q: float) -> float | None:
        """Milliseconds below which the fraction ``q`` of all latencies lies; None when there are none."""
        left = math.ceil(q * self.counts.total())
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return math.exp((bucket + 0.5) * _RESOLUTION) / 1e3
        return None
