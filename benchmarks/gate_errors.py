"""How often the gate's process promotes what is no better, and how soon what is: watched after every value.

    python benchmarks/gate_errors.py [--paths 2000] [--length 5000] [--write]

Nulls: discordance from 0.005 to 0.5, clusters (an entity's requests share their luck, one value per entity), ties,
labels that come late, batches, regimes that flip in turn, unequal losses of equal mean. Each is watched after every
value; beside its rate of false promotions stands the power of the same process where the challenger is better by two
points (by a fifth of the discordance where that is less). The last rows are what must fail: the naive z-test, looked at
after every value. Then power and delay, with and without guardrails; harm in one segment of fifty; and Choe and Ramdas'
process (arXiv 2110.00115, empirical Bernstein with a gamma-exponential mixture, by quadrature) on the same values.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import report
from shadow_mlops.statistics.discoveries import e_benjamini_hochberg
from shadow_mlops.statistics.eprocess import log_e_paths
from shadow_mlops.statistics.losses import of_brier, of_log_loss

ALPHA = 0.05
BAR = math.log(1 / ALPHA)
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int, float], Floats]
"""(rng, paths, n, lift) -> differences (paths, n); lift 0: no difference in the mean."""


def coin(discordance: float) -> Draw:
    """Two classifiers that disagree on a part of the rows."""

    def draw(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
        dice = rng.random((paths, n))
        return np.where(dice < (discordance + lift) / 2, 1.0, np.where(dice < discordance, -1.0, 0.0))

    return draw


def clusters(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Twenty requests of an entity share its luck; its value is their mean, once."""
    luck = coin(0.2)(rng, paths, n, lift / 0.7)
    own = np.stack([coin(0.1)(rng, paths, n, 0.0) for _ in range(20)]).mean(axis=0)
    return 0.7 * luck + 0.3 * own


def late(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Labels that come later for one outcome than the other; cohorts close in order, so that order does not tell."""
    values = coin(0.1)(rng, paths, n, lift)
    cohort = 100
    folded = values[:, : n // cohort * cohort].reshape(paths, -1, cohort)
    return rng.permuted(folded, axis=2).reshape(paths, -1)


def flips(rng: np.random.Generator, paths: int, n: int, lift: float) -> Floats:
    """Regimes of 500 values: many disagreements, then few; the mean stays."""
    busy = (np.arange(n) // 500) % 2 == 0
    return np.where(busy, coin(0.3)(rng, paths, n, lift), coin(0.05)(rng, paths, n, min(lift, 0.03)))


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


NULLS: dict[str, tuple[Draw, float, float]] = {
    # name: (draw, bound, lift of its power)
    **{f"discordance {d:g}": (coin(d), 1.0, min(0.02, d / 5)) for d in (0.005, 0.02, 0.1, 0.3, 0.5)},
    "clusters of 20": (clusters, 1.0, 0.02),
    "late labels, cohorts": (late, 1.0, 0.02),
    "regimes that flip": (flips, 1.0, 0.02),
    "Brier": (brier, 1.0, 0.02),
    "log loss": (log_loss, math.log(99), 0.02),
}


def crossings(values: Floats, bound: float, alpha: float = ALPHA, margin: float = 0.0) -> Floats:
    """First value at which each path crosses, inf where none."""
    crossed = log_e_paths(values, bound=bound, margin=margin) >= math.log(1 / alpha)
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)


def naive(values: Floats) -> Floats:
    """The z-test of the mean, looked at after every value from the tenth on."""
    n = np.arange(1, values.shape[1] + 1)
    mean = np.cumsum(values, axis=1) / n
    variance = np.cumsum(values**2, axis=1) / n - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        z = mean / np.sqrt(variance / n)
    crossed = (z >= 1.6449) & (n >= 10)
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)


def choe_ramdas(values: Floats, bound: float) -> Floats:
    """Empirical-Bernstein e-process with a gamma prior on the bet, by quadrature; c = 2b."""
    c = 2 * bound
    bets, weights = np.polynomial.legendre.leggauss(64)
    bets, weights = (bets + 1) / 2 / c * 0.999, weights / 2
    total = np.cumsum(values, axis=1)
    n = np.arange(values.shape[1])
    before = np.concatenate([np.zeros((len(values), 1)), total[:, :-1]], axis=1) / np.maximum(n, 1)
    intrinsic = np.cumsum((values - np.clip(before, -bound, bound)) ** 2, axis=1)
    rate = 0.05 * len(total[0]) * 0.1  # tuned for variance 0.1 at a twentieth of the length
    prior = np.exp(-rate * (-np.log1p(-c * bets) - c * bets) / c**2)
    prior /= (prior * weights).sum()
    log_e = np.full(values.shape, -np.inf)
    for bet, weight in zip(bets, prior * weights, strict=True):
        psi = (-math.log1p(-c * bet) - c * bet) / c**2
        log_e = np.logaddexp(log_e, math.log(weight) + bet * total - psi * intrinsic)
    crossed = log_e >= BAR
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)


def in_parts(draw: Draw, paths: int, n: int, *, lift: float, seed: int, judge: Callable[[Floats], Floats]) -> Floats:
    """Crossing times of many paths, 250 at a time."""
    rng = np.random.default_rng(seed)
    return np.concatenate([judge(draw(rng, min(250, paths - i), n, lift)) for i in range(0, paths, 250)])


def type_one(paths: int, n: int, seed: int) -> tuple[list[list[str]], dict[str, object]]:
    rows, figures = [], {}
    allowed = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / paths)
    for name, (draw, bound, lift) in NULLS.items():
        false = in_parts(draw, paths, n, lift=0.0, seed=seed, judge=lambda v, b=bound: crossings(v, b))
        power = in_parts(
            draw, max(paths // 4, 250), n, lift=lift, seed=seed + 1, judge=lambda v, b=bound: crossings(v, b)
        )
        rate = float(np.isfinite(false).mean())
        figures[name] = {"false": rate, "power": float(np.isfinite(power).mean()), "lift": lift, "allowed": allowed}
        rows.append([name, f"{rate:.4f}", "within" if rate <= allowed else "ABOVE", f"{np.isfinite(power).mean():.3f}"])
    worst = in_parts(coin(0.1), paths, n, lift=0.0, seed=seed, judge=naive)
    figures["naive z-test"] = {"false": float(np.isfinite(worst).mean())}
    rows.append(["naive z-test, discordance 0.1", f"{np.isfinite(worst).mean():.4f}", "(must exceed 0.2)", ""])
    theirs = in_parts(coin(0.1), paths, n, lift=0.0, seed=seed, judge=lambda v: choe_ramdas(v, 1.0))
    power = in_parts(coin(0.1), max(paths // 4, 250), n, lift=0.02, seed=seed + 1, judge=lambda v: choe_ramdas(v, 1.0))
    figures["Choe-Ramdas"] = {"false": float(np.isfinite(theirs).mean()), "power": float(np.isfinite(power).mean())}
    rate = float(np.isfinite(theirs).mean())
    rows.append(["Choe-Ramdas, discordance 0.1", f"{rate:.4f}", "", f"{np.isfinite(power).mean():.3f}"])
    return rows, figures


def power(paths: int, n: int, seed: int) -> tuple[list[list[str]], dict[str, object]]:
    rows, figures = [], {}
    for lift in (0.02, 0.04):
        primary = in_parts(coin(0.1), paths, n, lift=lift, seed=seed, judge=lambda v: crossings(v, 1.0))
        errors = in_parts(
            coin(0.01), paths, n, lift=0.0, seed=seed + 1, judge=lambda v: crossings(v, 1.0, margin=0.005)
        )
        slow = in_parts(coin(0.02), paths, n, lift=0.0, seed=seed + 2, judge=lambda v: crossings(v, 1.0, margin=0.01))
        for name, times in (
            ("alone", primary),
            ("guardrails: errors +0.5 point, slow +1 point", np.maximum(primary, np.maximum(errors, slow))),
        ):
            key = f"+{lift:.0%} at 10 %, {name}"
            figures[key] = {"power": float(np.isfinite(times).mean()), "median": float(np.median(times))}
            rows.append([key, f"{np.isfinite(times).mean():.3f}", f"{np.median(times):,.0f}"])
    return rows, figures


def segments(runs: int, seed: int) -> tuple[list[list[str]], dict[str, object]]:
    """Harm of 10 points in a 2 % segment among 50, false discovery rate by e-values at 10 %."""
    rng = np.random.default_rng(seed)
    rows, figures = [], {}
    for pairs in (20_000, 50_000):
        each = pairs // 50
        found, false = [], []
        for _ in range(runs):
            values = coin(0.1)(rng, 50, each, 0.0)
            values[7] = coin(0.2)(rng, 1, each, -0.1)[0]
            rejected = e_benjamini_hochberg(log_e_paths(-values, bound=1.0)[:, -1], 0.1)
            found.append(bool(rejected[7]))
            false.append((rejected.sum() - rejected[7]) / max(int(rejected.sum()), 1))
        figures[f"{pairs} pairs"] = {"found": float(np.mean(found)), "false discovery": float(np.mean(false))}
        rows.append([f"{pairs:,} pairs", f"{np.mean(found):.3f}", f"{np.mean(false):.4f}"])
    return rows, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=2000)
    parser.add_argument("--length", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows, errors = type_one(options.paths, options.length, options.seed)
    report.table(
        f"false promotions in {options.length:,} values, looked at after each; alpha {ALPHA}, {options.paths:,} paths",
        ("null", "rate", "", "power"),
        rows,
    )
    rows, powers = power(options.paths, options.length, options.seed)
    report.table(f"power within {options.length:,} pairs", ("", "power", "median pairs, over all paths"), rows)
    rows, harmed = segments(max(options.paths // 5, 100), options.seed)
    report.table("harm of 10 points in one segment of 50", ("", "found", "false discovery rate"), rows)
    if options.write:
        settings = {"paths": options.paths, "length": options.length}
        figures = {"type I": errors, "power": powers, "segments": harmed}
        print(f"wrote {report.write('gate_errors', options.seed, {**settings, 'figures': figures})}")


if __name__ == "__main__":
    main()
