"""Alert rules: what each fires on and what not, by promtool; and that they ask for metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.unit.test_project import sample_names

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring" / "rules"
_WORDS = {"time", "increase", "rate", "sum", "by", "on", "and", "or", "version", "result"}


@pytest.mark.needs_promtool
@pytest.mark.parametrize("path", sorted((RULES / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_rules_fire_when_they_should(path):
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules():
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def test_rules_ask_only_for_metrics_that_exist():
    for rule in rules():
        bare = re.sub(r'\{[^}]*\}|"[^"]*"', " ", rule["expr"])
        names = set(re.findall(r"[a-z][a-z_]+", re.sub(r"\[\d+[smhd]\]", " ", bare))) - _WORDS
        assert names, rule["expr"]
        assert names <= sample_names(), rule["expr"]


def test_every_rule_is_tested():
    tested = {
        case["alertname"]
        for path in (RULES / "tests").glob("*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert {rule["alert"] for rule in rules()} == tested


def test_prometheus_of_the_compose_file_has_the_rules():
    scraping = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    assert scraping["rule_files"] == ["rules/*.yml"]
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["volumes"]
    assert "./monitoring/rules:/etc/prometheus/rules:ro" in volumes
