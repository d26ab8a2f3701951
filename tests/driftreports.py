"""Drift reports made by hand, for tests of what shows them."""

from __future__ import annotations

from shadow_mlops.drift.report import Bin, DriftReport, FeatureDrift, Finding, Moment, Named, Score, Settings

HOSTILE = "<script>alert(1)</script>[red]\x1b[31m\u202e\"'&\n"


def moved(name: str = "tenure") -> tuple[FeatureDrift, tuple[Score, ...]]:
    """A number that calls for retraining by PSI."""
    bins = (
        Bin(label="(-inf, 12]", reference=40, current=80, high=12.0),
        Bin(label="(12, inf)", reference=60, current=10, low=12.0),
        Bin(label="missing", role="missing", reference=0, current=10),
    )
    finding = Finding(
        kind="missing_rate", feature=name, words=f"{name}: missing in 10 % of rows, in 0 % of the reference"
    )
    feature = FeatureDrift(
        name=name,
        kind="number",
        reference_rows=100,
        current_rows=100,
        missing_reference=0.0,
        missing_current=0.1,
        p_value=3e-9,
        p_method="exact",
        significant=True,
        severity="significant",
        bins=bins,
        findings=(finding,),
    )
    judged = {"feature": name, "significant": True, "alert": True, "severity": "significant"}
    return feature, (
        Score(
            method="psi",
            score=1.234,
            threshold=0.3,
            p_value=2e-9,
            retrain=True,
            corrected=1.2,
            interval=(0.8, 1.7),
            **judged,
        ),
        Score(method="ks", score=0.4567, threshold=0.1, p_value=1e-120, error_bound=0.004, **judged),
        Score(method="js", score=0.321, threshold=0.1, **judged),
    )


def steady(name: str = "segment", *, categories: int = 3) -> tuple[FeatureDrift, tuple[Score, ...]]:
    """Categories that are as they were."""
    feature = FeatureDrift(
        name=name,
        kind="category",
        reference_rows=2 * categories,
        current_rows=2 * categories,
        missing_reference=0.0,
        missing_current=0.0,
        p_value=0.8,
        p_method="chi_square",
        significant=False,
        severity="none",
        bins=tuple(Bin(label=f"value {i}", reference=2, current=2) for i in range(categories)),
    )
    return feature, (
        Score(feature=name, method="psi", score=0.0123, threshold=0.3, p_value=0.8),
        Score(feature=name, method="js", score=0.02, threshold=0.1),
    )


def report(*parts: tuple[FeatureDrift, tuple[Score, ...]], moments: int = 0, **other: object) -> DriftReport:
    """A report of these features; nothing given: one that moved and one that did not."""
    parts = parts or (moved(), steady())
    features = tuple(feature for feature, _ in parts)
    fields = {
        "verdict": "retrain",
        "reason": "1 of 2 features moved beyond a threshold: tenure (PSI 1.2)",
        "reference_rows": 100,
        "current_rows": 100,
        "scores": tuple(score for _, scores in parts for score in scores),
        "features": features,
        "findings": tuple(finding for feature in features for finding in feature.findings),
        "reference": "reference.parquet",
        "current": "current.parquet",
        "created": "2026-11-24T11:30:00Z",
        "settings": Settings(
            bins=10,
            level=0.01,
            methods=("psi", "ks", "js"),
            thresholds={"psi": 0.3, "ks": 0.1, "js": 0.1},
            retrain_on=("psi",),
            overrides={features[0].name: {"psi": 0.2}},
            exact_ks=False,
        ),
        "limits": ("rows of one customer are not independent",),
        "timeline": tuple(
            Moment(
                since=f"2026-11-{day:02d}T00:00:00Z",
                until=f"2026-11-{day + 1:02d}T00:00:00Z",
                rows=1440,
                verdict="none",
                psi={feature.name: day / 10 for feature in features},
            )
            for day in range(1, moments + 1)
        ),
    }
    return DriftReport(**(fields | other))


def hostile() -> DriftReport:
    """A report in which every text that comes from data or from a command line is an attack."""
    feature, scores = moved(HOSTILE)
    finding = Finding(kind="new_category", feature=HOSTILE, words=HOSTILE, values=(Named(value=HOSTILE, rows=3),))
    bins = tuple(
        Bin(label=HOSTILE, reference=b.reference, current=b.current, low=b.low, high=b.high) for b in feature.bins
    )
    shown = FeatureDrift(
        **{name: getattr(feature, name) for name in feature.__struct_fields__} | {"bins": bins, "findings": (finding,)}
    )
    category = FeatureDrift(**{name: getattr(shown, name) for name in shown.__struct_fields__} | {"kind": "category"})
    return report(
        (shown, scores),
        (category, ()),
        moments=3,
        reason=HOSTILE,
        reference=HOSTILE,
        current=HOSTILE,
        created=HOSTILE,
        limits=(HOSTILE,),
    )
