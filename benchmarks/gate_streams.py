"""Streams of loss differences for the gate's benchmark: nulls, and the same where the challenger is better.

A stream of values is a matrix (paths, n). A stream of requests has a time, an entity and a label that comes when it
comes; :func:`once_each` is the product's rule for it in NumPy (``tests/unit/test_gate_naive.py`` compares the two on a
recorded log), and the others are what is done elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaln, roots_jacobi

from shadow_mlops.statistics.losses import log_loss_bound, of_brier, of_log_loss
from shadow_mlops.statistics.ranking import RankedPairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int, int, float], Floats]
"""(rng, paths, n, lift) -> differences (paths, n); lift 0: no difference in the mean."""


def coin(discordance: float) -> Draw:
    """Two classifiers that disagree on a part of the rows."""

    def draw(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
        dice = rng.random((paths, n))
        return np.where(dice < (discordance + lift) / 2, 1.0, np.where(dice < discordance, -1.0, 0.0))

    return draw


def batches(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Batches of 50 whose discordance follows the past: busy where the challenger is behind, quiet where it leads."""
    values, total = np.empty((paths, n)), np.zeros(paths)
    for start in range(0, n, 50):
        size = min(50, n - start)
        behind = (total < 0)[:, None]
        part = np.where(behind, coin(0.4)(rng, paths, size, lift), coin(0.05)(rng, paths, size, lift))
        values[:, start : start + size] = part
        total += part.sum(axis=1)
    return values


def flips(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Regimes of 500 values: many disagreements, then few; the mean stays."""
    busy = (np.arange(n) // 500) % 2 == 0
    return np.where(busy, coin(0.3)(rng, paths, n, lift), coin(0.05)(rng, paths, n, lift))


def seasons(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Regimes of 500 values that favour one side by two points, then the other: equal over a year, not at any time."""
    ours = (np.arange(n) // 500) % 2 == 0
    return np.where(ours, coin(0.1)(rng, paths, n, lift + 0.02), coin(0.1)(rng, paths, n, lift - 0.02))


def ties(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """AUC: pairs of rows by the product's code, scores of one decimal, so that many are tied."""
    values = np.zeros((paths, n))
    for path in values:
        positive = rng.random(2 * n) < 0.5
        first = np.round(0.3 * positive + rng.normal(0, 0.4, 2 * n), 1)
        second = np.round((0.3 + 2 * lift) * positive + rng.normal(0, 0.4, 2 * n), 1)
        found = RankedPairs().update(positive, first, second)[:n]
        path[: len(found)] = found
    return values


def probabilities(rng: np.random.Generator, paths: int, n: int, lift: float) -> tuple[Floats, Floats, Floats]:
    """Two models that each see one half of what matters; where lift is above 0, the second sees some of the other."""
    first, second = rng.normal(size=(paths, n)), rng.normal(size=(paths, n))
    truth = (rng.random((paths, n)) < 1 / (1 + np.exp(-(first + second)))).astype(float)
    seen = second + (0.15 * first if lift else 0.0)
    return 1 / (1 + np.exp(-0.9 * first)), 1 / (1 + np.exp(-0.9 * seen)), truth


def brier(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Brier scores of two models."""
    return of_brier(*probabilities(rng, paths, n, lift)).values


def log_loss(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Clipped log losses of two models."""
    first, second, truth = probabilities(rng, paths, n, lift)
    return of_log_loss(np.where(truth == 1, first, 1 - first), np.where(truth == 1, second, 1 - second)).values


@dataclass(frozen=True, slots=True)
class Requests:
    """Labelled requests, in the order of the log; hours.

    Attributes
    ----------
    asked
        float64 (n,), ascending.
    labelled
        float64 (n,): when the label came; inf: never.
    entities
        int64 (n,).
    values
        float64 (n,): loss(champion) − loss(challenger).
    """

    asked: Floats
    labelled: Floats
    entities: Ints
    values: Floats


def recurring(rng: np.random.Generator, entities: int, each: int, lift: float, hours: float = 240.0) -> Requests:
    """Entities that ask ``each`` times over some days, and mostly fare alike each time."""
    n = entities * each
    asked = np.sort(rng.uniform(0, hours, n))
    who = rng.permutation(np.repeat(np.arange(entities), each))
    own = coin(0.1)(rng, 1, n, lift)[0]
    luck = coin(0.1)(rng, 1, entities, lift)[0][who]
    return Requests(asked, asked + 1.0, who, np.where(rng.random(n) < 0.9, luck, own))


def slow_losses(rng: np.random.Generator, n: int, lift: float, hours: float = 1000.0) -> Requests:
    """One request an entity; labels come within hours, but those that the challenger got wrong alone after weeks.

    (A fraud that it lets pass is charged back a month later; one that it stops is confirmed by the customer today.)
    """
    asked = np.sort(rng.uniform(0, hours, n))
    values = coin(0.1)(rng, 1, n, lift)[0]
    delay = np.where(values < 0, rng.uniform(200, 400, n), rng.exponential(5, n).clip(max=400))
    return Requests(asked, asked + delay, np.arange(n), values)


def arrival_order(stream: Requests) -> Floats:
    """Every label when it comes."""
    came = np.isfinite(stream.labelled)
    return stream.values[came][np.argsort(stream.labelled[came], kind="stable")]


def every_row(stream: Requests, longest: float = 400.0) -> Floats:
    """Closed cohorts, but each request counts."""
    return stream.values[_in_time(stream, longest)]


def every_cohort(stream: Requests, cohort: float = 24.0, longest: float = 400.0) -> Floats:
    """Closed cohorts, each entity's mean once in each."""
    return _means(stream, cohort, longest)[0]


def once_each(stream: Requests, cohort: float = 24.0, longest: float = 400.0) -> Floats:
    """What the gate does: the mean of the first cohort in which an entity has a label in time, and never again."""
    means, entities = _means(stream, cohort, longest)
    return means[np.sort(np.unique(entities, return_index=True)[1])]


def _in_time(stream: Requests, longest: float) -> NDArray[np.bool_]:
    return stream.labelled - stream.asked <= longest


def _means(stream: Requests, cohort: float, longest: float) -> tuple[Floats, Ints]:
    """Mean of each entity in each cohort, by cohort and then by its first request there; and whose it is."""
    kept = _in_time(stream, longest)
    numbers = np.floor(stream.asked[kept] / cohort).astype(np.int64)
    entities, values = stream.entities[kept], stream.values[kept]
    keys = numbers * (stream.entities.max(initial=0) + 1) + entities
    _, firsts, places = np.unique(keys, return_index=True, return_inverse=True)
    means = np.bincount(places, weights=values) / np.bincount(places)
    order = np.argsort(firsts)
    return means[order], entities[firsts[order]]


def as_paths(streams: list[Floats]) -> Floats:
    """Streams of different lengths as one matrix: zeros at the end change no wealth."""
    values = np.zeros((len(streams), max(map(len, streams))))
    for row, stream in zip(values, streams, strict=True):
        row[: len(stream)] = stream
    return values


def through_cohorts(stream: Callable[[np.random.Generator, float], Requests]) -> Draw:
    """Streams of requests as values of the gate."""

    def draw(rng: np.random.Generator, paths: int, _: int, lift: float) -> Floats:
        return as_paths([once_each(stream(rng, lift)) for _ in range(paths)])

    return draw


NULLS: dict[str, tuple[Draw, float, float]] = {
    # name: (draw, bound, lift of its power)
    **{f"discordance {d:g}": (coin(d), 1.0, min(0.02, d / 5)) for d in (0.005, 0.02, 0.1, 0.3, 0.5)},
    "clusters: 2,000 entities, 5 requests each": (
        through_cohorts(lambda rng, lift: recurring(rng, 2000, 5, lift)), 1.0, 0.03,
    ),
    "delays: labels of losses weeks later": (
        through_cohorts(lambda rng, lift: slow_losses(rng, 5000, lift)), 1.0, 0.02,
    ),
    "ties: AUC, scores of one decimal": (ties, 1.0, 0.03),
    "batches, busy where behind": (batches, 1.0, 0.02),
    "regimes that flip, busy and quiet": (flips, 1.0, 0.02),
    "Brier score": (brier, 1.0, 0.02),
    "log loss": (log_loss, log_loss_bound(), 0.02),
}  # fmt: skip


def naive(values: Floats) -> Floats:
    """First value at which the z-test of the mean, looked at after each from the tenth on, is significant at 5 %."""
    n = np.arange(1, values.shape[1] + 1)
    mean = np.cumsum(values, axis=1) / n
    variance = np.cumsum(values**2, axis=1) / n - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        z = mean / np.sqrt(variance / n)
    return first_true((z >= 1.6449) & (n >= 10))


def choe_ramdas(values: Floats, bound: float, *, tuned_for: float, nodes: int = 64) -> Floats:
    """Log e-values of Choe and Ramdas (arXiv 2110.00115), by quadrature: float64 (paths, n).

    exp(λ Σ Dᵢ − ψ(λ) Σ (Dᵢ − D̄ᵢ₋₁)²), ψ(λ) = (−ln(1 − cλ) − cλ) / c², c = 2b, mixed over λ in [0, 1/c) such that 1 − cλ
    has the density of a Gamma(ρ/c², ρ/c²) variable below 1 (the conjugate "gamma-exponential" mixture). Its null is
    wider than the gate's: that the challenger is not better on average so far, be it better at times.

    Parameters
    ----------
    tuned_for
        Intrinsic time (sum of squares) at which it is to be tightest; ρ follows as in the authors' package.
    """
    c = 2 * bound
    alpha = 2 * 0.05  # one-sided: the authors take twice alpha for the tuning
    rho = tuned_for / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    shape = rho / c**2
    points, weights = roots_jacobi(nodes, 0.0, shape - 1)  # the weight has the density's pole, if it has one
    left = (points + 1) / 2  # 1 − cλ
    log_prior = np.log(weights) - shape * left
    log_prior -= np.logaddexp.reduce(log_prior)
    total = np.cumsum(values, axis=1)
    intrinsic = np.cumsum((values - _means_before(total, bound)) ** 2, axis=1)
    log_e = np.full(values.shape, -np.inf)
    for rest, weight in zip(left.tolist(), log_prior.tolist(), strict=True):
        bet, psi = (1 - rest) / c, (-math.log(rest) - (1 - rest)) / c**2
        np.logaddexp(log_e, weight + bet * total - psi * intrinsic, out=log_e)
    return log_e


def choe_ramdas_closed(values: Floats, bound: float, *, tuned_for: float) -> Floats:
    """The same mixture by incomplete gamma functions, NaN where their argument is negative."""
    c = 2 * bound
    alpha = 2 * 0.05
    rho = tuned_for / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    total = np.cumsum(values, axis=1)
    v = np.cumsum((values - _means_before(total, bound)) ** 2, axis=1)
    shape, more, both = rho / c**2, (v + rho) / c**2, (c * total + v + rho) / c**2
    both = np.where(both > 0, both, np.nan)
    log_e = shape * np.log(shape) - gammaln(shape) - np.log(gammainc(shape, shape))
    return log_e + gammaln(more) + np.log(gammainc(more, both)) - more * np.log(both) + (c * total + v) / c**2


def _means_before(total: Floats, bound: float) -> Floats:
    n = np.arange(total.shape[1])
    before = np.concatenate([np.zeros((len(total), 1)), total[:, :-1]], axis=1) / np.maximum(n, 1)
    return np.clip(before, -bound, bound)


def first_true(crossed: NDArray[np.bool_]) -> Floats:
    """Number of the first true value of each path, inf where none."""
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)
