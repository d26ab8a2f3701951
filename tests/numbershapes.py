"""Samples of all the shapes that a number can have; each is made by a generator and a size."""

from __future__ import annotations

import numpy as np

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "skewed": lambda rng, n: rng.lognormal(0, 3, n),
    "small counts": lambda rng, n: rng.poisson(5, n).astype(float),
    "boolean": lambda rng, n: (rng.random(n) < 0.3).astype(float),
    "constant": lambda rng, n: np.full(n, float(rng.integers(5))),
    "half zeros": lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.5),
    "rounded": lambda rng, n: rng.normal(size=n).round(2),
    "all magnitudes": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.integers(-300, 300, n),
    "infinities": lambda rng, n: np.where(
        rng.random(n) < 0.1, np.copysign(np.inf, rng.normal(size=n)), rng.normal(size=n)
    ),
    "only infinities": lambda rng, n: np.copysign(np.inf, rng.normal(size=n)),
}
