"""The quality that the example's models promise, on five seeds of their real size."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[2] / "benchmarks" / "training_quality.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("training_quality", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_quality_on_held_out_rows(benchmark, seed):
    quality = benchmark.measure(seed)
    assert not quality.outside, quality
    assert quality.mcnemar_p < 0.01
    assert quality.champion_accuracy < quality.challenger_accuracy < quality.bayes_accuracy
    assert quality.champion_auc < quality.challenger_auc < quality.bayes_auc


def test_mcnemar_is_the_exact_sign_test(benchmark):
    assert benchmark.mcnemar(5, 5) == 1.0
    assert benchmark.mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert benchmark.mcnemar(9, 1) == benchmark.mcnemar(1, 9)
    assert benchmark.mcnemar(700, 800) == pytest.approx(0.0105, abs=0.001)
