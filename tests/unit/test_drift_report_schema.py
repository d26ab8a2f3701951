"""The published JSON Schema of a drift report: it is current, and what is printed follows it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from tests.driftreports import hostile, report

from shadow_mlops.drift.report import decode_report, encode_report, report_schema

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "drift-report.schema.json"


def test_the_published_schema_is_current():
    current = json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"
    assert PUBLISHED.read_text(encoding="utf-8") == current, f"write this to {PUBLISHED.name}:\n{current}"


@pytest.mark.parametrize("made", [report, hostile, lambda: report(moments=3)], ids=["plain", "hostile", "timeline"])
def test_a_report_follows_the_schema_and_comes_back_as_it_was(made):
    text = encode_report(made())
    jsonschema_rs.validate(json.loads(PUBLISHED.read_text()), json.loads(text))
    assert decode_report(text) == made()


@pytest.mark.parametrize(
    ("key", "value"), [("verdict", "maybe"), ("scores", [{"feature": "x"}]), ("current_rows", "many"), ("reason", None)]
)
def test_the_schema_refuses_what_is_no_report(key: str, value: object):
    wrong = json.loads(encode_report(report())) | {key: value}
    assert not jsonschema_rs.is_valid(json.loads(PUBLISHED.read_text()), wrong)
