"""A drift report in the summary of a CI run, and as lines that a CI system reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from driftreports import HOSTILE, moved, report
from shadow_mlops.cli.envlines import append_lines
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.drift.markdown import markdown


def test_the_verdict_comes_first_and_each_feature_has_a_row():
    text = markdown(report())
    lines = text.splitlines()
    assert lines[0].startswith("### Drift: retrain")
    (row,) = [line for line in lines if line.startswith("| tenure |")]
    assert "| 1.234 |" in row
    assert row.endswith("| yes |")
    assert "Nothing calls for retraining." not in text
    calm = msgspec.structs.replace(report(), verdict="none")
    assert markdown(calm).endswith("Nothing calls for retraining.\n")


def test_names_of_the_data_are_shown_as_text():
    feature, scores = moved(f"a|b{HOSTILE}*`")
    text = markdown(msgspec.structs.replace(report(), features=(feature,), scores=scores, reason=HOSTILE))
    assert "<script" not in text
    assert "\x1b" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| a\\|b")]
    assert row.count(" | ") == 5


def test_no_value_can_pass_for_another_line(tmp_path: Path):
    lines = tmp_path / "lines"
    append_lines(lines, {"drifted": True, "rows": 3, "nothing": None})
    for value in ("tenure\ndrifted=false", "tenure\r", "a\u2028b"):
        with pytest.raises(SettingsError, match="line break"):
            append_lines(lines, {"features": value})
    assert lines.read_text() == "drifted=true\nrows=3\nnothing=\n"
    with pytest.raises(SettingsError, match="cannot be written"):
        append_lines(tmp_path, {"rows": 3})
