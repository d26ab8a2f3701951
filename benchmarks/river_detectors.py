"""ADWIN, KSWIN and Page-Hinkley of ``river``, in an environment of their own: run by ``e_detector.py``.

    python -c "import river_detectors; river_detectors.main()" STREAMS.npz RESULT.json

STREAMS.npz has ``streams`` float64 (runs, rows) without drift, ``change``, ``shifts``, ``run_length`` (the mean that
each is tuned to) and ``tuning_runs``. A detector sees a stream row by row from the first, which for it is what the
reference is for ours; a shift begins at row ``change``.

Until its first alarm no detector depends on its threshold, so one pass over streams without drift tells the run length
at every threshold (of ADWIN, which does not tell its statistic: a pass for each).
"""

from __future__ import annotations

import bisect
import copy
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from river import drift
from river.drift import kswin
from scipy import stats

LONGEST = 3  # run lengths, after which a tuning stream is given up


class TabulatedKs:
    """``scipy.stats`` for KSWIN: two samples of 30 have 31 distances, so their p-values are computed once."""

    def __init__(self, size: int) -> None:
        low = np.arange(size)
        self.p = [
            stats.ks_2samp(low, low + shift if shift < size else low + 10 * size).pvalue for shift in range(size + 1)
        ]
        self.steps = np.repeat([1, -1], size)

    def ks_2samp(self, one: list[float], other: list[float], method: str) -> tuple[float, float]:
        del method
        gap = int(np.abs(np.cumsum(self.steps[np.argsort(one + other)])).max())
        return gap / len(one), self.p[gap]


def streams(runs: int, rows: int, seed: int) -> Iterator[list[float]]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(rows).tolist() for _ in range(runs))


def records(detector: Any, statistic: Callable[[Any], float], values: list[float]) -> tuple[list[float], list[int]]:
    """Each new maximum of a statistic, and the row after which it was reached."""
    highest, tops, rows = -math.inf, [], []
    for row, value in enumerate(values, 1):
        detector.update(value)
        now = statistic(detector)
        if now > highest:
            highest = now
            tops.append(now)
            rows.append(row)
    return tops, rows


def mean_run_length(passed: list[float], longest: int) -> tuple[float, float]:
    """Rows at risk per alarm, and its standard error: right if the hazard is constant, whatever was given up."""
    alarms = sum(math.isfinite(at) for at in passed)
    at_risk = sum(min(at, longest) for at in passed)
    return (at_risk / alarms, at_risk / alarms / math.sqrt(alarms)) if alarms else (math.inf, math.inf)


class ByRecords:
    """Detectors whose statistic can be read: ``parameter`` is a function of the bar."""

    def __init__(
        self,
        make: Callable[[int], Any],
        statistic: Callable[[Any], float],
        set_bar: Callable[[Any, float], None],
        bars: list[float],
        runs_divisor: int = 1,
    ) -> None:
        self.make, self.statistic, self.set_bar, self.bars, self.divisor = make, statistic, set_bar, bars, runs_divisor

    def tune(self, run_length: float, runs: int, seed: int) -> tuple[float, float, float]:
        longest = int(LONGEST * run_length)
        seen = []
        for run, values in enumerate(streams(runs // self.divisor, longest, seed)):
            detector = self.make(run)
            self.set_bar(detector, math.inf)
            seen.append(records(detector, self.statistic, values))
        best = None
        for bar in self.bars:
            passed = [
                float(rows[at]) if (at := bisect.bisect_right(tops, bar)) < len(tops) else math.inf
                for tops, rows in seen
            ]
            mean, error = mean_run_length(passed, longest)
            if best is None or abs(math.log(mean / run_length)) < abs(math.log(best[1] / run_length)):
                best = bar, mean, error
        return best

    def armed(self, bar: float, run: int) -> Any:
        detector = self.make(run)
        self.set_bar(detector, bar)
        return detector


class Adwin:
    """ADWIN at a clock: δ by bisection."""

    def __init__(self, clock: int) -> None:
        self.clock = clock

    def tune(self, run_length: float, runs: int, seed: int) -> tuple[float, float, float]:
        longest = int(LONGEST * run_length)
        all_values = list(streams(runs, longest, seed))
        low, high = -40.0, 0.0  # ln δ; δ is a probability
        for _ in range(12):
            middle = (low + high) / 2
            mean, error = mean_run_length([self.first_alarm(middle, values) for values in all_values], longest)
            if abs(mean / run_length - 1) < 0.02:
                break
            low, high = (low, middle) if mean < run_length else (middle, high)
        return middle, mean, error

    def first_alarm(self, log_delta: float, values: list[float]) -> float:
        update = (detector := self.armed(log_delta, 0)).update
        for row, value in enumerate(values, 1):
            update(value)
            if detector.drift_detected:
                return float(row)
        return math.inf

    def armed(self, log_delta: float, run: int) -> Any:
        del run
        return drift.ADWIN(delta=math.exp(log_delta), clock=self.clock)


def page_hinkley(delta: float) -> ByRecords:
    def statistic(d: Any) -> float:
        return max(d._sum_increase - d._min_increase, d._max_decrease - d._sum_decrease)  # noqa: SLF001 - no other way

    def set_bar(d: Any, bar: float) -> None:
        d.threshold = bar

    return ByRecords(
        lambda _run: drift.PageHinkley(delta=delta), statistic, set_bar, np.geomspace(3, 2000, 1000).tolist()
    )


def ks_windowing() -> ByRecords:
    """Default windows. The bar is the distance times 30: only these 31 thresholds exist."""
    table = TabulatedKs(30)
    kswin.stats = table

    def set_bar(d: Any, bar: float) -> None:
        d.alpha = 0.0 if bar == math.inf else table.p[int(bar) + 1]  # an alarm where the distance is above the bar

    def statistic(d: Any) -> float:
        return table.p.index(d.p_value) if d.p_value in known else 0

    known = set(table.p)
    # a run costs 30 times what the others' do
    return ByRecords(lambda run: drift.KSWIN(seed=run), statistic, set_bar, list(range(5, 25)), runs_divisor=4)


def delays(armed: Callable[[int], Any], rows: np.ndarray, change: int, shifts: list[float]) -> dict[str, Any]:
    """Rows from the change to the alarm; those without an alarm count as all rows that there were."""
    found: dict[float, list[int]] = {shift: [] for shift in shifts}
    missed, false = dict.fromkeys(shifts, 0), 0
    for run, values in enumerate(rows):
        detector = armed(run)
        early = False
        for value in values[:change].tolist():
            detector.update(value)
            early = early or detector.drift_detected
        if early:
            false += 1
            continue
        for shift in shifts:
            shifted = copy.deepcopy(detector)
            after = (values[change:] + shift).tolist()
            for delay in itertools.count(1):
                shifted.update(after[delay - 1])
                if shifted.drift_detected or delay == len(after):
                    break
            missed[shift] += not shifted.drift_detected
            found[shift].append(delay)
    return {
        "alarms before the change": false / len(rows),
        "delay": {
            str(shift): {
                "mean": float(np.mean(each)),
                "se": float(np.std(each) / math.sqrt(len(each))),
                "median": float(np.median(each)),
                "missed": missed[shift] / len(each),
            }
            for shift, each in found.items()
        },
    }


def check_table(seed: int) -> None:
    """The table must give what SciPy gives."""
    table, rng = TabulatedKs(30), np.random.default_rng(seed)
    for _ in range(200):
        one, other = rng.standard_normal(30).tolist(), (rng.standard_normal(30) + rng.random()).tolist()
        expected = stats.ks_2samp(one, other, method="auto")
        gap, p = table.ks_2samp(one, other, method="auto")
        if not (math.isclose(gap, expected.statistic) and math.isclose(p, expected.pvalue, rel_tol=1e-9)):
            sys.exit(f"the table of p-values says {gap, p}, SciPy {expected}")


def main() -> None:
    given = np.load(sys.argv[1])
    run_length, runs = float(given["run_length"]), int(given["tuning_runs"])
    check_table(1)
    rivals = {
        "ADWIN": (Adwin(32), "ln δ"),
        "ADWIN, clock 1": (Adwin(1), "ln δ"),
        "KSWIN": (ks_windowing(), "distance of 30 above"),
        "Page-Hinkley": (page_hinkley(0.005), "threshold"),
        "Page-Hinkley, δ 0.15": (page_hinkley(0.15), "threshold"),
    }
    result = {}
    for seed, (name, (rival, meaning)) in enumerate(rivals.items(), 100):
        bar, mean, error = rival.tune(run_length, runs, seed)
        figures = delays(
            lambda run, r=rival, b=bar: r.armed(b, run),
            given["streams"],
            int(given["change"]),
            given["shifts"].tolist(),
        )
        result[name] = {"tuned": {meaning: bar}, "run length": mean, "run length se": error, **figures}
        print(f"  {name}: {meaning} {bar:.4g}, run length {mean:,.0f}", flush=True)
    Path(sys.argv[2]).write_text(json.dumps(result))
