"""False promotions where nothing is better, watched after every value: ``benchmarks/gate_errors.py``, in part."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from shadow_mlops.statistics.eprocess import log_e_paths

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gate_streams import NULLS, choe_ramdas, choe_ramdas_closed, coin, naive

pytestmark = pytest.mark.slow

PATHS, LENGTH = 2000, 3000
ALPHA = 0.05
ALLOWED = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / PATHS)


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("discordance 0.1", 0.75),
        ("clusters: 2,000 entities, 5 requests each", 0.85),
        ("delays: labels of losses weeks later", 0.85),
        ("batches, busy where behind", 0.9),
    ],
)
def test_nothing_better_is_promoted_in_one_of_twenty_and_what_is_better_is(name: str, power: float) -> None:
    draw, bound, lift = NULLS[name]
    rng = np.random.default_rng(2)

    def promoted(paths: int, better: float) -> float:
        parts = [draw(rng, 250, LENGTH, better) for _ in range(paths // 250)]
        return float(
            np.mean([(log_e_paths(part, bound=bound).max(axis=1) >= -math.log(ALPHA)).mean() for part in parts])
        )

    assert promoted(PATHS, 0.0) <= ALLOWED
    assert promoted(250, lift) >= power


def test_the_naive_test_would_promote_more_than_one_of_five() -> None:
    assert np.isfinite(naive(coin(0.1)(np.random.default_rng(3), PATHS, LENGTH, 0.0))).mean() > 0.2


def test_choe_and_ramdas_by_quadrature_is_their_closed_form() -> None:
    values = coin(0.1)(np.random.default_rng(4), 50, 1000, 0.02)
    for tuned_for in (10.0, 170.0):
        closed = choe_ramdas_closed(values, 1.0, tuned_for=tuned_for)
        known = np.isfinite(closed)
        assert known.mean() > 0.9
        assert choe_ramdas(values, 1.0, tuned_for=tuned_for)[known] == pytest.approx(closed[known], abs=0.01)


def test_the_examples_models_with_roles_by_a_fair_coin_are_not_promoted() -> None:
    from gate_example import run, scored_pool, spec

    pool, rng = scored_pool(8000, 20_000), np.random.default_rng(5)
    gate, runs = spec("log_loss"), 40
    told = [run(pool, gate, rng, boosted=0.5).decision == "promote" for _ in range(runs)]
    assert np.mean(told) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert [run(pool, gate, rng, boosted=0.0).decision for _ in range(3)] == ["promote"] * 3
    assert [run(pool, gate, rng, boosted=1.0).decision for _ in range(3)] == ["reject"] * 3
