"""The import contracts of pyproject.toml are complete, and each one fails on a violation planted for it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "shadow_mlops"
VIOLATIONS = Path(__file__).parent / "violations"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = {contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
PLANTED = sorted(path.relative_to(VIOLATIONS) for path in VIOLATIONS.rglob("*.py"))
SOFT_LIMIT = 400  # lines
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "prometheus-client": "prometheus_client",
    "mlflow-skinny": "mlflow",
    "scikit-learn": "sklearn",
    "protobuf": "google",
    "xgboost-cpu": "xgboost",
    "ibis-framework": "ibis",
}
PATH_OF_A_REQUEST = {
    "access",
    "eventlog",
    "features",
    "models",
    "deployment",
    "statistics",
    "telemetry",
    "domain",
}


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        "pyproject.toml",
        "--no-cache",
    ]
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "shadow_mlops", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_clean_copy_keeps_every_contract(copy: Path) -> None:
    outcome = lint(copy)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in outcome.stdout


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_planted_violation_breaks_its_contract(copy: Path, planted: Path) -> None:
    target = copy / "shadow_mlops" / Path(*planted.parts[1:])
    assert not target.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(VIOLATIONS / planted, target)
    outcome = lint(copy)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    contract = CONTRACTS[planted.parts[0]]
    assert f"{contract['name']} BROKEN" in outcome.stdout


def test_every_contract_has_a_planted_violation() -> None:
    assert {path.parts[0] for path in PLANTED} == set(CONTRACTS)


def forbidden_rooms(contract: str) -> set[str]:
    return {module.removeprefix("shadow_mlops.") for module in CONTRACTS[contract]["forbidden_modules"]}


def source_rooms(contract: str) -> set[str]:
    return {module.removeprefix("shadow_mlops.") for module in CONTRACTS[contract]["source_modules"]}


@cache
def layers() -> list[set[str]]:
    return [set(re.findall(r"\w+", layer)) for layer in CONTRACTS["layers"]["layers"]]


def test_every_room_is_held_to_the_web_and_settings_contracts() -> None:
    assert source_rooms("web") == ROOMS - {"gateway", "console"}
    assert source_rooms("settings") == ROOMS - {"cli", "processes"}


def test_the_gateway_contract_forbids_every_room_below_it_that_a_request_does_not_pass() -> None:
    level = next(i for i, rooms in enumerate(layers()) if "gateway" in rooms)
    below = set().union(*layers()[level + 1 :])
    assert forbidden_rooms("gateway") == (below & ROOMS) - PATH_OF_A_REQUEST


def test_the_domain_contract_forbids_every_declared_dependency_but_msgspec() -> None:
    project = PYPROJECT["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.match(r"[\w\-]+", line)[0].lower() for line in declared} - {"msgspec"}
    imports = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    assert imports <= set(CONTRACTS["domain"]["forbidden_modules"])


def test_the_domain_imports_nothing_but_msgspec_and_the_standard_library() -> None:
    imported = set()
    for path in (PACKAGE / "domain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names <= {"msgspec", "shadow_mlops"}


def test_no_module_is_called_after_nothing_in_particular() -> None:
    vague = {"utils", "util", "helpers", "common", "base", "core", "misc", "manager"}
    assert not [path for path in PACKAGE.rglob("*.py") if {path.stem, *path.relative_to(PACKAGE).parts} & vague]


def test_modules_stay_readable() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path: n for path, n in lines.items() if n > SOFT_LIMIT}
