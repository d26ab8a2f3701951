"""``shadow drift check``: which thresholds hold, what it refuses, and what hostile names can do to a terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from tests.driftreports import HOSTILE

from shadow_mlops.cli import main

RNG = np.random.default_rng(5)


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def score(self, feature: str, method: str = "psi") -> dict:
        (found,) = [s for s in self.json["scores"] if (s["feature"], s["method"]) == (feature, method)]
        return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DRIFT_PSI_THRESHOLD", "DEPLOYMENT_FILE", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(reference: str | dict, current: str | dict, *arguments: str) -> Ended:
        sides = [made(f"{name}.parquet", side) for name, side in (("reference", reference), ("current", current))]
        command = ["shadow", "drift", "check", "--reference", sides[0], "--current", sides[1], *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


def made(name: str, side: str | dict) -> str:
    if isinstance(side, str):
        return side
    pa.parquet.write_table(pa.table(side), name)
    return name


def moved(shift: float, **other: object) -> tuple[dict, dict]:
    """Two columns: ``a`` as far apart as asked, ``b`` not at all."""
    draw = RNG.standard_normal
    return {"a": draw(4000), "b": draw(4000), **other}, {"a": draw(4000) + shift, "b": draw(4000), **other}


def test_the_exit_code_is_1_for_drift_and_0_for_none(check):
    assert check(*moved(1.0)).code == 1
    assert check(*moved(0.0)).code == 0


def test_thresholds_come_from_the_command_line_then_the_file_then_the_environment(check, folder, monkeypatch):
    rows, form = moved(0.5), ("--format", "json")

    def threshold(*arguments: str) -> float:
        return check(*rows, *form, *arguments).score("a")["threshold"]

    assert threshold() == 0.3
    monkeypatch.setenv("DRIFT_PSI_THRESHOLD", "0.7")
    assert threshold() == 0.7
    (folder / "shadow.yaml").write_text("name: m\n")
    assert threshold() == 0.7
    (folder / "shadow.yaml").write_text("name: m\ndrift: {psi: 0.6, js: 0.4}\n")
    assert threshold() == 0.6
    assert threshold("--psi-threshold", "0.5") == 0.5
    other = folder / "other.yaml"
    other.write_text("name: m\nfeatures: {a: {drift: {psi: 0.9}}}\n")
    assert threshold("--deployment", str(other)) == 0.9
    assert threshold("--deployment", str(other), "--psi-threshold", "0.5") == 0.5


def test_the_deployment_file_says_what_is_left_out_and_how_many_bins(check, folder):
    (folder / "shadow.yaml").write_text(
        "name: m\nentity: who\nfeatures: {b: {drift: {check: false}}}\ndrift: {bins: 4}\n"
    )
    rows = moved(0.0, who=[f"id {i}" for i in range(4000)])
    found = check(*rows, "--format", "json").json
    assert [feature["name"] for feature in found["features"]] == ["a"]
    assert len(found["features"][0]["bins"]) == 4
    found = check(*rows, "--format", "json", "--bins", "7").json
    assert len(found["features"][0]["bins"]) == 7


def test_ks_and_js_have_thresholds_of_their_own(check):
    found = check(*moved(0.5), "--format", "json", "--ks-threshold", "0.01", "--js-threshold", "0.99")
    assert (found.score("a", "ks")["threshold"], found.score("a", "ks")["alert"]) == (0.01, True)
    assert (found.score("a", "js")["threshold"], found.score("a", "js")["alert"]) == (0.99, False)


@pytest.mark.parametrize("arguments", [["--features", "b,c"], ["--features", "b", "--features", "c"]])
def test_features_can_be_chosen(check, arguments: list[str]):
    found = check(*moved(1.0, c=["x"] * 4000), "--format", "json", *arguments)
    assert found.code == 0
    assert {feature["name"] for feature in found.json["features"]} == {"b", "c"}


def test_ks_is_exact_or_from_bins_as_asked(check):
    rows = moved(0.5)
    exact = check(*rows, "--exact-ks", "--format", "json").score("a", "ks")
    binned = check(*rows, "--binned-ks", "--format", "json").score("a", "ks")
    assert not exact["error_bound"]
    assert 0 < binned["error_bound"] < 0.05
    assert binned["score"] <= exact["score"] <= binned["score"] + binned["error_bound"]


def test_a_csv_and_a_glob_of_parquet_can_be_compared(check, folder):
    reference, current = moved(0.0)
    pa.csv.write_csv(pa.table(reference), folder / "reference.csv")
    (folder / "parts").mkdir()
    for i in range(4):
        pa.parquet.write_table(pa.table(current).slice(i * 1000, 1000), folder / "parts" / f"{i}.parquet")
    found = check("reference.csv", "parts/*.parquet", "--format", "json")
    assert (found.code, found.json["reference_rows"], found.json["current_rows"]) == (0, 4000, 4000)


def test_a_constant_column_is_handled_and_named(check):
    found = check(*moved(0.0, constant=[3.0] * 4000))
    assert found.code == 0
    assert "! constant: " in found.out


def bad_files(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "garbage.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    (folder / "garbage.csv").write_bytes(b"\xff\xfe\x00a,b\n\x00")
    (folder / "nothing.csv").write_bytes(b"")
    (folder / "header.csv").write_text("a,b\n")
    (folder / "notes.txt").write_text("dear diary")
    (folder / "other.csv").write_text("x,y\n1,2\n")
    (folder / "text.csv").write_text("a,b\nlow,1\nhigh,2\n")


@pytest.mark.parametrize(
    ("current", "arguments", "complaint"),
    [
        ("absent.parquet", [], "absent.parquet"),
        ("absent/*.parquet", [], r"absent/\*.parquet"),
        ("folder", [], "folder"),
        ("garbage.parquet", [], "garbage.parquet"),
        ("garbage.csv", [], "garbage.csv"),
        ("nothing.csv", [], "nothing.csv"),
        ("header.csv", [], "header.csv"),
        ("notes.txt", [], "notes.txt"),
        ("other.csv", [], "no column|no common column|in common"),
        ("text.csv", [], "'?a'?.*(text|string|VARCHAR)"),
        ("reference.parquet", ["--features", "aa"], "'?aa'?.*did you mean `?'?a'?"),
        ("reference.parquet", ["--psi-threshold", "a lot"], "--psi-threshold takes a number such as 0.2, not 'a lot'"),
        ("reference.parquet", ["--psi-threshold", "-0.2"], "--psi-threshold must be above 0 and at most 100"),
        ("reference.parquet", ["--psi-threshold", "nan"], "--psi-threshold takes a number"),
        ("reference.parquet", ["--js-threshold", "2"], "--js-threshold must be above 0 and at most 1"),
        ("reference.parquet", ["--deployment", "absent.yaml"], "absent.yaml: no such deployment file"),
        ("reference.parquet", ["--output", "notes.txt/report.json"], "there is no directory notes.txt"),
        ("reference.parquet", ["--output", "folder"], "folder is a directory"),
        ("reference.parquet", ["--output", "absent/report.json"], "there is no directory absent; make it first"),
        ("reference.parquet", ["--output", "/dev/full"], "/dev/full cannot be written: No space left"),
        ("mysql://nowhere/db#t", [], "mysql"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    check, folder: Path, current: str, arguments: list[str], complaint: str
):
    bad_files(folder)
    ended = check(moved(0.0)[0], current, *arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    assert re.fullmatch(r"shadow: [^\n]+\n", ended.err), ended.err
    assert re.search(complaint, ended.err), ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [["--format", "pdf"], ["--bins", "1"], ["--bins", "many"], ["--nonsense"]])
def test_usage_errors_are_exit_code_2(check, arguments: list[str]):
    ended = check(*moved(0.0), *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in ended.err


def test_a_defect_is_not_taken_for_drift(check, monkeypatch):
    import shadow_mlops.drift.detecting as engine

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(engine, "detect", broken)
    ended = check(*moved(0.0))
    assert ended.code == 2
    assert "ZeroDivisionError: a defect" in ended.err


def test_an_interrupted_check_is_not_taken_for_drift(check, monkeypatch):
    import shadow_mlops.drift.detecting as engine

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "detect", interrupted)
    assert check(*moved(0.0)).code == 130


@pytest.mark.parametrize("form", ["text", "html"])
def test_hostile_names_in_the_data_reach_no_terminal_and_no_browser(check, form: str):
    names = [f"value {HOSTILE}", f"other {HOSTILE}"]
    reference = {HOSTILE: RNG.standard_normal(2000), "c": [names[0]] * 2000}
    current = {HOSTILE: RNG.standard_normal(2000) + 2, "c": [names[i % 2] for i in range(2000)]}
    ended = check(reference, current, "--format", form)
    assert ended.code == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", ended.out)
    assert r"\x1b[31m\u202e" in ended.out.replace("\n", "").replace(" ", "")
    assert "<script" not in ended.out or form == "text"


def test_a_hostile_name_in_an_error_is_one_harmless_line(check):
    ended = check({HOSTILE: [1.0, 2.0]}, {HOSTILE: ["x", "y"]})
    assert ended.code == 2
    assert re.fullmatch(r"shadow: [^\n\x1b\u202e]+\n", ended.err), ended.err
