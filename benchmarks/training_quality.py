"""How good the two example models are on held-out rows, over seeds, and whether their gap is chance.

    python benchmarks/training_quality.py [--seeds 5] [--write]

``--write`` puts the table into benchmarks/results/training_quality.json, with seeds and commit.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from shadow_mlops.example import ENTITY, TARGET, generate
from shadow_mlops.training import fit, prepare, split
from shadow_mlops.training.fitting import scores

ROWS, HELD_OUT = 40_000, 10_000
BANDS = {
    "champion_accuracy": (0.892, 0.905),
    "champion_auc": (0.923, 0.935),
    "challenger_accuracy": (0.908, 0.925),
    "challenger_auc": (0.941, 0.955),
}
RESULTS = Path(__file__).parent / "results" / "training_quality.json"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One seed: data, split and models of its own."""

    seed: int
    churn_rate: float
    champion_accuracy: float
    champion_auc: float
    challenger_accuracy: float
    challenger_auc: float
    bayes_accuracy: float
    """Expected accuracy of the best decision, over the held-out customers."""
    bayes_auc: float
    """AUC of the true probability."""
    champion_only: int
    """Held-out rows that only the champion has right."""
    challenger_only: int
    mcnemar_p: float

    @property
    def outside(self) -> list[str]:
        """Figures that are outside their band."""
        return [name for name, (low, high) in BANDS.items() if not low <= getattr(self, name) <= high]


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value: under the null each discordant row is a fair coin."""
    n, k = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, float(2 * tail / 2**n) if n < 1000 else math.exp(math.log(2) + math.log(tail) - n * math.log(2)))


def measure(seed: int) -> Quality:
    """Generate, train and measure with one seed."""
    customers = generate(ROWS, seed=seed)
    data = prepare(pa.table(customers.columns()), target=TARGET, entity=ENTITY)
    rows = split(data, seed=seed, held_out=HELD_OUT)
    truth = data.target_values[rows.held_out]
    chance = customers.probability[rows.held_out]
    right, metrics = {}, {}
    for role, kind in (("champion", "linear"), ("challenger", "boosting")):
        model = fit(rows, kind=kind, seed=seed)
        predicted = scores(model.estimator, rows.held_out_frame, data.task)[:, 1]
        right[role] = (predicted >= 0.5) == truth
        metrics |= {f"{role}_accuracy": model.metrics["accuracy"], f"{role}_auc": model.metrics["auc"]}
    champion_only = int((right["champion"] & ~right["challenger"]).sum())
    challenger_only = int((right["challenger"] & ~right["champion"]).sum())
    return Quality(
        seed=seed,
        churn_rate=float(truth.mean()),
        bayes_accuracy=float(np.maximum(chance, 1 - chance).mean()),
        bayes_auc=float(roc_auc_score(truth, chance)),
        champion_only=champion_only,
        challenger_only=challenger_only,
        mcnemar_p=mcnemar(champion_only, challenger_only),
        **metrics,
    )


def commit() -> str:
    """Commit of the working tree, with ``+`` if it has changes."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    return head + ("+" if dirty.stdout else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    print("seed  churn   champion acc/auc   challenger acc/auc  Bayes acc/auc    only one right  McNemar p")
    found = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        q = measure(seed)
        found.append(q)
        print(
            f"{q.seed:4d}  {q.churn_rate:.3f}   {q.champion_accuracy:.4f}  {q.champion_auc:.4f}"
            f"    {q.challenger_accuracy:.4f}  {q.challenger_auc:.4f}"
            f"     {q.bayes_accuracy:.4f}  {q.bayes_auc:.4f}"
            f"   {q.champion_only:4d} / {q.challenger_only:4d}     {q.mcnemar_p:.1e}"
            + (f"   outside: {', '.join(q.outside)}" if q.outside else ""),
            flush=True,
        )
    for name, (low, high) in BANDS.items():
        values = [getattr(q, name) for q in found]
        spread = f"mean {np.mean(values):.4f}, {min(values):.4f} to {max(values):.4f}"
        inside = sum(low <= value <= high for value in values)
        print(f"{name:20s} band {low} to {high}: {spread}; {inside} of {len(values)} inside")
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        body = {
            "commit": commit(),
            "rows": ROWS,
            "held_out": HELD_OUT,
            "bands": BANDS,
            "seeds": [asdict(q) for q in found],
        }
        RESULTS.write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
