"""Checks of live drift for the tests of retraining, a day apart unless told."""

from __future__ import annotations

from shadow_mlops.drift.clock import rfc3339
from shadow_mlops.drift.livereport import DetectorLevels, LiveDrift, ReferenceInForce, WindowSpan
from shadow_mlops.drift.report import Score, Settings
from shadow_mlops.retraining.trigger import Check, Mark, Rule

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
START_US = 1_767_571_200_000_000  # 2026-01-05T00:00:00Z
MARK = Mark(feature="tenure", method="psi", score=0.41, threshold=0.3)


def rule(**changes) -> Rule:
    return Rule(**{"deployment": "churn", "interval_us": DAY_US, "cool_down_us": DAY_US, **changes})


def check(day: float, verdict: str = "drifted", **changes) -> Check:
    given = {"version": "1", "reference": "a", "rows": 1000, "marks": (MARK,) if verdict == "drifted" else ()}
    return Check(at_us=START_US + round(day * DAY_US), verdict=verdict, **{**given, **changes})


def report(day: float, psi: float = 0.41, *, rows: int = 1000, **changes) -> LiveDrift:
    """A report whose feature ``tenure`` has this PSI, against a threshold of 0.3; more scores by ``scores``."""
    given = {
        "scores": (score("tenure", psi), score("tenure", 0.5, "ks"), score("__score__", 0.01)),
        "version": "1",
        "reference_in_force": ReferenceInForce(kind="version", id="a", version="1"),
        "window": WindowSpan(
            since=rfc3339(START_US), until=rfc3339(START_US + round(day * DAY_US)), rows=rows, hours=24, min_rows=500
        ),
    }
    return LiveDrift(
        **{
            "verdict": "none", "reason": "", "reference_rows": 1000, "current_rows": rows, "features": (),
            "reference": "", "current": "", "created": "", "deployment": "churn",
            "settings": Settings(
                bins=10, level=0.01, methods=("psi", "ks"), thresholds={}, retrain_on=("psi",), exact_ks=False
            ),
            "detector": DetectorLevels(run_length=1, bucket_seconds=60, alarm_level=1), **given, **changes,
        }
    )  # fmt: skip


def score(feature: str, value: float, method: str = "psi", threshold: float = 0.3) -> Score:
    above = value > threshold
    return Score(
        feature=feature, method=method, score=value, threshold=threshold, alert=above, retrain=above and method == "psi"
    )
