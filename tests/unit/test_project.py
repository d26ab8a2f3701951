"""The project's promises about itself: what is documented is what is there, and the other way round."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

import shadow_mlops
from shadow_mlops.processes.settings import Settings
from shadow_mlops.telemetry.metrics import Metrics, open_metrics

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
PROMISED_TARGETS = {
    "install", "install-dev", "run", "run-prod", "test", "test-cov", "test-fast", "quality", "pre-commit",
    "docker-build", "docker-run", "bench", "help", "drift-check", "drift-report",
}  # fmt: skip
INDEXES = {"https://pypi.org", "https://files.pythonhosted.org"}


def env_example() -> str:
    def text(default: object) -> str:
        return str(default).lower() if isinstance(default, bool) else str(default)

    lines = ["# Every setting with its default. Copy to .env, change what you need; empty means the default."]
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if hasattr(field.default, "get_secret_value") else field.default
        lines += ["", f"# {field.description}", f"{name.upper()}={text(default)}"]
    return "\n".join(lines) + "\n"


def test_env_example_lists_every_setting_with_its_default_and_description() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_env_example_copied_unchanged_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert Settings() == Settings(_env_file=None)


def metric_row(metric: Counter | Gauge | Histogram) -> str:
    (family,) = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "none"
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def metric_rows(metrics: Metrics) -> set[str]:
    found = (getattr(metrics, name) for name in Metrics.__dataclass_fields__)
    return {metric_row(metric) for metric in found if isinstance(metric, Counter | Gauge | Histogram)}


def test_every_metric_is_documented_and_no_other() -> None:
    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(metric_rows(open_metrics()))


def sample_names() -> set[str]:
    suffixes = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        name + suffix
        for row in metric_rows(open_metrics())
        for name, kind in [(row.split("`")[1], row.split("|")[2].strip())]
        for suffix in suffixes[kind]
    }


def test_dashboards_ask_only_for_metrics_that_exist() -> None:
    words = {
        "histogram_quantile",
        "sum",
        "rate",
        "increase",
        "max",
        "min",
        "avg",
        "by",
        "le",
        "and",
        "or",
        "vector",
    }
    for path in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        assert queries
        for query in queries:
            bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b(?:by|on)\s*\([^)]*\)', " ", query)
            names = set(re.findall(r"[a-z_]+", bare)) - words
            assert names, query
            assert names <= sample_names(), query


def declared_targets() -> dict[str, str]:
    return dict(re.findall(r"^([a-z-]+):[^\n]*?## ([^\n]+)", MAKEFILE, flags=re.MULTILINE))


def test_make_has_the_promised_targets_and_lists_every_one_of_them() -> None:
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, flags=re.MULTILINE))
    assert set(declared_targets()) == phony
    assert phony >= PROMISED_TARGETS
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target, text in declared_targets().items():
        assert re.search(rf"^  {target}\s+{re.escape(text)}$", listed, flags=re.MULTILINE), target


def test_documents_name_only_make_targets_that_exist() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= set(declared_targets()), document.name


def test_documents_link_only_to_files_that_exist() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if not link.startswith(("http://", "https://")):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_decision_ends_in_the_rule_that_enforces_it() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [path.name[:4] for path in decisions] == [f"{n:04d}" for n in range(1, len(decisions) + 1)]
    for path in decisions:
        sections = re.findall(r"^## (.+)$", path.read_text(), flags=re.MULTILINE)
        assert sections[-1] == "Enforced by", path.name
        enforced = path.read_text().split("## Enforced by")[1]
        named = re.findall(r"`((?:tests|src|docs)/[^`<]+|pyproject\.toml)`", enforced)
        assert named, path.name
        assert all((ROOT / name).exists() for name in named), path.name


@cache
def locked() -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        if "version" in package:
            versions.setdefault(package["name"], set()).add(package["version"])
    return versions


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_pin_what_the_lock_has(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "-e ."
    for line in lines[1:]:
        pinned = re.match(r"([\w.\-]+)(?:\[[^\]]*\])?==([^ ;]+)", line)
        assert pinned, line
        assert pinned[2] in locked()[pinned[1]], line


def test_the_lock_names_no_index_but_the_public_one() -> None:
    for name in ("uv.lock", "requirements.txt", "requirements-dev.txt"):
        hosts = set(re.findall(r"[a-z+]+://[^/\"\s]*", (ROOT / name).read_text()))
        assert hosts <= INDEXES, name


def test_the_lock_has_every_dependency_that_the_project_declares() -> None:
    project = PYPROJECT["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    groups = [line for group in PYPROJECT["dependency-groups"].values() for line in group if isinstance(line, str)]
    names = {re.match(r"[\w.\-]+", line)[0].lower() for line in [*project["dependencies"], *extras, *groups]}
    assert names <= set(locked())


def test_compose_has_the_promised_services_and_mounts_only_files_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(services) >= {"api", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


@pytest.mark.needs_promtool
def test_promtool_accepts_the_scrape_configuration() -> None:
    check = ["promtool", "check", "config", "monitoring/prometheus.yml"]
    outcome = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_changelog_has_the_version_that_the_package_says() -> None:
    assert re.search(
        rf"^## \[{re.escape(shadow_mlops.__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
