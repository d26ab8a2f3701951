"""How often drift is found where there is none: PSI, KS, the decision over 20 features; and that a real shift is found.

    python benchmarks/drift_calibration.py [--runs N] [--rival-runs N] [--only TEXT ...]
                                           [--without-rivals] [--write]

A cell is one feature's distribution, size of both samples and number of bins; each run draws both samples anew,
freezes the bins from the reference and asks for the p-value as a drift check does (``calibration_windows.py``). Where
it is from Monte Carlo the draws are 999, so that p < 0.01 has probability 0.9 % at most. Of a continuous feature
without missing values the null depends on sizes and bins only, and a process draws it once: there every hundred runs
have a null of their own, of 999, 1,099, 1,199, ... draws. Processes take turns of 250 runs; a turn's number is its
seed.

With ``--write`` it takes an hour or two; ``--only`` does a part, and what is written replaces only the same cells.

Allowed are 1 % + 3 standard errors, and at least 0.5 % of PSI where each bin has 30 rows or more. Beside it Evidently
and NannyML with their defaults, on the same windows, run by environments of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import report
from calibration_windows import POPULATIONS, Floats
from shadow_mlops.statistics import distances, samples, significance
from shadow_mlops.statistics.bins import quantile_bins

sys.path.insert(0, str(report.ROOT / "tests"))
from venvs import venv_with

LEVEL, LEAST, DRAWS, AT_ONCE, PER_NULL = 0.01, 0.005, 999, 250, 100
FEATURES = 20
WELL_FILLED = 30
RETRAIN = 0.3  # PSI
RIVALS = {
    "evidently": ["evidently==0.7.23", "pandas<3", "plotly<6"],
    "nannyml": ["nannyml==0.13.1", "statsmodels", "pandas<3"],
}
K3, K4, K5, K6 = 10**3, 10**4, 10**5, 10**6

SIZES = {
    "normal": [
        (50, 50, 3), (50, 50, 10), (50, 50, 50), (50, K3, 10), (K3, 50, 10), (50, K6, 50), (K3, K3, 3), (K3, K3, 10),
        (K3, K3, 50), (K3, K6, 10), (K6, 50, 3), (K4, K4, 10), (K5, K3, 10), (K5, K6, 50), (K6, K6, 10),
    ],
    "Student's t, 2 degrees": [(50, 50, 10), (K3, K3, 10), (K4, K3, 50), (K6, K6, 10)],
    "normal, 5 % missing": [
        (50, 50, 10), (50, K3, 10), (K3, 50, 50), (K3, K3, 3), (K3, K3, 10), (K3, K6, 10), (K6, K6, 50),
    ],
    "60 % zeros, else lognormal": [(50, 50, 10), (50, K3, 50), (K3, 50, 10), (K3, K3, 10), (K4, K6, 10)],
    "Poisson(3)": [(50, 50, 10), (50, K3, 10), (K3, 50, 50), (K3, K3, 3), (K3, K3, 10), (K5, K6, 10), (K6, K6, 50)],
    "normal, one decimal": [
        (50, 50, 10), (50, K3, 50), (50, K6, 50), (K3, K3, 10), (K3, K3, 50), (K5, K3, 10), (K6, K6, 50),
    ],
    "3 categories": [(50, 50, 3), (50, K3, 3), (K3, K3, 3), (K6, K6, 3)],
    "200 rare categories": [(50, 50, 200), (50, K3, 200), (K3, 50, 200), (K3, K3, 200), (K4, K4, 200), (K6, K5, 200)],
    "5 and 200 rare, 5 % missing": [(50, 50, 205), (K3, 50, 205), (K3, K3, 205), (K5, K5, 205)],
    "the same, OTHER from the 21st": [(50, K3, 21), (K3, K3, 21), (K4, K4, 21)],
}  # fmt: skip
KS_SIZES = [(50, 50), (50, K3), (K3, 50), (997, 1013), (K3, K3), (K4, K3), (K4, K4)]


@dataclass(frozen=True)
class Cell:
    """One row of the table: of so many runs, how many had each property."""

    table: str
    name: str
    run: Callable[[int, int], Floats]
    """Of (seed, runs): float64 (properties,), sums over the runs."""

    def sums(self, runs: int, pool: ProcessPoolExecutor) -> Floats:
        turns = [min(AT_ONCE, runs - done) for done in range(0, runs, AT_ONCE)]
        return np.sum(list(pool.map(self.run, range(len(turns)), turns)), axis=0)


def psi_runs(population: str, size: tuple[int, int, int], seed: int, runs: int) -> Floats:
    """Runs with p < 0.01; with p from χ², from Monte Carlo; rows of the least bin in the smaller sample."""
    n, m, bins = size
    rng, given = np.random.default_rng([1, n, m, bins, seed]), POPULATIONS[population]
    found = np.zeros(4)
    for run in range(runs):
        window = given.window(rng, n, m, bins)
        judged = significance.psi_p_values(
            [window.reference],
            [window.current],
            kinds=[given.kind],
            tied=[window.tied],
            draws=DRAWS + (PER_NULL * ((seed * AT_ONCE + run) // PER_NULL) if given.one_null else 0),
        )
        pooled = window.reference + window.current
        least = pooled[pooled > 0].min() * min(n, m) / (n + m)
        found += judged.values[0] < LEVEL, judged.nulls[0] == "chi_square", judged.nulls[0] == "monte_carlo", least
    return found


def ks_runs(n: int, m: int, seed: int, runs: int) -> Floats:
    """Runs with p < 0.01."""
    rng = np.random.default_rng([2, n, m, seed])
    found = [
        samples.ks_p_value(samples.ks(rng.standard_normal(n), rng.standard_normal(m)), n, m) < LEVEL
        for _ in range(runs)
    ]
    return np.array([sum(found)], dtype=np.float64)


def features(rng: np.random.Generator, rows: int, correlation: float) -> Floats:
    """float64 (FEATURES, rows): standard normal, each pair with this correlation."""
    own = rng.standard_normal((FEATURES, rows)) * math.sqrt(1 - correlation)
    return own + rng.standard_normal(rows) * math.sqrt(correlation)


def window_runs(rows: int, correlation: float, shift: float, seed: int, runs: int) -> Floats:
    """Windows with anything significant, with a retraining, with the first feature (the shifted one) significant."""
    rng = np.random.default_rng([3, rows, int(100 * correlation), int(100 * shift), seed])
    found = np.zeros(3)
    for _ in range(runs):
        reference, current = features(rng, rows, correlation), features(rng, rows, correlation)
        current[0] += shift
        frozen = [quantile_bins(each) for each in reference]
        old, new = (
            [bins.coarse(bins.count(each)) for bins, each in zip(frozen, side, strict=True)]
            for side in (reference, current)
        )
        p_psi = significance.psi_p_values(
            old, new, kinds=["number"] * FEATURES, tied=[bins.tied for bins in frozen]
        ).values
        gaps = [samples.ks(*each) for each in zip(reference, current, strict=True)]
        p_ks = np.array([samples.ks_p_value(gap, rows, rows) for gap in gaps])
        moved = significance.significant(significance.family_p(p_ks, p_psi))
        psi = distances.psi(np.array(old), np.array(new))
        found += moved.any(), (moved & (psi > RETRAIN)).any(), moved[0]
    return found


def interval_runs(n: int, m: int, shift: float, seed: int, runs: int) -> Floats:
    """Runs in which the 95 % interval has the PSI between the populations in it, in ten equally likely bins."""
    from scipy import special

    rng = np.random.default_rng([4, n, m, int(100 * shift), seed])
    edges = special.ndtri(np.arange(1, 10) / 10)
    old, new = np.full(10, 0.1), np.diff(special.ndtr(edges - shift), prepend=0.0, append=1.0)
    truth = float(np.sum((new - old) * np.log(new / old)))
    counts = rng.multinomial(n, old, runs), rng.multinomial(m, new, runs)
    live = distances.live(*counts)
    low, high = significance.psi_interval(distances.psi(*counts), np.float64(n), np.float64(m), live)
    return np.array([np.count_nonzero((low <= truth) & (truth <= high))], dtype=np.float64)


def cells() -> Iterator[Cell]:
    for population, sizes in SIZES.items():
        for size in sizes:
            name = "{}: {:,} and {:,}, {}".format(population, *size)
            yield Cell("PSI", name, partial(psi_runs, population, size))
    for n, m in KS_SIZES:
        yield Cell("KS", f"KS: {n:,} and {m:,}", partial(ks_runs, n, m))
    for correlation in (0.0, 0.9):
        for rows in (50, K3):
            kind = f"correlation {correlation}" if correlation else "independent"
            yield Cell("window", f"window: {rows:,}, {kind}", partial(window_runs, rows, correlation, 0.0))
    yield Cell("window", "window: 1,000, one shifted by 0.3 σ", partial(window_runs, K3, 0.0, 0.3))
    for rows in (K3, K4):
        for shift in (0.25, 0.56):
            yield Cell("interval", f"interval: {rows:,}, {shift} σ", partial(interval_runs, rows, rows, shift))


def judged(cell: Cell, sums: Floats, runs: int) -> dict[str, object]:
    """Figures of a cell, and whether they are within what is allowed."""
    rates = (sums / runs).tolist()
    most = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / runs)
    figures: dict[str, object] = {"table": cell.table, "cell": cell.name, "runs": runs, "allowed": most}
    if cell.table == "PSI":
        rate, chi_square, monte_carlo, least = rates
        bottom = LEAST if least >= WELL_FILLED else 0.0
        figures |= {"rate": rate, "chi_square": chi_square, "monte_carlo": monte_carlo, "least_expected": least}
        figures["ok"] = bottom <= rate <= most
    elif cell.table == "KS":
        figures |= {"rate": rates[0], "ok": LEAST <= rates[0] <= most}
    elif cell.table == "interval":
        figures |= {"rate": rates[0], "ok": 0.93 <= rates[0] <= 0.96}
    elif "shifted" in cell.name:
        figures |= {"rate": rates[0], "retrain": rates[1], "found": rates[2], "ok": rates[2] >= 0.97}
    else:
        figures |= {"rate": rates[0], "retrain": rates[1], "ok": rates[0] <= most and rates[1] <= LEVEL}
    return figures


def rivals(runs: int, python: Path, kind: str, folder: Path) -> list[dict[str, object]]:
    """False alarms of another library's defaults, on windows of 20 features that all have not moved."""
    found = []
    for rows, correlation in ((50, 0.0), (K3, 0.0), (K3, 0.9), (K4, 0.0)):
        rng = np.random.default_rng([5, rows, int(100 * correlation)])
        count = max(20, runs * min(1, K3 // rows)) if rows > K3 else runs
        np.save(folder / "windows.npy", np.stack([features(rng, 2 * rows, correlation) for _ in range(count)]))
        script = report.ROOT / "benchmarks" / "rival_alarms.py"
        out = subprocess.run(
            [python, script, kind, folder / "windows.npy"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "NML_DISABLE_USAGE_LOGGING": "1"},
        )
        found.append({"library": kind, "rows": rows, "correlation": correlation, **json.loads(out.stdout)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="false alarms of the drift check")
    parser.add_argument("--runs", type=int, help="of each cell; 500, and 50,000 with --write")
    parser.add_argument("--rival-runs", type=int, help="10, and 300 with --write")
    parser.add_argument("--only", nargs="+", default=[""], help="cells whose names have one of these in them")
    parser.add_argument("--without-rivals", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs or (50_000 if arguments.write else 500)
    arguments.rival_runs = arguments.rival_runs or (300 if arguments.write else 10)
    start, figures = time.perf_counter(), []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell in cells():
            if any(each in cell.name for each in arguments.only):
                begun = time.perf_counter()
                figures.append(judged(cell, cell.sums(arguments.runs, pool), arguments.runs))
                if arguments.write:
                    write(figures[-1:], [])
                took = time.perf_counter() - begun
                print(f"{took:7.1f} s {'ok  ' if figures[-1]['ok'] else 'OVER'} {cell.name}", file=sys.stderr)
    beside: list[dict[str, object]] = []
    if not arguments.without_rivals:
        with tempfile.TemporaryDirectory() as folder:
            for kind, requirements in RIVALS.items():
                python = venv_with(kind, requirements) / "python"
                beside += rivals(arguments.rival_runs, python, kind, Path(folder))
    show(figures, beside, arguments.runs)
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.write:
        print(f"wrote {write([], beside)}")


def write(figures: list[dict[str, object]], beside: list[dict[str, object]]) -> Path:
    """Replace the cells that were run now, each with its commit."""
    path, commit = report.RESULTS / "drift_calibration.json", report.commit()
    before = json.loads(path.read_text()) if path.exists() else {"cells": [], "beside": []}
    now = {each["cell"]: each | {"commit": commit} for each in figures}
    known = {each["cell"]: each for each in before["cells"]} | now
    kept = [known[cell.name] for cell in cells() if cell.name in known]
    return report.write("drift_calibration", 1, {"cells": kept, "beside": beside or before["beside"]})


def show(figures: list[dict[str, object]], beside: list[dict[str, object]], runs: int) -> None:
    most = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / runs)
    title = f"runs with p < 0.01 where nothing moved, {runs:,} a cell; allowed {most:.4%}"
    rows = []
    for each in figures:
        notes = [f"{name} {each[name]:.3%}" for name in ("retrain", "found") if name in each]
        if "chi_square" in each:
            notes.append(f"p from χ² {each['chi_square']:.0%}, least bin {each['least_expected']:,.0f}")
        rows.append([str(each["cell"]), f"{each['rate']:.3%}", ", ".join(notes), "" if each["ok"] else "NOT ALLOWED"])
    report.table(title, ["feature: rows of reference and window, bins", "rate", "", ""], rows)
    if beside:
        rows = []
        for each in beside:
            name = f"{each['library']}: {each['rows']:,} rows, correlation {each['correlation']}"
            rates = [f"{each[f'{of}_rate']:.2%}" for of in ("feature", "any", "dataset")]
            rows.append([name, str(each["runs"]), *rates])
        report.table(
            f"defaults of others, {FEATURES} features that have not moved",
            ["", "windows", "features alarmed", "windows with one", "windows called drifted"],
            rows,
        )


if __name__ == "__main__":
    main()
