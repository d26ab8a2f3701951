"""Every command of the retraining workflow, run as GitHub would run it: from recorded traffic to a promotion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from system import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "retrain.yml").read_text())
MAKE = r'make( --silent)? [a-z-]+( OUTPUT="\$\{GITHUB_OUTPUT:-\}")?'
PRODUCT = r'\.venv/bin/shadow( [a-z-]+| "\$[A-Z]+")+'
SUMMARY = r' \| tee -a "\$\{GITHUB_STEP_SUMMARY:-/dev/null\}"'
COMMAND = re.compile(f"({MAKE}|{PRODUCT})({SUMMARY})?")


@dataclass
class Run:
    """What expressions of the workflow can ask of a run."""

    inputs: Mapping[str, Any]
    variables: Mapping[str, str]
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    """Of the job before."""

    def step(self, name: str, output: str) -> str:
        return self.steps.get(name, {}).get(output, "")


EXPRESSIONS: dict[str, Callable[[Run], Any]] = {
    "vars.DATA_DIR": lambda run: run.variables.get("DATA_DIR", ""),
    "vars.DATA_DIR == ''": lambda run: not run.variables.get("DATA_DIR"),
    "vars.DATA_DIR == '' && steps.evaluate.outputs.decision == 'promote'": lambda run: (
        not run.variables.get("DATA_DIR") and run.step("evaluate", "decision") == "promote"
    ),
    "vars.DEPLOYMENT_FILE || '.shadow/example/shadow.yaml'": lambda run: (
        run.variables.get("DEPLOYMENT_FILE") or ".shadow/example/shadow.yaml"
    ),
    "secrets.MLFLOW_TRACKING_URI || vars.MLFLOW_TRACKING_URI": lambda _: "",
    "vars.RETRAIN_SINCE || '7d'": lambda run: run.variables.get("RETRAIN_SINCE") or "7d",
    "vars.RETRAIN_REPLAY || '25%'": lambda run: run.variables.get("RETRAIN_REPLAY") or "25%",
    "inputs.threshold": lambda run: run.inputs["threshold"],
    "steps.check.outputs.drifted == 'true' || inputs.force || github.event_name == 'repository_dispatch'": lambda run: (
        run.step("check", "drifted") == "true" or run.inputs["force"]
    ),
    "steps.train.outcome == 'success'": lambda run: run.outcomes.get("train") == "success",
    "steps.evaluate.outputs.version": lambda run: run.step("evaluate", "version"),
    "steps.evaluate.outputs.decision": lambda run: run.step("evaluate", "decision"),
    "inputs.promote && needs.retrain.outputs.decision == 'promote'": lambda run: (
        run.inputs["promote"] and run.outputs["decision"] == "promote"
    ),
    "needs.retrain.outputs.version": lambda run: run.outputs["version"],
    "github.run_id": lambda _: "4711",
}


def value_of(expression: str, run: Run) -> Any:
    if expression not in EXPRESSIONS:
        pytest.fail(f"the workflow has an expression that this test does not know: {expression}")
    return EXPRESSIONS[expression](run)


def text_of(text: object, run: Run) -> str:
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: str(value_of(found[1], run)), str(text))


class Runner:
    """A machine that checks out at one place, and runs the steps of a job one after the other."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.summary = folder / "summary.md"
        self.artifacts = folder / "artifacts"
        self._output = folder / "output"

    def job(self, name: str, run: Run) -> None:
        job = WORKFLOW["jobs"][name]
        shutil.rmtree(self.checkout, ignore_errors=True)
        run.steps, run.outcomes = {}, {}
        for step in job["steps"]:
            if "if" in step and not value_of(step["if"], run):
                continue
            if "uses" in step:
                self._uses(step)
                continue
            self._output.write_text("")
            env = {**WORKFLOW["env"], **job.get("env", {}), **step.get("env", {})}
            done = self.command(step["run"], {key: text_of(value, run) for key, value in env.items()})
            assert done.returncode == 0, f"{step['run']}: {done.stdout}{done.stderr}"
            if "id" in step:
                run.outcomes[step["id"]] = "success"
                lines = self._output.read_text().splitlines()
                run.steps[step["id"]] = dict(line.split("=", 1) for line in lines)
        run.outputs = {key: text_of(value, run) for key, value in job.get("outputs", {}).items()}

    def command(self, command: str, env: Mapping[str, str], *, github: bool = True) -> subprocess.CompletedProcess[str]:
        given = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if name in os.environ}
        if github:
            given |= {"CI": "true", "GITHUB_OUTPUT": str(self._output), "GITHUB_STEP_SUMMARY": str(self.summary)}
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]  # what `shell: bash` means there
        return subprocess.run(
            shell, cwd=self.checkout, env=given | env, capture_output=True, text=True, check=False, timeout=300
        )

    def _uses(self, step: Mapping[str, Any]) -> None:
        action, given = step["uses"].partition("@")[0], step.get("with", {})
        if action == "actions/checkout":
            _check_out(self.checkout)
        elif action == "actions/upload-artifact":
            paths = given["path"].split()
            root = Path(os.path.commonpath(paths))
            for path in paths:
                source, target = self.checkout / path, self.artifacts / given["name"] / Path(path).relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        elif action == "actions/download-artifact":
            shutil.copytree(self.artifacts / given["name"], self.checkout / given["path"])
        else:
            assert action == "actions/setup-python"


def _check_out(folder: Path) -> None:
    """The tree as it is, with what is not committed yet, and this environment as its .venv."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    if (ROOT / "feature_repo" / "data" / ".filled").exists():  # or make fills it, which takes a third of the time
        shutil.copytree(ROOT / "feature_repo" / "data", folder / "feature_repo" / "data", dirs_exist_ok=True)
    venv = folder / ".venv"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (venv / entry.name).symlink_to(entry)
    stamp = (
        'touch ".venv/.installed-$(cat pyproject.toml requirements.txt requirements-dev.txt | cksum | cut -d" " -f1)"'
    )
    subprocess.run(["sh", "-c", stamp], cwd=folder, check=True)


def test_commands_are_makes_or_the_products_and_actions_are_pinned() -> None:
    for job in WORKFLOW["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                assert COMMAND.fullmatch(step["run"].strip()), step["run"]
            else:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]


@pytest.mark.slow
def test_recorded_traffic_becomes_a_judged_version_and_then_the_champion(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    run = Run(inputs={"force": False, "threshold": "0.2", "environment": "staging", "promote": True}, variables={})
    runner.job("retrain", run)
    retrained = run.steps
    assert retrained["check"]["drifted"] == "true"
    trained = json.loads((runner.checkout / "reports" / "retraining" / "trained.json").read_text())
    version = trained["version"]
    # the example's own gate: the e-value was 3e4 where 20 are needed
    assert run.outputs == {"version": version, "decision": "promote"}
    summary = runner.summary.read_text()
    assert "### Drift: " in summary
    assert f"Version `{version}` against champion `2.1.0`" in summary
    assert f"{int(retrained['evaluate']['labelled']):,}, one for each entity" in summary
    figures = dict(re.findall(r"^\| (accuracy|log loss) \| [\d.]+ \| ([\d.]+) \|$", summary, re.MULTILINE))
    assert 0.7 < float(figures["accuracy"]) < 1
    # the rows that it was judged on are a quarter, and none of them was trained on
    assert 0.2 < trained["replayed"] / (trained["rows"] + trained["replayed"]) < 0.3

    laptop = {"DEPLOYMENT_FILE": ".shadow/example/shadow.yaml"}
    (evaluation,) = (step["run"] for step in WORKFLOW["jobs"]["retrain"]["steps"] if step.get("id") == "evaluate")
    by_hand = runner.command(evaluation, laptop, github=False)
    assert by_hand.returncode == 0, by_hand.stderr
    assert f"Version `{version}` against champion `2.1.0`" in by_hand.stdout

    assert not list((runner.artifacts / "registry").rglob("*token*"))
    assert value_of(WORKFLOW["jobs"]["promote"]["if"], run)
    runner.job("promote", run)
    assert f"promoted to {version} (before: 2.1.0)" in runner.summary.read_text()
    listed = runner.command(".venv/bin/shadow models list --format json", laptop, github=False)
    aliases = {each["version"]: each["aliases"] for each in json.loads(listed.stdout)}
    assert "champion" in aliases[version]
    assert "previous" in aliases["2.1.0"]
