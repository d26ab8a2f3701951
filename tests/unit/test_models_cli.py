from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import modelsamples as samples
from shadow_mlops.cli.models import app
from shadow_mlops.domain.errors import ModelNotFoundError
from shadow_mlops.models.preparation import prepare


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "shadow.yaml").write_text("name: churn\n")
    registry = samples.registry_in(folder)
    samples.register_sample(registry, "2.1.0", aliases=("champion",))
    samples.register_sample(registry, "3.0.0-beta", kind="boosting", aliases=("challenger",))
    return ["--deployment", str(folder / "shadow.yaml"), "--data-dir", str(folder)]


@pytest.fixture(autouse=True)
def _default_registry(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(*arguments):
    done = CliRunner().invoke(app, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_list_shows_versions_with_their_roles(options):
    listed = json.loads(run("list", "--format", "json", *options))
    assert [(each["version"], each["aliases"], each["metrics"]) for each in listed] == [
        ("2.1.0", ["champion"], {"accuracy": 0.9}),
        ("3.0.0-beta", ["challenger"], {"accuracy": 0.9}),
    ]
    text = run("list", *options)
    assert "3.0.0-beta" in text
    assert "accuracy 0.9" in text


def test_show_has_the_card_once_it_is_prepared(options):
    folder = options[-1]
    assert json.loads(run("show", "2.1.0", *options))["card"] is None
    from pathlib import Path

    registry = samples.registry_in(Path(folder))
    prepare(registry, registry.version("churn", "2.1.0"), data_dir=Path(folder))
    shown = json.loads(run("show", "2.1.0", *options))
    assert shown["card"]["runtime"] == "onnx"
    assert shown["aliases"] == ["champion"]
    assert shown["tags"]["data_hash"] == "abc"


def test_an_unknown_version_says_where_to_look(options):
    with pytest.raises(ModelNotFoundError, match="shadow models list"):
        run("show", "9", *options)
