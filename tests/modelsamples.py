"""Small models, really fitted, shared by the tests of the model room."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.models.registration import register
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.rows import Rows, table_rows

SIGNATURE = Signature(
    (
        Feature("tenure", "integer"),
        Feature("gender", "string"),
        Feature("charges"),
        Feature("partner", "boolean"),
        Feature("segment", "string"),
        Feature("numbers"),  # named like an input of our graphs
    )
)
NUMBERS = list(SIGNATURE.numbers)
STRINGS = list(SIGNATURE.strings)


@cache
def frame(rows: int = 600, seed: int = 7) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "tenure": rng.integers(0, 72, rows).astype(float),
            "gender": rng.choice(["female", "male", ""], rows, p=[0.45, 0.45, 0.1]).astype(object),
            "charges": np.round(rng.normal(70, 30, rows), 2),
            "partner": rng.integers(0, 2, rows).astype(float),
            "segment": rng.choice(["premium", "standard", "basic"], rows).astype(object),
            "numbers": rng.normal(0, 1, rows),
        }
    )
    table.loc[rng.random(rows) < 0.1, "charges"] = np.nan
    table.loc[rng.random(rows) < 0.05, "numbers"] = np.nan
    return table


def labels(kind: str) -> np.ndarray:
    table = frame()
    score = table.tenure / 30 - table.charges.fillna(60) / 50 + (table.segment == "premium") + table.numbers.fillna(0)
    if kind == "binary":
        return (score > 0.3).astype(int).to_numpy()
    if kind == "multiclass":
        return np.array(["high", "low", "middle"])[np.digitize(score, [-0.3, 0.8])]
    return (1000 * score).to_numpy()


def _encoded(numbers: object, strings: object) -> ColumnTransformer:
    return ColumnTransformer([("numbers", numbers, NUMBERS), ("strings", strings, STRINGS)])


def linear_steps() -> ColumnTransformer:
    filled = Pipeline([("fill", SimpleImputer(strategy="median", add_indicator=True)), ("scale", StandardScaler())])
    return _encoded(filled, OneHotEncoder(handle_unknown="ignore", sparse_output=False))


def tree_steps() -> ColumnTransformer:
    return _encoded("passthrough", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1))


@cache
def estimator(kind: str, task: str = "binary") -> Pipeline:
    regression = task == "regression"
    if kind == "linear":
        model = Ridge() if regression else LogisticRegression(max_iter=1000)
        steps = linear_steps()
    elif kind == "boosting":
        model = (HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier)(
            max_iter=40, random_state=1
        )
        steps = tree_steps()
    elif kind == "xgboost":
        from xgboost import XGBClassifier, XGBRegressor

        model = (XGBRegressor if regression else XGBClassifier)(n_estimators=40, max_depth=4, n_jobs=1)
        steps = tree_steps()
    else:
        from lightgbm import LGBMClassifier, LGBMRegressor

        model = (LGBMRegressor if regression else LGBMClassifier)(n_estimators=40, verbose=-1, n_jobs=1)
        steps = tree_steps()
    return Pipeline([("encode", steps), ("model", model)]).fit(frame(), labels(task))


def classes(task: str) -> tuple[str, ...]:
    return {"binary": ("0", "1"), "multiclass": ("high", "low", "middle"), "regression": ()}[task]


def reference() -> pa.Table:
    return pa.Table.from_pandas(frame(), preserve_index=False)


def rows() -> Rows:
    return table_rows(reference(), SIGNATURE)


def registry_in(folder: Path) -> Registry:
    return Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


def register_sample(registry: Registry, version: str, *, kind: str = "linear", task: str = "binary", **more: object):
    given = {
        "name": "churn",
        "estimator": estimator(kind, task),
        "signature": SIGNATURE,
        "task": task,
        "classes": classes(task),
        "metrics": {"accuracy": 0.9},
        "reference": reference(),
        "data_hash": "abc",
    }
    return register(registry, version=version, **{**given, **more})
