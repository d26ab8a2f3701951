"""Multiclass and regression on a user's own table: trained by the script, served by ``shadow up``, shadowed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from sklearn.datasets import load_diabetes, load_wine
from tests.system import ROOT, System, get, wait_for

TABLES = {"multiclass": load_wine, "regression": load_diabetes}


@pytest.mark.parametrize("task", TABLES)
def test_a_users_table_is_trained_served_and_shadowed(tmp_path: Path, task: str):
    bunch = TABLES[task]()
    names = [*bunch.feature_names, "outcome"]
    file, data = tmp_path / "table.csv", tmp_path / "data"
    classes = getattr(bunch, "target_names", None)
    targets = [str(classes[t]) for t in bunch.target] if task == "multiclass" else bunch.target.tolist()
    rows = [[*row, target] for row, target in zip(bunch.data.tolist(), targets, strict=True)]
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([names, *rows])
    script = [sys.executable, str(ROOT / "scripts" / "train_model.py"), "--data", str(file), "--target", "outcome"]
    subprocess.run(
        [*script, "--name", "mine", "--output", str(tmp_path)],
        env=os.environ | {"DATA_DIR": str(data)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=300,
    )
    body = dict(zip(names[:-1], rows[0][:-1], strict=True))
    with System(data, environment={"DEPLOYMENT_FILE": str(tmp_path / "shadow.yaml")}).running() as system:
        request = Request(f"{system.url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as response:
            answer = json.loads(response.read())
        if task == "multiclass":
            assert list(answer) == ["label", "probabilities", "confidence", "model_version", "request_id"]
            assert set(answer["probabilities"]) == {str(name) for name in classes}
            assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
            assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get) == targets[0]
        else:
            assert list(answer) == ["value", "model_version", "request_id"]
            assert 25 <= answer["value"] <= 350

        def shadowed() -> bool:
            models = json.loads(get(f"{system.url}/models")[1])
            return bool(models["challengers"]) and models["challengers"][0]["predictions"] == 1

        wait_for(shadowed, "the challenger did not score the row")
