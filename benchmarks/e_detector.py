"""How often the live detector raises a false alarm, how soon it finds a drift, and where its promise ends.

    python benchmarks/e_detector.py [--runs 400] [--quick] [--write]

Every run has a reference of its own, rows and all; a bucket is one row unless the table says otherwise, so that a delay
in buckets is one in rows. Features are standard normal, in ten quantile bins and missing, with the twelve alternatives
of a number. No run is cut off: run lengths are plain means over all runs, their standard errors those of the mean.

Delays: the first feature is shifted after ``CHANGE`` rows without drift; runs with an alarm before that are left out
(their share is shown). Beside it the detectors of ``river`` on the same streams, each tuned on streams without drift to
the run length that ours has at A = 10,000; they see the reference's rows first. Only river is installed for that, into
an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

import report
from one_row_buckets import BINS, DAY, Floats, Traffic, edges_of, first_passages
from shadow_mlops.statistics.edetector import DetectorState, EDetector, Kind

sys.path.insert(0, str(report.ROOT / "tests"))
from venvs import venv_with

BARS = (1e3, 1e4)
SHIFTS = (0.3, 0.5, 1.0)
CHANGE = 1000
EXPECTED = {1: (148, 59, 20), 25: (209, 85, 26)}  # rows at A = 10,000
ALLOWED = 1.3
RIVER = "river==0.26.1"
FOREVER = 10**7
"""Buckets; no run has come near."""
Ints = NDArray[np.int64]


def mean_and_error(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


class Table:
    """Run lengths over A: rows for people, figures for the file."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.figures: dict[str, dict[str, object]] = {}

    def add(self, name: str, passed: Floats, bars: tuple[float, ...], *, promised: bool) -> None:
        cells, figures = [], {}
        for at, bar in enumerate(bars):
            mean, error = mean_and_error(passed[:, at] / bar)
            kept = mean >= 1 - 3 * error
            cells += [f"{mean:.3f} ± {error:.3f}" + (("" if kept else "  BELOW") if promised else "")]
            figures[f"A={bar:g}"] = {"mean": mean, "se": error, "runs": len(passed), "at least 1 - 3 SE": kept}
        self.rows.append([name, f"{len(passed):,}", *cells, *[""] * (len(BARS) - len(cells))])
        self.figures[name] = figures

    def print(self, title: str) -> None:
        report.table(title, ("", "runs", *(f"ARL/A ± SE, A = {bar:,.0f}" for bar in BARS)), self.rows)


def false_alarms(runs: int, bars: tuple[float, ...], seed: int) -> Table:
    table = Table()
    for rows in (1000, 10_000):
        for features, shared, times in ((1, 0.0, 5), (25, 0.0, 1), (25, 0.95, 1)):
            rng = np.random.default_rng([seed, rows, features, int(100 * shared)])
            traffic = Traffic(runs * times, features, rng, shared=shared)
            name = f"{features} feature" + (f"s, correlation {shared:g}" if features > 1 else "")
            passed = first_passages(traffic, rows, bars, most=FOREVER)
            table.add(f"{name}, reference of {rows:,}", passed, bars, promised=True)
    return table


def delays(runs: int, seed: int) -> tuple[list[list[str]], dict[str, object]]:
    lines, figures = [], {}
    for features in (1, 25):
        for rows in (1000, 10_000):
            rng = np.random.default_rng([seed, rows, features])
            edges = Traffic(runs, features, rng).edges(rows)
            for shift, expected in zip(SHIFTS, EXPECTED[features], strict=True):
                traffic = Traffic(runs, features, rng, shift=shift, change=CHANGE)
                passed = first_passages(traffic, rows, BARS[-1:], most=FOREVER, edges=edges)[:, 0]
                late = passed[passed > CHANGE] - CHANGE
                mean, error = mean_and_error(late)
                name = f"one of {features}, reference of {rows:,}, {shift:g}σ"
                figures[name] = {
                    "runs": len(late),
                    "mean": mean,
                    "se": error,
                    "median": float(np.median(late)),
                    "expected": expected,
                    "alarms before the change": float((passed <= CHANGE).mean()),
                }
                lines.append(
                    [
                        name,
                        f"{mean:.1f} ± {error:.1f}",
                        f"{np.median(late):.0f}",
                        f"{expected}",
                        f"{mean / expected:.2f}" + ("" if mean <= ALLOWED * expected else "  ABOVE"),
                        f"{(passed <= CHANGE).mean():.3f}",
                    ]
                )
    return lines, figures


def passages(
    reference: Ints,
    kind: Kind,
    draw: Callable[[int, Ints], Ints],
    bar: float,
    *,
    group: Callable[[int], int] = lambda _bucket: 0,
) -> Floats:
    """Bucket of the first alarm of one feature, by the detector itself: its features are the runs.

    Parameters
    ----------
    reference
        int (runs, B), or (runs, groups, B).
    draw
        (bucket, runs that go on) -> their counts (k, B).
    """
    runs, groups = len(reference), 1 if reference.ndim == 2 else reference.shape[1]
    going, passed = np.arange(runs), np.zeros(runs)
    state: DetectorState | None = None
    bucket = 0
    while len(going):
        detector = EDetector(list(reference[going]), [kind] * len(going), threshold=1e300, groups=groups)
        if state is not None:
            detector.restore(state)
        while 2 * np.count_nonzero(passed[going] == 0) > len(going):  # half of the runs are over: go on with the rest
            levels = detector.update(draw(bucket, going), group(bucket)).levels
            bucket += 1
            passed[going[(levels >= bar) & (passed[going] == 0)]] = bucket
        on, state = passed[going] == 0, detector.state()
        state = DetectorState(
            state.log_levels.reshape(len(going), -1)[on].ravel(),
            state.seen.reshape(groups, len(going), -1)[:, on].reshape(groups, -1),
        )
        going = going[on]
    return passed


def counts_of(values: Floats, edges: Floats) -> Ints:
    """Counts (runs, 11) of values (runs, n) in bins that end at edges (runs, 9)."""
    places = (values[:, :, None] > edges[:, None, :]).sum(axis=2)
    return (places[:, :, None] == np.arange(BINS + 1)).sum(axis=1)


def by_the_detector(runs: int, bars: tuple[float, ...], seed: int) -> Table:
    """What the quick form for one row cannot do: buckets of many rows, categories."""
    table = Table()
    bar, rng = bars[0], np.random.default_rng([seed, 7])
    edges = edges_of(rng.standard_normal((runs, 1000)))
    truth = np.diff(ndtr(edges), axis=1, prepend=0, append=1)
    truth = np.hstack([truth, np.zeros((runs, 1))])
    reference = np.tile([100] * BINS + [0], (runs, 1))
    passed = passages(reference, "number", lambda _, going: rng.multinomial(60, truth[going]), bar)
    table.add("buckets of 60 rows, reference of 1,000", passed[:, None], (bar,), promised=True)
    shares = 1 / np.arange(1, 21)
    shares = np.append(shares / shares.sum(), [0.0, 0.0])  # OTHER and missing: never
    reference = rng.multinomial(1000, shares, size=runs)
    passed = passages(reference, "category", lambda _, going: rng.multinomial(1, shares, size=len(going)), bar)
    table.add("20 categories (Zipf), reference of 1,000", passed[:, None], (bar,), promised=True)
    return table


def limits(runs: int, bars: tuple[float, ...], seed: int) -> Table:
    """Rows that are not exchangeable, and the reference by hours that mends a daily cycle."""
    table = Table()
    rng = np.random.default_rng([seed, 8])
    for name, kind in (
        ("autocorrelation 0.5", {"autocorrelation": 0.5}),
        ("the same, every tenth row only", {"autocorrelation": 0.5**10}),
        (f"daily cycle ±0.5σ, {DAY} buckets a day, one reference", {"cycle": 0.5}),
    ):
        passed = first_passages(Traffic(runs, 1, rng, **kind), 10_000, bars, most=FOREVER)
        table.add(name, passed, bars, promised=False)
    for name, hours, smooth in (
        ("the same cycle, a reference for each hour of the day", 24, True),
        ("the same, if rows of one hour are exchangeable", 24, False),
        ("the same cycle, a reference for each hour of the week", 168, True),
    ):
        every = [by_hours(runs, bar, rng, hours=hours, smooth=smooth) for bar in bars]
        table.add(name, np.stack(every, axis=1), bars, promised=False)
    return table


def by_hours(runs: int, bar: float, rng: np.random.Generator, *, hours: int, smooth: bool) -> Floats:
    """First alarms with a reference for each hour of day or week; a smooth cycle goes on within the hour too."""

    def cycle(at: Floats) -> Floats:
        return 0.5 * np.sin(2 * np.pi * (at if smooth else np.floor(at) + 0.5) / 24)

    def draw(bucket: int, going: Ints) -> Ints:
        row = rng.standard_normal((len(going), 1)) + cycle(np.float64(bucket * 24 / DAY))
        return counts_of(row, edges[going])

    at = rng.random((runs, 10_000)) * hours
    values = rng.standard_normal(at.shape) + cycle(at)
    edges = edges_of(values)
    reference = np.zeros((runs, hours, BINS + 1), dtype=np.int64)
    for counts, hour, rows, borders in zip(reference, at.astype(int), values, edges, strict=True):
        np.add.at(counts, (hour, np.searchsorted(borders, rows)), 1)
    return passages(reference, "number", draw, bar, group=lambda bucket: bucket * 24 // DAY % hours)


class Recorded:
    """Streams (runs, reference and rows) that others see too."""

    def __init__(self, streams: Floats, reference: int, shift: float) -> None:
        self.runs, self.features, self.taken = len(streams), 1, 0
        self._streams, self._rows, self._shift = streams, reference, shift

    def edges(self, rows: int) -> Floats:
        return edges_of(self._streams[:, None, :rows])

    def live(self, rows: int) -> Floats:
        at = self._rows + self.taken + np.arange(rows)
        values = self._streams[:, at] + np.where(at >= self._rows + CHANGE, self._shift, 0.0)
        self.taken += rows
        return values.T[:, :, None]

    def keep(self, which: NDArray[np.bool_]) -> None:
        self._streams = self._streams[which]


def beside_river(runs: int, tuning: int, run_length: float, seed: int) -> tuple[list[list[str]], dict[str, object]]:
    """One feature, a reference of 1,000, no more than 3,000 rows after the change."""
    rows, after = 1000, 3000
    streams = np.random.default_rng([seed, 9]).standard_normal((runs, rows + CHANGE + after))
    ours = {}
    for shift in SHIFTS:
        passed = first_passages(Recorded(streams, rows, shift), rows, BARS[-1:], most=CHANGE + after)[:, 0]
        late = np.minimum(passed[passed > CHANGE] - CHANGE, after)
        mean, error = mean_and_error(late)
        ours[str(shift)] = {
            "mean": mean,
            "se": error,
            "median": float(np.median(late)),
            "missed": float((late == after).mean()),
        }
    figures: dict[str, dict[str, object]] = {
        "this detector": {
            "run length": run_length,
            "alarms before the change": float((passed <= CHANGE).mean()),
            "delay": ours,
        }
    }
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "streams.npz", Path(folder) / "result.json"
        np.savez(given, streams=streams, change=rows + CHANGE, shifts=SHIFTS, run_length=run_length, tuning_runs=tuning)
        python = venv_with("river", [RIVER]) / "python"
        code = "import river_detectors; river_detectors.main()"
        command = [str(python), "-W", "ignore::RuntimeWarning", "-c", code, str(given), str(result)]
        subprocess.run(command, check=True, cwd=report.ROOT / "benchmarks", timeout=1200)
        figures |= json.loads(result.read_text())
    lines = [
        [
            name,
            f"{each['run length']:,.0f}" + (f" ± {each['run length se']:,.0f}" if "run length se" in each else ""),
            *(
                f"{delay['mean']:.1f} ± {delay['se']:.1f}"
                + (f" ({delay['missed']:.0%} missed)" * (delay["missed"] > 0))
                for delay in each["delay"].values()
            ),
            f"{each['alarms before the change']:.3f}",
        ]
        for name, each in figures.items()
    ]
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute: 100 runs, A = 1,000 only for run lengths")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    began, seed = time.monotonic(), options.seed
    runs, bars, tuning = (100, BARS[:1], 40) if options.quick else (options.runs, BARS, 400)
    found = false_alarms(runs, bars, seed)
    found.print("mean run length to a false alarm of the deployment, over A; promised: at least 1")
    late, late_figures = delays(4 * runs, seed)
    report.table(
        f"rows from the shift to the alarm, A = {BARS[-1]:,.0f}",
        ("", "mean ± SE", "median", "stated", "mean / stated", "alarms before"),
        late,
    )
    others = by_the_detector(runs, bars, seed)
    others.print("other buckets and bins, by the detector itself")
    beyond = limits(runs, bars, seed)
    beyond.print("the limit: rows that are not exchangeable; reference of 10,000")
    own = found.figures["1 feature, reference of 1,000"][f"A={bars[-1]:g}"]["mean"] * bars[-1]
    rivals, rival_figures = beside_river(runs, tuning, own * BARS[-1] / bars[-1], seed)
    report.table(
        f"beside {RIVER}, the same streams and run length: rows to the alarm",
        ("", "run length", *(f"{shift:g}σ" for shift in SHIFTS), "alarms before"),
        rivals,
    )
    print(f"{time.monotonic() - began:.0f} s")
    if options.write:
        figures = {
            "run length over A": found.figures,
            "delay": late_figures,
            "other buckets and bins": others.figures,
            "limits": beyond.figures,
            "beside river": rival_figures,
        }
        settings = {"runs": runs, "quick": options.quick, "change": CHANGE, "river": RIVER}
        print(f"wrote {report.write('e_detector', seed, {**settings, 'figures': figures})}")


if __name__ == "__main__":
    main()
