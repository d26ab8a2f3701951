"""The drift check as it is promised: options, exit codes, and the JSON that scripts read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from shadow_mlops.cli.app import app
from shadow_mlops.cli.driftsample import draw_samples
from shadow_mlops.example import DRIFT_FEATURES

ROOT = Path(__file__).resolve().parents[1]
SCORE_KEYS = {"feature", "method", "score", "threshold", "p_value", "significant", "alert", "retrain", "severity"}


@pytest.fixture(scope="module")
def detect_drift():
    spec = importlib.util.spec_from_file_location("detect_drift", ROOT / "monitoring" / "detect_drift.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DRIFT_PSI_THRESHOLD", "DEPLOYMENT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reference, and current rows with and without drift."""
    made = tmp_path_factory.mktemp("rows")
    reference, drifted = map(pa.table, draw_samples())
    tables = {
        "reference": reference.slice(0, 2000),
        "steady": reference.slice(2000, 2000),
        "drifted": drifted.slice(0, 1000),
    }
    for name, table in tables.items():
        pa.parquet.write_table(table, made / f"{name}.parquet")
        pa.csv.write_csv(table, made / f"{name}.csv")
    return {path.name: path for path in made.iterdir()}


def read(out: str) -> dict:
    found = json.loads(out)
    assert found["verdict"] in {"none", "alert", "retrain"}
    assert all(score.keys() >= SCORE_KEYS for score in found["scores"])
    assert all(score["severity"] in {"none", "low", "moderate", "significant"} for score in found["scores"])
    return found


def alerting(found: dict) -> set[str]:
    return {score["feature"] for score in found["scores"] if score["alert"]}


def test_the_documented_command_finds_the_drift_of_its_sample():
    command = [sys.executable, "-m", "monitoring.detect_drift", "--psi-threshold", "0.2", "--generate-sample"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("Retrain: 4 of 25 features moved beyond a threshold: ")
    assert "PSI" in done.stdout


def test_json_has_the_keys_of_the_contract(detect_drift, capsys: pytest.CaptureFixture[str]):
    assert detect_drift(["--generate-sample", "--format", "json"]) == 1
    found = read(capsys.readouterr().out)
    assert (found["verdict"], found["reference_rows"], found["current_rows"]) == ("retrain", 10_000, 5_000)
    assert alerting(found) == set(DRIFT_FEATURES)
    assert {score["method"] for score in found["scores"]} == {"psi", "ks", "js"}


def test_a_sample_without_drift_is_no_alert(detect_drift, capsys: pytest.CaptureFixture[str]):
    assert detect_drift(["--generate-sample", "--drift-magnitude", "0", "--format", "json"]) == 0
    assert read(capsys.readouterr().out)["verdict"] == "none"


def test_the_features_that_drift_can_be_chosen(detect_drift, capsys: pytest.CaptureFixture[str]):
    arguments = ["--generate-sample", "--drift-features", "gender", "num_referrals", "--format", "json"]
    assert detect_drift([*arguments, "--drift-magnitude", "2"]) == 1
    assert alerting(read(capsys.readouterr().out)) == {"gender", "num_referrals"}


def test_thresholds_decide_what_alerts_and_what_calls_for_retraining(detect_drift, capsys: pytest.CaptureFixture[str]):
    sample = ["--generate-sample", "--format", "json"]
    assert detect_drift([*sample, "--psi-threshold", "100", "--ks-threshold", "1", "--js-threshold", "1"]) == 0
    found = read(capsys.readouterr().out)
    assert {score["threshold"] for score in found["scores"]} == {100, 1}
    assert any(score["significant"] for score in found["scores"])
    assert detect_drift([*sample, "--psi-threshold", "100"]) == 1
    found = read(capsys.readouterr().out)
    assert found["verdict"] == "alert"
    assert {score["method"] for score in found["scores"] if score["alert"]} == {"ks", "js"}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_are_compared(detect_drift, files: dict[str, Path], ending: str, capsys: pytest.CaptureFixture[str]):
    between = ["--format", "json", "--reference", str(files[f"reference.{ending}"]), "--current"]
    assert detect_drift([*between, str(files[f"steady.{ending}"])]) == 0
    assert read(capsys.readouterr().out)["current_rows"] == 2000
    assert detect_drift([*between, str(files[f"drifted.{ending}"])]) == 1
    assert alerting(read(capsys.readouterr().out)) == set(DRIFT_FEATURES)


def test_both_commands_print_the_same(detect_drift, files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    arguments = ["--reference", str(files["reference.csv"]), "--current", str(files["drifted.csv"]), "--format", "json"]
    detect_drift(arguments)
    one = json.loads(capsys.readouterr().out)
    done = CliRunner().invoke(app, ["drift", "check", *arguments])
    two = json.loads(done.output)
    assert done.exit_code == 1
    assert one.pop("created") <= two.pop("created")
    assert one == two


@pytest.mark.parametrize(
    ("form", "beginning"), [("text", "Retrain: 4 of 25"), ("json", "{"), ("html", "<!doctype html>")]
)
def test_a_report_goes_into_a_file(
    detect_drift, folder: Path, form: str, beginning: str, capsys: pytest.CaptureFixture[str]
):
    assert detect_drift(["--generate-sample", "--format", form, "--output", "drift.out"]) == 1
    assert (folder / "drift.out").read_text().startswith(beginning)
    out = capsys.readouterr().out
    assert out.startswith("Retrain: ")
    assert out.endswith(f"\n{form} report: drift.out\n")
    assert [path.name for path in folder.iterdir()] == ["drift.out"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name what to compare: --reference FILE --current FILE, or try --generate-sample"),
        (["--reference", "a.csv"], "name what to compare: --reference FILE --current FILE"),
        (["--generate-sample", "--current", "a.csv"], "--generate-sample or --reference and --current, not both"),
        (["--reference", "a", "--current", "b", "--drift-magnitude", "1"], "shape the sample: add --generate-sample"),
        (["--generate-sample", "--drift-features", "tenur"], "no feature 'tenur'; did you mean 'tenure'?"),
        (["--generate-sample", "--drift-features", "zzz"], "no feature 'zzz'; the features are tenure, "),
        (["--generate-sample", "--drift-magnitude", "-1"], "--drift-magnitude must be at least 0, not -1"),
        (["--generate-sample", "--drift-magnitude", "inf"], "--drift-magnitude takes a number such as 0.2, not 'inf'"),
        (["--generate-sample", "--psi-threshold", "high"], "--psi-threshold takes a number such as 0.2, not 'high'"),
        (["--generate-sample", "--ks-threshold", "1.5"], "--ks-threshold must be above 0 and at most 1, not 1.5"),
        (["--generate-sample", "--js-threshold", "0"], "--js-threshold must be above 0 and at most 1, not 0"),
        (["--generate-sample", "--output", "no/such/file"], "there is no directory no/such; make it first"),
        (["--generate-sample", "--output", "."], "is a directory; name a file in it"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    detect_drift, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
):
    assert detect_drift(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("detect_drift: ")
    assert complaint in captured.err


@pytest.mark.parametrize("arguments", [["--format", "pdf"], ["--no-such-option"], ["--drift-features"]])
def test_usage_errors_are_exit_code_2(detect_drift, arguments: list[str]):
    with pytest.raises(SystemExit) as ended:
        detect_drift(arguments)
    assert ended.value.code == 2
