"""The example's two models through the real gate: roles by a fair coin for each customer, and as they are.

    python benchmarks/gate_example.py [--runs 200] [--write]

The models are trained once, as ``shadow up`` trains them. A run draws 5,000 customers, who ask once to three times over
24 cohorts; each has a side of his own, tossed: heads, the champion's answer comes from the linear model, tails, from
the boosted trees, and the challenger's from the other. Neither side is better, so every promotion is false. Closed
cohorts go through ``rollout.folding.fold`` and ``rollout.decision.decide``, as in the monitor, until all is decided.
Beside it runs without the coin: the better model as challenger, and the worse.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import report
from shadow_mlops.comparison.cohorts import Cohort
from shadow_mlops.deployment.reader import parse_deployment
from shadow_mlops.domain.events import EventSchema
from shadow_mlops.example import ENTITY, TARGET, generate
from shadow_mlops.rollout.decision import Decision, decide
from shadow_mlops.rollout.folding import fold, opened
from shadow_mlops.rollout.spec import GateSpec, spec_of
from shadow_mlops.training import fit, prepare, split
from shadow_mlops.training.fitting import frame, scores

SEED, ROWS, HELD_OUT = 1, 40_000, 10_000  # as cli/train.py has them
POOL = 250_000
CUSTOMERS, COHORTS = 5000, 24
METRICS = ("log_loss", "accuracy", "brier", "auc")
SCHEMA = EventSchema(
    deployment="churn", task="binary", model="churn", version="2.1.0", registry_version="1", numbers=(), strings=(),
    outputs=("0", "1"), positive="1",
)  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Customers whom neither model has seen, with what both make of them: float64 (n,), and whether they left."""

    linear: Floats
    boosting: Floats
    left: NDArray[np.bool_]


def scored_pool(rows: int, customers: int) -> Pool:
    """Train both models on as many rows, and score customers in bulk."""
    data = prepare(pa.table(generate(rows, seed=SEED).columns()), target=TARGET, entity=ENTITY)
    known = split(data, seed=SEED, held_out=HELD_OUT if rows >= 2 * HELD_OUT else 0.25)
    drawn = pa.table(generate(customers, seed=SEED + 1000).columns())
    features = frame(drawn.drop_columns([ENTITY, TARGET]), data.signature)
    linear, boosting = (
        scores(fit(known, kind=kind, seed=SEED).estimator, features, data.task)[:, 1] for kind in ("linear", "boosting")
    )
    return Pool(linear, boosting, drawn[TARGET].to_numpy() == 1)


def spec(metric: str) -> GateSpec:
    """The gate of the example's file, on a metric."""
    found = spec_of(parse_deployment(f"name: churn\ngate: {{metric: {metric}}}\n"))
    if found is None:
        raise ValueError(metric)
    return found


def cohorts(pool: Pool, rng: np.random.Generator, *, boosted: float) -> Iterator[Cohort]:
    """Closed cohorts of one run.

    Parameters
    ----------
    boosted
        Chance that a customer's champion is the boosted trees.
    """
    who = rng.choice(len(pool.left), CUSTOMERS, replace=False)
    sides = rng.random(CUSTOMERS) < boosted
    asked = np.concatenate([np.arange(CUSTOMERS)[rng.random(CUSTOMERS) < share] for share in (1.0, 0.4, 0.1)])
    numbers = rng.integers(0, COHORTS, len(asked))
    for number in range(COHORTS):
        rows = rng.permutation(asked[numbers == number])
        yield _cohort(number, rows, *_sides(pool, who[rows], sides[rows]), pool.left[who[rows]])


def run(pool: Pool, gate: GateSpec, rng: np.random.Generator, *, boosted: float) -> Decision:
    """One gate, until it is decided or the customers are used up."""
    state = opened(gate, 0)
    spent: set[bytes] = set()
    decision = decide(state, gate, challengers=1)
    for cohort in cohorts(pool, rng, boosted=boosted):
        folded = fold(state, cohort, gate, schemas={"s": SCHEMA}, spent=spent, served=set())
        state = folded.state
        spent.update(folded.spent)
        decision = decide(state, gate, challengers=1)
        if decision.decision != "keep_watching":
            break
    return decision


def _sides(pool: Pool, who: NDArray[np.int64], boosted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    linear, boosting = pool.linear[who], pool.boosting[who]
    return np.where(boosted, boosting, linear), np.where(boosted, linear, boosting)


def _cohort(
    number: int, rows: NDArray[np.int64], champion: Floats, challenger: Floats, left: NDArray[np.bool_]
) -> Cohort:
    n = len(rows)
    columns: dict[str, object] = {
        "segment": np.full(n, number),
        "row": np.arange(n),
        "entity": [f"CUST-{row}" for row in rows.tolist()],
        "schema": ["s"] * n,
        "swapped": np.zeros(n, dtype=np.bool_),
        "status": ["paired"] * n,
        "answer_us": np.full(n, 100),
        "shadow_us": np.full(n, 100),
        "outcome": left.astype(np.int64).astype(str),
        "target": left.astype(np.float64),
        "labelled": np.ones(n, dtype=np.bool_),
    }
    for side, p in (("champion", champion), ("challenger", challenger)):
        decided = (p >= SCHEMA.threshold).astype(np.int64).astype(str)
        columns |= {f"said_{side}": decided, f"{side}_label": decided, f"{side}_score": p}
        columns[f"{side}_p_outcome"] = np.where(left, p, 1 - p)
    return Cohort(number=number, closed_at=(1, number), reason="complete", rows=pa.table(columns), late=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    pool = scored_pool(ROWS, POOL)
    print(f"trained, {POOL:,} customers scored: {time.monotonic() - began:.0f} s")
    alpha = spec("log_loss").alpha
    allowed = alpha + 3 * math.sqrt(alpha * (1 - alpha) / options.runs)
    rows, figures = [], {}
    for metric in METRICS:
        gate = spec(metric)
        for name, boosted, runs in (
            ("roles by a fair coin", 0.5, options.runs),
            ("boosted trees as challenger", 0.0, options.runs // 4),
            ("linear model as challenger", 1.0, options.runs // 4),
        ):
            rng = np.random.default_rng([SEED, round(2 * boosted), METRICS.index(metric)])
            told = [run(pool, gate, rng, boosted=boosted) for _ in range(runs)]
            promoted = [each.decision == "promote" for each in told]
            rejected = [each.decision == "reject" for each in told]
            decided = [each.labelled for each in told if each.decision != "keep_watching"]
            rate, median = float(np.mean(promoted)), float(np.median(decided)) if decided else math.nan
            within = ("within" if rate <= allowed else "ABOVE") if boosted == 0.5 else ""
            figures[f"{metric}, {name}"] = {
                "runs": runs, "promoted": rate, "rejected": float(np.mean(rejected)), "median values": median,
            }  # fmt: skip
            share = f"{np.mean(rejected):.3f}"
            values = f"{median:,.0f}" if decided else "-"
            rows.append([metric, name, str(runs), f"{rate:.3f}", within, share, values])
    title = f"the example's models; alpha {alpha}, a false promotion in at most {allowed:.3f} of the runs"
    header = ("metric", "", "runs", "promoted", "", "rejected", "values until decided")
    report.table(title, header, rows)
    seconds = round(time.monotonic() - began, 1)
    print(f"{seconds} s")
    if options.write:
        settings = {"runs": options.runs, "alpha": alpha, "allowed": allowed, "seconds": seconds}
        print(f"wrote {report.write('gate_example', SEED, {**settings, 'figures': figures})}")


if __name__ == "__main__":
    main()
