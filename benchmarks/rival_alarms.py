"""False alarms of Evidently's or NannyML's defaults, run by an environment that has it.

    python rival_alarms.py evidently|nannyml WINDOWS.npy

Reads float64 (windows, features, 2 x rows): of each feature the reference's rows, then as many current ones. Prints a
line of JSON: windows; share of features alarmed; share of windows with any; share that the library itself calls drifted
(Evidently; NannyML has no such verdict, so it is any there). NannyML divides either side into ten chunks, and each of
the current ones is a window to it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable

Alarms = list[tuple[list[bool], bool]]
# of each window: features, all of it


def by_evidently() -> Callable[[object, object], Alarms]:
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    def alarms(reference: object, current: object) -> Alarms:
        made = Report([DataDriftPreset()]).run(Dataset.from_pandas(current), Dataset.from_pandas(reference))
        counted, *columns = made.dict()["metrics"]
        drifted = []
        for column in columns:
            config = column["config"]
            is_p_value = "p_value" in config["method"]
            value, threshold = float(column["value"]), float(config["threshold"])
            drifted.append(value < threshold if is_p_value else value >= threshold)
        assert sum(drifted) == int(counted["value"]["count"]), (drifted, counted)
        return [(drifted, counted["value"]["share"] >= counted["config"]["drift_share"])]

    return alarms


def by_nannyml() -> Callable[[object, object], Alarms]:
    import nannyml

    def alarms(reference: object, current: object) -> Alarms:
        columns = list(reference.columns)
        calculator = nannyml.UnivariateDriftCalculator(column_names=columns).fit(reference)
        found = calculator.calculate(current).filter(period="analysis").to_df()
        alerts = sorted({each[:2] for each in found.columns if each[0] in columns})
        assert len(alerts) == len(columns)
        chunks = [[bool(found[(*each, "alert")].iloc[chunk]) for each in alerts] for chunk in range(len(found))]
        return [(drifted, any(drifted)) for drifted in chunks]

    return alarms


def main() -> None:
    warnings.simplefilter("ignore")
    import numpy as np
    import pandas as pd

    alarms = {"evidently": by_evidently, "nannyml": by_nannyml}[sys.argv[1]]()
    windows = np.load(sys.argv[2])
    features, rows = windows.shape[1], windows.shape[2] // 2
    names = [f"f{i}" for i in range(features)]
    drifted = []
    for window in windows:
        sides = [pd.DataFrame(side.T, columns=names) for side in (window[:, :rows], window[:, rows:])]
        drifted += alarms(*sides)
    print(
        json.dumps(
            {
                "runs": len(drifted),
                "feature_rate": float(np.mean([each for each, _ in drifted])),
                "any_rate": float(np.mean([any(each) for each, _ in drifted])),
                "dataset_rate": float(np.mean([whole for _, whole in drifted])),
            }
        )
    )


main()  # no benchmark by itself: no guard, by which make bench would take it for one
