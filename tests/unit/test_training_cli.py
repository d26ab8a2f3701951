"""Training as it is called: what is registered, what is written, what is refused before anything is trained."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shadow_mlops.cli import train as cli
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import ConflictError, DeploymentError, SettingsError
from shadow_mlops.models.registry import Registry

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_model.py"


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    rng = np.random.default_rng(0)
    lines = ["customer,spend,plan/tier,visits,left"]
    for i in range(300):
        plan = ("gold", "tin", "")[i % 3]
        spend = rng.normal(50, 10)
        left = "Yes" if spend + 10 * (plan == "gold") + rng.normal(0, 5) > 55 else "No"
        lines.append(f"C{i},{'' if i % 9 == 0 else round(spend, 2)},{plan},{i % 5},{left}")
    path = tmp_path_factory.mktemp("data") / "messy.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(csv, tmp_path_factory):
    """A data folder with one first training; copied by the tests that go on from it."""
    home = tmp_path_factory.mktemp("home")
    run(home, csv)
    return home


@pytest.fixture
def home(trained, tmp_path):
    # The registry names its artefacts by absolute path: reading them is not what these tests do.
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


def run(home, csv, **options):
    wanted = {"name": "m", "output": home / "out", "target": "left", "entity": "customer"} | options
    cli.train(data=csv, data_dir=home / "data", task=None, positive=None, seed=1, rows=1000, **wanted)


def registry(home):
    return Registry(f"sqlite:///{home / 'data' / 'mlflow.db'}", home / "data" / "artifacts")


def versions(home, name="m"):
    return {version.human: set(version.aliases) for version in registry(home).versions(name)}


def test_a_new_name_gets_champion_challenger_and_deployment(home):
    assert versions(home) == {"1.0.0": {"champion"}, "1.1.0": {"challenger"}}
    deployment = load_deployment(home / "out" / "shadow.yaml")
    assert (deployment.name, deployment.task, deployment.positive) == ("m", "binary", "Yes")
    assert deployment.entity == "customer"
    assert {n: spec.default for n, spec in deployment.features.items()} == {"spend": None, "plan/tier": None}


def test_training_again_adds_a_challenger_and_leaves_champion_and_file_alone(home, csv, capsys):
    file = home / "out" / "shadow.yaml"
    file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.4"))
    run(home, csv)
    assert versions(home) == {"1.0.0": {"champion"}, "1.1.0": set(), "1.2.0": {"challenger"}}
    assert load_deployment(file).decision.threshold == 0.4
    said = capsys.readouterr().out
    assert "champion of m was left alone" in said
    assert "left as it is" in said


def test_overwrite_replaces_the_file(home, csv):
    file = home / "out" / "shadow.yaml"
    file.write_text("name: other\n")
    run(home, csv, overwrite=True, challenger_version="9.0.0-rc1")
    assert load_deployment(file).name == "m"
    assert versions(home)["9.0.0-rc1"] == {"challenger"}


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(cli, "_fit_and_register", lambda *_a, **_k: pytest.fail("trained"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"challenger_version": "1.0.0"}, ConflictError, "already"),
        ({"version": "2.0.0"}, ConflictError, "--challenger-version"),
        ({"name": "another"}, ConflictError, "deployment of 'm'"),
        ({"name": "no good"}, DeploymentError, "name"),
        ({"target": None}, SettingsError, "--target"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_what_cannot_be_registered_is_refused_before_training(home, csv, options, error, message):
    before = versions(home)
    with pytest.raises(error, match=message):
        run(home, csv, **options)
    assert versions(home) == before


def test_options_of_a_file_without_a_file_are_refused(home):
    with pytest.raises(SettingsError, match="give --data FILE"):
        run(home, None)


@pytest.mark.parametrize(
    ("taken", "following"),
    [
        ([], "1.0.0"),
        (["1.0.0"], "1.1.0"),
        (["1.9.0", "1.10.2", "latest"], "1.11.0"),
        (["3.0.0-beta", "2.1.0"], "3.1.0"),
    ],
)
def test_the_next_version_is_the_minor_after_the_highest(taken, following):
    assert cli._next_minor(taken) == following


def test_the_example_is_registered_once_and_completed_if_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "EXAMPLE_ROWS", 2000)
    store = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    cards = cli.train_example(store, tmp_path / "example").cards
    assert {alias: card.version for alias, card in cards.items()} == cli.EXAMPLE_VERSIONS
    assert all(card.runtime == "onnx" for card in cards.values())
    deployment = load_deployment(tmp_path / "example" / "shadow.yaml")
    assert (deployment.name, deployment.entity, deployment.positive) == ("churn", "customer_id", 1)
    given = {"tenure", "monthly_charges", "contract_type", "num_support_tickets"}
    assert all(
        isinstance(deployment.features[n].default, (int, float, str)) for n in deployment.features.keys() - given
    )
    assert len(deployment.features) == 25

    (tmp_path / "example" / "shadow.yaml").unlink()
    store.delete_alias("churn", "challenger")
    store.set_alias("churn", "champion", "2")  # promoted since
    assert cli.train_example(store, tmp_path / "example").cards == {}
    assert store.aliases("churn") == {"champion": "2", "challenger": "2"}
    assert (tmp_path / "example" / "shadow.yaml").is_file()


def test_the_script_answers_wrong_data_with_one_line_and_a_code(csv, tmp_path):
    arguments = [
        "--data",
        str(csv),
        "--target",
        "lef",
        "--name",
        "m",
        "--output",
        str(tmp_path),
        "--data-dir",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "no target column 'lef'; the columns are customer, spend" in last
    assert "Traceback" not in done.stderr
