"""The workflows have the shape that GitHub takes, and run nothing that whoever starts them has written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHECKS = {
    "shape": ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
    "safety": ["zizmor", "--offline", "--quiet"],
}
PLANTED = {
    "shape": ("timeout-minutes: 120", "timeout-minuets: 120"),
    "safety": ('promote "$VERSION"', 'promote "${{ inputs.threshold }}"'),
}


def check(which: str, *files: Path) -> subprocess.CompletedProcess[str]:
    program, *options = CHECKS[which]
    command = [str(Path(sys.executable).with_name(program)), *options, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("which", CHECKS)
def test_the_workflows_pass_and_a_planted_mistake_does_not(which: str, tmp_path: Path) -> None:
    done = check(which, *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr
    right, wrong = PLANTED[which]
    text = (ROOT / ".github" / "workflows" / "retrain.yml").read_text()
    assert right in text
    planted = tmp_path / ".github" / "workflows" / "retrain.yml"
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    assert check(which, planted).returncode != 0
