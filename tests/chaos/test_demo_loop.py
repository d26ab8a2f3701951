"""The closed loop on live processes: one retraining, one promotion, whatever happens to the monitor meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from system import ROOT

pytestmark = pytest.mark.chaos

SHADOW = str(Path(sys.executable).with_name("shadow"))
SMALL = ["--rate", "400", "--before", "3000", "--after", "3000"]


def told(folder: Path, *arguments: str) -> dict:
    command = [SHADOW, "demo", "loop", "--folder", str(folder), "--format", "json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=folder.parent)
    assert done.returncode in {0, 1}
    return json.loads(done.stdout)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("--whole-demo")
    stored = ["--feature-repo", str(ROOT / "feature_repo")]
    runs = [[*stored], [*stored, "--kills", "10"]] if whole else [[*SMALL, "--kills", "6"]]
    metafunc.parametrize("arguments", runs, ids=[" ".join(each[2:]) or "nobody is killed" for each in runs])


def test_drift_ends_in_one_retraining_and_one_promotion_and_pays(tmp_path: Path, arguments: list[str]) -> None:
    found = told(tmp_path / "demo", *arguments)
    assert found["problems"] == []
    assert found["retrainings"] == ["done"]
    assert (found["promotions"], found["champion"]) == (1, "3.1.0")
    assert found["kills"] == found["plan"]["kills"]
    assert found["failed"] == 0
    happened = [mark["what"] for mark in found["timeline"]]
    order = ["drift began", "drift detected", "retraining triggered", "registered", "replayed", "shadowed"]
    assert [what for what in happened if what in order] == order
    assert happened.index("shadowed") < happened.index("canary") <= happened.index("promoted")
    accuracy = found["accuracy"]
    assert accuracy["after"] >= accuracy["before"] - 0.01
    assert accuracy["frozen"] <= accuracy["after"] - 0.04
    print(json.dumps(found["accuracy"]), [f"{mark['what']} {mark['seconds']:.0f} s" for mark in found["timeline"]])
