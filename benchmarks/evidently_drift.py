"""Evidently on the samples that it is given, run by its own environment: seconds of a report, from data in memory.

    python evidently_drift.py DIRECTORY

Reads ``reference.npy`` and ``current.npy``, float64 of shape (columns, rows); for each line on its standard input it
makes the reports that the line names, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

METHODS = ("psi", "ks", "jensenshannon")


def main() -> None:
    warnings.simplefilter("ignore")
    import numpy as np
    import pandas as pd
    from evidently import Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    folder = Path(sys.argv[1])
    reference, current = (
        Dataset.from_pandas(
            pd.DataFrame({f"f{at}": column for at, column in enumerate(np.load(folder / f"{name}.npy"))})
        )
        for name in ("reference", "current")
    )
    columns = len(reference.as_dataframe().columns)
    single = [ValueDrift(column=f"f{at}", method=method) for at in range(columns) for method in METHODS]
    asked = {
        # as its documentation does it: a preset gives a verdict and the columns' scores, by one method
        "presets": [Report([DataDriftPreset(num_method=method)]) for method in METHODS],
        # the least that gives the three scores of each column
        "single metrics": [Report(single)],
    }
    print("ready", flush=True)
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        scores = [each for made in asked[line.strip()] for each in made.run(current, reference).dict()["metrics"]]
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert len(scores) >= len(single)
        print(json.dumps({"seconds": took, "cpu": cpu}), flush=True)


main()  # no benchmark by itself: no guard, by which make bench would take it for one
