"""``shadow drift report``: archived traffic against the reference of the version that answered it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.lakerows import SECOND_US, START_US, Rows, schema

from shadow_mlops.cli import main
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard, Serving
from shadow_mlops.models.reference import SCORE, ReferenceProfile, write_reference_profile
from shadow_mlops.statistics.bins import category_bins, quantile_bins
from shadow_mlops.statistics.profiles import profile_of

RNG = np.random.default_rng(11)
START = datetime.fromtimestamp(START_US / 1e6, UTC)


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose champion ``champion-1`` has reference rows: a normal, s half x half y, scores even."""
    for name in ("DRIFT_PSI_THRESHOLD", "DEPLOYMENT_FILE", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    serve(data, "1", "champion-1")
    return data


def serve(data: Path, number: str, version: str) -> None:
    directory = data / "models" / "m" / number
    directory.mkdir(parents=True)
    card = ModelCard(
        name="m",
        version=version,
        registry_version=number,
        task="binary",
        runtime="onnx",
        file="model.onnx",
        sha256="0",
        signature=Signature((Feature("a"), Feature("s", "string"))),
        classes=("0", "1"),
    )
    (directory / "card.json").write_bytes(msgspec.json.encode(card))
    columns = {
        "a": RNG.standard_normal(5000),
        "s": np.array(["x", "y"] * 2500, dtype=object),
        SCORE: RNG.random(5000),
    }
    bins = {name: category_bins(v) if name == "s" else quantile_bins(v, 10) for name, v in columns.items()}
    profile = profile_of(bins, columns)
    write_reference_profile(directory, ReferenceProfile("m", version, "5,000 rows", bins, profile))
    serving = Serving(generation=1, published_at="2026-01-01T00:00:00Z", champion=f"models/m/{number}")
    (data / "serving.json").write_bytes(msgspec.json.encode(serving))


def answered(data: Path, *parts: tuple[int, float], every: int = 1, **of: object) -> None:
    """Archive so many events per part with ``a`` shifted, one each ``every`` seconds."""
    rows = Rows()
    count = sum(rows_of for rows_of, _ in parts)
    rows.answer(RNG.random(count), schema(**of) if of else None)
    shifts = np.repeat([shift for _, shift in parts], [rows_of for rows_of, _ in parts])
    for number, (event, shift) in enumerate(zip(rows.events, shifts, strict=True)):
        event["n_a"], event["s_s"] = float(RNG.standard_normal() + shift), "xy"[number % 2]
        event["time"] = START_US + number * every * SECOND_US
    rows.write(data / "lake")


@pytest.fixture
def report(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["shadow", "drift", "report", "--data-dir", str(data), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


def test_traffic_like_the_reference_is_no_alert(data: Path, report):
    answered(data, (3000, 0.0))
    ended = report("--format", "json")
    found = ended.json
    assert (ended.code, ended.err) == (0, "")
    assert (found["verdict"], found["reference_rows"], found["current_rows"]) == ("none", 5000, 3000)
    assert {feature["name"] for feature in found["features"]} == {"a", "s", SCORE}
    assert found["reference"] == "m champion-1: 5,000 rows"
    assert found["current"].startswith("traffic that m champion-1 answered, 2026-")


def test_traffic_that_moved_is_exit_code_1_and_the_time_line_says_when(data: Path, report):
    answered(data, (3000, 0.0), (3000, 2.0), every=6)
    ended = report("--format", "json")
    assert ended.code == 1
    moments = ended.json["timeline"]
    assert sum(moment["rows"] for moment in moments) == 6000
    change = (START + timedelta(hours=5)).isoformat().replace("+00:00", "Z")
    before = [moment for moment in moments if moment["until"] < change]
    after = [moment for moment in moments if moment["since"] > change]
    assert len(before) + len(after) == len(moments) - 1 == 10
    assert all(moment["psi"]["a"] < 0.2 and moment["verdict"] == "none" for moment in before)
    assert all(moment["psi"]["a"] > 1 and moment["verdict"] == "retrain" for moment in after)
    assert all(moment["psi"]["s"] < 0.2 for moment in moments)


def test_a_span_can_be_chosen(data: Path, report):
    answered(data, (3000, 0.0), (3000, 2.0))
    middle = (START + timedelta(seconds=3000)).isoformat()
    before = report("--until", middle, "--format", "json")
    assert (before.code, before.json["current_rows"]) == (0, 3000)
    after = report("--since", middle, "--format", "json")
    assert (after.code, after.json["current_rows"]) == (1, 3000)


def test_the_page_is_written_where_it_is_looked_for(data: Path, report):
    answered(data, (3000, 0.0), (3000, 2.0))
    ended = report()
    assert ended.code == 1
    assert ended.out.endswith("html report: reports/drift.html\n")
    page = Path("reports/drift.html").read_text()
    assert "Over time" in page
    assert SCORE in page
    assert report("--output", "elsewhere.html").code == 1
    assert Path("elsewhere.html").read_text().startswith("<!doctype html>")


def test_rows_that_another_version_answered_are_left_out(data: Path, report):
    answered(data, (1000, 3.0), registry_version="7", version="other")
    ended = report()
    assert ended.code == 2
    assert "m champion-1 answered nothing in this span, other versions 1,000 events" in ended.err


def test_a_new_value_is_told_by_name(data: Path, report):
    rows = Rows()
    rows.answer(RNG.random(3000))
    for number, event in enumerate(rows.events):
        event["n_a"], event["s_s"] = float(RNG.standard_normal()), "z" if number < 50 else "xy"[number % 2]
    rows.write(data / "lake")
    (finding,) = [f for f in report("--format", "json").json["findings"] if f["kind"] == "new_category"]
    assert finding["feature"] == "s"
    assert finding["values"] == [{"value": "z", "rows": 50}]


def test_the_score_is_that_of_the_last_class_whichever_is_positive(data: Path, report):
    rows = Rows()
    rows.answer(np.column_stack([np.full(2000, 0.9), np.full(2000, 0.1)]), schema(positive="0"))
    rows.write(data / "lake")
    (score,) = [f for f in report("--format", "json").json["features"] if f["name"] == SCORE]
    (full,) = [each for each in score["bins"] if each["current"]]
    assert full["low"] is None or full["low"] < 0.1
    assert full["high"] < 0.25


def test_thresholds_and_features_left_out_are_those_of_the_deployment_file(data: Path, report):
    answered(data, (3000, 0.4))
    Path("shadow.yaml").write_text("name: m\ndrift: {psi: 0.05}\nfeatures: {s: {drift: {check: false}}}\n")
    found = report("--format", "json").json
    assert {feature["name"] for feature in found["features"]} == {"a", SCORE}
    assert {score["threshold"] for score in found["scores"] if score["method"] == "psi"} == {0.05}
    assert report("--psi-threshold", "9", "--ks-threshold", "1", "--js-threshold", "1", "--format", "text").code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing is archived yet: `shadow up` runs the monitor that archives"),
        (["--since", "yesterday"], "--since takes a time such as"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "--since must be before --until"),
        (["--output", "absent/report.html"], "there is no directory absent; make it first"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_exit_code_2(report, arguments: list[str], complaint: str):
    ended = report(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"shadow: [^\n]+\n", ended.err)
    assert complaint in ended.err


def test_an_empty_span_says_so(data: Path, report):
    answered(data, (10, 0.0))
    ended = report("--since", "2100-01-01")
    assert ended.code == 2
    assert "no event is recorded in this span" in ended.err


def test_a_version_without_reference_says_what_to_do(data: Path, report):
    answered(data, (1000, 0.0))
    (data / "models" / "m" / "1" / "reference.json").unlink()
    ended = report()
    assert ended.code == 2
    assert "shadow drift baseline --from FILE" in ended.err


def test_a_damaged_lake_is_no_drift(data: Path, report):
    answered(data, (1000, 0.0))
    for path in (data / "lake").rglob("*.parquet"):
        path.write_bytes(b"damaged")
    ended = report()
    assert ended.code == 2
    assert "cannot be read" in ended.err


def test_nothing_served_says_what_to_do(data: Path, report):
    (data / "serving.json").unlink()
    ended = report()
    assert ended.code == 2
    assert "start with `shadow up`" in ended.err


def test_nothing_is_left_in_the_temporary_folder(data: Path, report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gc
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    answered(data, (1000, 0.0))
    assert report("--format", "text").code == 0
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
