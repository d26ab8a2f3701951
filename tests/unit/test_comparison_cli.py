"""``shadow compare`` as a person and as a script see it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.lakerows import Rows, schema
from typer.testing import CliRunner

from shadow_mlops.cli.app import app
from shadow_mlops.domain.errors import LakeError, SettingsError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(data: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["compare", "--data-dir", str(data), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def pairs(data: Path, labels: list[str | None]) -> None:
    rows = Rows()
    rows.answer(np.linspace(0.1, 0.9, len(labels)))
    rows.shadow(np.linspace(0.9, 0.1, len(labels)), outcomes=labels)
    rows.write(data / "lake")


def test_json_has_the_shape_of_the_contract_and_null_for_what_is_undefined(data: Path):
    pairs(data, ["1", "1", None])
    found = json.loads(run(data, "--format", "json"))
    assert found["champion"].keys() >= {
        "version",
        "accuracy",
        "auc",
        "log_loss",
        "brier",
        "latency_p50_ms",
        "latency_p99_ms",
    }
    (challenger,) = found["challengers"]
    assert challenger.keys() >= found["champion"].keys() | {"name", "accounting"}
    assert challenger["accounting"].keys() >= {"sampled", "paired", "timed_out", "shed", "errored", "pending"}
    assert (found["pairs"], found["labelled"], challenger["auc"], found["champion"]["rmse"]) == (3, 2, None, None)
    assert isinstance(found["agreement"], float)


def test_a_table_shows_both_sides_and_the_conservation_line(data: Path):
    pairs(data, ["0", "0", "1", "1"])
    text = run(data)
    assert "challenger v2 against champion champion-1" in text
    assert "4 pairs, 4 labelled (100.0%)" in text
    assert "log loss" in text
    assert re.search(r"AUC +1\.0000 +0\.0000 +-1\.0000", text)
    assert "sampled 4 = paired 4 + timed out 0 + shed 0 + errored 0 + pending 0" in text
    assert "\x1b[" not in text


def test_the_bound_of_the_area_is_told_until_it_is_exact(data: Path):
    rows = Rows()
    rows.answer([0.1, 0.1])
    rows.shadow([0.5, 0.5], outcomes=["0", "1"])
    rows.write(data / "lake")
    assert "AUC from 65,536 bins, at most 5.0e-01 from the exact one (--exact sorts)" in run(data)
    assert "bins" not in run(data, "--exact")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([None, None], "no labels yet: post them to /outcomes, or `shadow outcomes import FILE`"),
        (["1", "1"], "AUC needs two classes among the labels; so far only one came true"),
    ],
)
def test_what_is_missing_is_said_in_words(data: Path, labels: list[str | None], words: str):
    pairs(data, labels)
    assert words in run(data)


def test_nothing_there_says_what_to_do(data: Path):
    assert "nothing is archived yet" in run(data)
    rows = Rows()
    rows.answer([0.5])
    rows.write(data / "lake")
    text = " ".join(run(data).split())
    assert "champion champion-1 has answered, but there are no pairs yet: set the alias `challenger`" in text
    assert "no pairs in this span" in run(data, "--since", "1h")


def test_a_version_that_looks_like_markup_is_printed_as_it_is(data: Path):
    rows = Rows()
    rows.answer([0.5], schema(version="[/red] :bug:"))
    rows.write(data / "lake")
    assert "champion [/red] :bug: has answered" in run(data)


def test_the_champion_against_itself_is_named_as_what_it_is(data: Path):
    rows = Rows()
    rows.answer([0.9, 0.1, 0.8])
    rows.shadow([0.9, 0.1, 0.79], version="champion-1", name="replay", replayed=True)
    rows.write(data / "lake")
    assert "A/A, the champion scored again: what differs here is noise" in run(data)
    assert "the champion scored again" in run(data, "--format", "html")


def test_an_account_that_does_not_add_up_is_shown(data: Path):
    pairs(data, [None])
    account = {"version": "v2", "sampled": 2, "paired": 1, "timed_out": 0, "shed": 0, "errored": 0, "pending": 0}
    (data / "run").mkdir()
    (data / "run" / "accounting.json").write_text(json.dumps({"challengers": {"challenger": account}}))
    assert "DOES NOT ADD UP: 1" in run(data)


def test_other_tasks_have_their_own_figures(data: Path):
    rows = Rows()
    rows.answer([1.0, 3.0], schema("regression", ["value"]))
    rows.shadow([1.5, 2.5], outcomes=["1", "2"])
    rows.write(data / "lake")
    text = run(data)
    assert "RMSE" in text
    assert "accuracy" not in text
    assert "same decision" not in text


def regression(data: Path, champion: list[float], challenger: list[float], labels: list[str]) -> None:
    rows = Rows()
    rows.answer(champion, schema("regression", ["value"]))
    rows.shadow(challenger, outcomes=labels)
    rows.write(data / "lake")


def test_an_absurd_label_makes_long_figures_and_no_wide_table(data: Path):
    regression(data, [1.0, 3.0], [1.5, 2.5], ["1", "1e200"])
    text = run(data)
    assert re.search(r"RMSE +7.0711e\+199 +7.0711e\+199 +\+0.0000", text)
    assert "inf" not in text


def test_errors_that_no_number_holds_are_said_in_words(data: Path):
    regression(data, [1.0, 1.7e308], [1.5, -1.7e308], ["1", "1.7e308"])
    text = run(data)
    assert "errors are larger than any number: look for labels and scores such as 1e308" in text
    assert "inf" not in text
    assert json.loads(run(data, "--format", "json"))["challengers"][0]["rmse"] is None


def test_a_narrow_terminal_loses_no_figure(data: Path, monkeypatch: pytest.MonkeyPatch):
    pairs(data, ["0", "1", "1", "0"])
    monkeypatch.setenv("COLUMNS", "44")
    text = run(data)
    assert max(map(len, text.splitlines())) <= 44
    assert "…" not in text


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--since", "1h", "--until", "2h")])
def test_wrong_times_are_refused(data: Path, arguments: tuple[str, ...]):
    with pytest.raises(SettingsError, match="--since"):
        run(data, *arguments)


def test_a_damaged_lake_is_an_error(data: Path):
    (data / "lake").mkdir()
    (data / "lake" / "manifest.json").write_text("{")
    with pytest.raises(LakeError, match="damaged"):
        run(data)
