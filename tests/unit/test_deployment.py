"""The deployment file: what is accepted, and how each mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from shadow_mlops.deployment import deployment_schema, load_deployment, parse_deployment
from shadow_mlops.domain.errors import DeploymentError

CONTRACT = """
name: churn
task: binary
positive: 1
entity: customer_id
features:
  tenure: {default: 12, drift: {psi: 0.2}}
  gender: {pii: keep}
unknown_fields: reject
decision: {threshold: 0.5, tiers: {LOW: 0.25, MEDIUM: 0.5, HIGH: 0.75, CRITICAL: 1.0}}
shadow: {sample: 1.0, timeout_ms: 1000, max_lag: 1000000}
log: {on_failure: answer, retain_days: 30, max_bytes: 10GiB}
lake: {retain_days: 400}
labels: {policy: first, max_delay: 90d, cohort: 1d}
drift: {psi: 0.3, ks: 0.1, js: 0.1, window: {hours: 24, min_rows: 500}, retrain_on: [psi]}
gate: {metric: log_loss, kind: superior, margin: null, alpha: 0.05, min_labels: 200, max_labels: 100000,
       min_days: 0, guardrails: [], auto_promote: false}
canary: {steps: [0.01, 0.1, 0.5], values_per_step: 2000}
retrain: {action: {command: [make, retrain]}, windows: 3, cool_down: 24h, daily_budget: 1}
feature_store: {kind: feast, path: feature_repo, timeout_ms: 20, on_failure: default}
"""


def test_the_documented_file_is_accepted_with_its_values():
    d = parse_deployment(CONTRACT)
    assert d.features["tenure"].default == 12
    assert d.features["tenure"].drift.thresholds == {"psi": 0.2}
    assert d.log.max_bytes == 10 * 2**30
    assert d.labels.max_delay == 90 * 86400
    assert d.retrain.cool_down == 86400
    assert d.feature_store is not None
    assert d.feature_store.timeout_ms == 20


def test_a_name_alone_gives_the_documented_defaults():
    written, default = parse_deployment(CONTRACT), parse_deployment("name: churn")
    for part in ("decision", "shadow", "log", "lake", "labels", "gate", "canary"):
        assert getattr(default, part) == getattr(written, part), part
    # the environment may say what the file does not
    assert default.drift.psi is None
    assert msgspec.structs.replace(default.drift, psi=0.3) == written.drift


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: churn\nshdow: {}\n", 2, ["shdow", "shadow"]),
        ("name: churn\nshadow:\n  sample: 1.0\n  timeout: 5\n", 4, ["timeout", "timeout_ms"]),
        ("name: churn\nfeatures:\n  tenure:\n    defualt: 1\n", 4, ["defualt", "default"]),
        ("name: churn\nshadow:\n  sample: 1.5\n", 3, ["shadow.sample", "<= 1"]),
        ("name: churn\nlog:\n  retain_days: 3\n  max_bytes: lots\n", 4, ["log.max_bytes", "10GiB"]),
        ("name: churn\nlabels: {max_delay: soon}\n", 2, ["labels.max_delay", "90d"]),
        ("name: churn\ntask: ranking\n", 2, ["task"]),
        ("name: churn\nname: other\n", 2, ["name", "twice"]),
        ("name: churn\ndecision:\n  tiers: {A: 0.5, B: 0.2, C: 1.0}\n", 3, ["tiers", "ascend"]),
        ("name: churn\nlake: {retain_days: 10}\n", 2, ["labels.max_delay"]),
        ("name: churn\nentity: id\nfeatures:\n  id: {}\n", 4, ["entity"]),
        ("name: churn\nfeatures:\n  a:\n    drift: {pis: 0.1}\n", 4, ["pis", "psi"]),
        ("name: churn\nfeatures:\n  b: {}\n  a:\n    drift: {ks: 1.5}\n", 5, ["features.a.drift.ks", "1.0"]),
        ("name: churn\nfeatures:\n  a:\n    drift: {check: false, psi: 0.2}\n", 4, ["a.drift", "check: false"]),
        ("name: churn\ndrift:\n  ks: 0.2\n  js: 0\n", 4, ["drift.js", "0.0"]),
        ("name: churn\ndrift:\n  psi: .inf\n", 3, ["drift.psi", "100"]),
        ("name: churn\ndrift:\n  retrain_on: [psi, mmd]\n", 3, ["drift.retrain_on", "mmd", "known: js, ks, psi"]),
        ("name: churn\ndrift:\n  window:\n    rows: 0\n", 4, ["drift.window.rows"]),
        ("name: churn\ndrift:\n  window:\n    rows: 100\n", 4, ["drift.window.rows", "min_rows"]),
        ("name: churn\ndrift:\n  window: {hours: 0}\n", 3, ["drift.window.hours"]),
        ("name: churn\ndrift:\n  window: {days: 1}\n", 3, ["days", "hours"]),
        ("name: churn\ndrift:\n  bins: 1\n", 3, ["drift.bins", "2"]),
        ("name: churn\ndrift:\n  level: 0.5\n", 3, ["drift.level", "0.2"]),
        ("name: churn\ndrift:\n  bucket: 2h\n", 3, ["drift.bucket", "1h"]),
        ("name: churn\ndrift:\n  bucket: 1 minute\n", 3, ["drift.bucket", "15m"]),
        ("name: churn\ndrift:\n  window: {hours: 0.1}\n  bucket: 15m\n", 4, ["drift.bucket", "window"]),
        ("name: churn\ndrift:\n  run_length: 1h\n", 3, ["drift.run_length", "100 buckets"]),
        ("name: churn\ndrift:\n  reference: weekly\n", 3, ["drift.reference", "weekly", "known: seasonal, version"]),
        ("name: churn\ndrift:\n  one_row_per_entity: true\n", 3, ["one_row_per_entity", "entity"]),
        ("name: [churn\n", 2, ["YAML"]),
        ("name: churn\ncanary: {steps: [0.5, 0.1]}\n", 2, ["ascend"]),
        (
            "name: churn\nretrain:\n  action:\n    command: [make]\n    webhook: http://h/x\n",
            5,
            ["command and webhook", "name one"],
        ),
        ("name: churn\nretrain:\n  action: {command: []}\n", 3, ["command", "empty"]),
        ("name: churn\nretrain:\n  action: {command: make}\n", 3, ["retrain.action.command"]),
        ("name: churn\nretrain:\n  action:\n    webhook: ftp://h/x\n", 4, ["webhook", "http"]),
        ("name: churn\nretrain:\n  action:\n    webhook: http://h:99999/x\n", 4, ["webhook", "http"]),
        ("name: churn\nretrain:\n  action:\n    github: https://github.com/a/b\n", 4, ["OWNER/REPO"]),
        ("name: churn\nretrain:\n  windows: 3\n  on: all\n", 4, ["retrain.on", "known: any, features, scores"]),
        ("name: churn\nretrain: {hysteresis: 1.5}\n", 2, ["retrain.hysteresis", "<= 1"]),
        ("name: churn\nretrain: {timeout: 0}\n", 2, ["retrain.timeout"]),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_do(text: str, line: int, words: list[str]):
    with pytest.raises(DeploymentError) as caught:
        parse_deployment(text, path="d.yaml")
    assert str(caught.value).startswith(f"d.yaml:{line}: "), str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_bare_word_is_a_key_also_where_yaml_takes_it_for_a_truth_value():
    found = parse_deployment("name: churn\nfeatures: {yes: {default: yes}}\nretrain: {on: scores}\n")
    assert found.retrain.on == "scores"
    assert found.features["yes"].default is True


@pytest.mark.parametrize("text", ["", "- a\n", "just text"])
def test_a_file_that_is_no_mapping_is_refused(text: str):
    with pytest.raises(DeploymentError, match="name: MODEL"):
        parse_deployment(text)


def test_an_absent_file_says_how_to_get_one(tmp_path: Path):
    with pytest.raises(DeploymentError, match="train_model"):
        load_deployment(tmp_path / "none.yaml")


def test_the_schema_is_json_and_knows_every_key():
    schema = json.loads(json.dumps(deployment_schema()))
    keys = schema["$defs"]["Deployment"]["properties"]
    assert set(yaml.safe_load(CONTRACT)) <= set(keys)
