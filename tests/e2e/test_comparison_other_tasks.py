"""Multiclass and regression from a table to a comparison, recomputed by scikit-learn from the lake's files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_diabetes, load_wine
from tests.system import ROOT, System, wait_for

SHADOW = str(Path(sys.executable).with_name("shadow"))
TABLES = {"multiclass": load_wine, "regression": load_diabetes}
CLOSE = {"rel": 1e-9, "abs": 1e-9}

pytestmark = pytest.mark.slow


def compare(data: Path) -> dict:
    command = [SHADOW, "compare", "--data-dir", str(data), "--exact", "--format", "json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


def recorded(data: Path) -> dict[str, list]:
    files = json.loads((data / "lake" / "manifest.json").read_bytes())["files"]
    connection = duckdb.connect()
    for table in ("events", "results", "outcomes"):
        paths = [str(data / "lake" / file["path"]) for file in files[table]]
        connection.read_parquet(paths, union_by_name=True).create_view(table)
    found = connection.sql("""
        SELECT e.scores AS champion, r.scores AS challenger, r.outputs, o.label
        FROM events e JOIN results r USING (segment, row) JOIN outcomes o USING (request_id)
    """)
    return found.to_arrow_table().to_pydict()


@pytest.mark.parametrize("task", TABLES)
def test_a_users_table_is_compared_by_the_figures_of_its_task(tmp_path: Path, task: str):
    bunch = TABLES[task]()
    classes = getattr(bunch, "target_names", None)
    targets = [str(classes[t]) for t in bunch.target] if task == "multiclass" else bunch.target.tolist()
    file, data = tmp_path / "table.csv", tmp_path / "data"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(
            [
                [*bunch.feature_names, "outcome"],
                *([*row, target] for row, target in zip(bunch.data.tolist(), targets, strict=True)),
            ]
        )
    described = ["--data", str(file), "--target", "outcome"]
    train = [sys.executable, str(ROOT / "scripts" / "train_model.py"), *described, "--name", "mine"]
    environment = os.environ | {"DATA_DIR": str(data)}
    subprocess.run([*train, "--output", str(tmp_path)], env=environment, check=True, capture_output=True, timeout=300)
    with System(data, environment={"DEPLOYMENT_FILE": str(tmp_path / "shadow.yaml")}).running() as system:
        sending = [SHADOW, "traffic", "--url", system.url, *described, "--rate", "200", "--label-delay", "0.2"]
        subprocess.run(sending, check=True, capture_output=True, timeout=300)
        wait_for(lambda: compare(data)["labelled"] == len(targets), "not every row became a labelled pair", 120)
        found = compare(data)
    rows = recorded(data)
    assert len(rows["label"]) == len(targets)
    for side, name in ((found["champion"], "champion"), (found["challengers"][0], "challenger")):
        scores = np.array(rows[name])
        (regression if task == "regression" else multiclass)(side, scores, rows)


def multiclass(side: dict, scores: np.ndarray, rows: dict[str, list]) -> None:
    truth, names = rows["label"], rows["outputs"][0]
    assert names == sorted(names)
    area = metrics.roc_auc_score(truth, scores, multi_class="ovr", average="macro", labels=names)
    assert side["accuracy"] == pytest.approx(np.mean(np.array(names)[scores.argmax(axis=1)] == truth), **CLOSE)
    assert side["log_loss"] == pytest.approx(metrics.log_loss(truth, scores, labels=names), **CLOSE)
    assert side["brier"] == pytest.approx(metrics.brier_score_loss(truth, scores, labels=names), **CLOSE)
    assert side["auc"] == pytest.approx(area, **CLOSE)


def regression(side: dict, scores: np.ndarray, rows: dict[str, list]) -> None:
    truth, values = np.array(rows["label"], dtype=np.float64), scores[:, 0]
    assert side["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, values), **CLOSE)
    assert side["mae"] == pytest.approx(metrics.mean_absolute_error(truth, values), **CLOSE)
    assert side["r2"] == pytest.approx(metrics.r2_score(truth, values), **CLOSE)
    assert side["auc"] is None
