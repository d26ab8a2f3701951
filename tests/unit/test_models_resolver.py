"""The resolver, step by step, against a real SQLite registry whose aliases a plain MLflow client moves."""

from __future__ import annotations

import os
import time

import pytest
from mlflow import MlflowClient

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError, RegistryError
from shadow_mlops.domain.models import Serving
from shadow_mlops.models import resolver as resolving
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.registry import Registry
from shadow_mlops.models.resolver import Resolver
from shadow_mlops.models.serving import publish_serving, read_serving


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    registry = samples.registry_in(folder)
    samples.register_sample(registry, "2.1.0", kind="linear")
    samples.register_sample(registry, "3.0.0-beta", kind="boosting")
    samples.register_sample(registry, "3.1.0", kind="linear", task="multiclass")
    return folder


@pytest.fixture
def registry(home) -> Registry:
    return samples.registry_in(home)


@pytest.fixture
def flip(registry):
    client = MlflowClient(registry.tracking_uri)
    for alias in registry.aliases("churn"):
        client.delete_registered_model_alias("churn", alias)

    def move(**aliases):
        for alias, number in aliases.items():
            name = alias.replace("_", "-")
            if number is None:
                client.delete_registered_model_alias("churn", name)
            else:
                client.set_registered_model_alias("churn", name, str(number))

    return move


@pytest.fixture
def clock():
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def resolver(registry, tmp_path, clock):
    return Resolver(registry, name="churn", data_dir=tmp_path, clock=clock)


def roles(serving):
    return serving.champion, dict(serving.challengers)


V = {number: f"models/churn/{number}" for number in (1, 2, 3)}


def test_aliases_are_followed(resolver, flip, tmp_path):
    flip(champion=1, challenger=2, previous=3)
    first = resolver.step()
    assert roles(first) == (V[1], {"challenger": V[2]})
    assert first.generation == 1
    assert first.problems == ()
    assert read_serving(tmp_path / "serving.json") == first
    assert load_model(tmp_path / first.champion).card.version == "2.1.0"
    assert resolver.step() == first  # nothing has changed, nothing is written

    flip(challenger_trees=3)
    assert roles(resolver.step()) == (V[1], {"challenger": V[2], "challenger-trees": V[3]})
    flip(challenger=None)
    last = resolver.step()
    assert roles(last) == (V[1], {"challenger-trees": V[3]})
    assert last.generation == 3


def test_the_middle_of_a_swap_is_never_published(resolver, flip):
    flip(champion=1, challenger=2)
    resolver.step()
    flip(champion=2)
    assert roles(resolver.step()) == (V[1], {"challenger": V[2]})
    flip(challenger=1)
    assert roles(resolver.step()) == (V[2], {"challenger": V[1]})


def test_a_champion_that_stays_a_challenger_is_not_shadowed_by_itself(resolver, flip):
    flip(champion=1, challenger=2)
    resolver.step()
    flip(champion=2)
    resolver.step()
    after = resolver.step()
    assert roles(after) == (V[2], {})
    assert resolver.step() == after


def test_a_refused_champion_leaves_the_old_one(resolver, flip, monkeypatch, clock):
    flip(champion=1, challenger=2)
    resolver.step()
    attempts = []

    def refusing(directory):
        attempts.append(directory)
        raise ModelRefusedError("it answers its recorded rows otherwise")

    monkeypatch.setattr(resolving, "load_elsewhere", refusing)
    flip(champion=3)
    after = resolver.step()
    assert roles(after) == (V[1], {"challenger": V[2]})
    assert len(after.problems) == 1
    assert "version 3" in after.problems[0]
    assert "otherwise" in after.problems[0]
    assert resolver.problems == after.problems

    for _ in range(4):
        clock.now += 1
        resolver.step()
    assert len(attempts) == 1  # not each second
    clock.now += 1
    resolver.step()
    assert len(attempts) == 2
    clock.now += 9
    resolver.step()
    assert len(attempts) == 2  # and less often each time

    monkeypatch.undo()
    clock.now += 2
    healed = resolver.step()
    assert roles(healed) == (V[3], {"challenger": V[2]})
    assert healed.problems == ()


def test_pins_win_over_aliases(registry, flip, tmp_path):
    flip(champion=1, challenger=2)
    resolver = Resolver(registry, name="churn", data_dir=tmp_path, champion_pin="3.0.0-beta", challenger_pin="2.1.0")
    serving = resolver.step()
    assert roles(serving) == (V[2], {"challenger": V[1]})
    assert serving.pinned == ("champion", "challenger")

    absent = Resolver(registry, name="churn", data_dir=tmp_path, champion_pin="9")
    kept = absent.step()
    assert kept.champion == V[2]
    assert "pinned" in kept.problems[0]


def test_without_a_champion_nothing_is_published(resolver, flip, tmp_path):
    flip(challenger=2)
    assert resolver.step() is None
    assert "no alias 'champion'" in resolver.problems[0]
    assert read_serving(tmp_path / "serving.json") is None


def test_a_model_that_vanishes_from_the_registry_goes_on_serving(resolver, flip, monkeypatch, registry, tmp_path):
    flip(champion=1, challenger=2)
    before = resolver.step()
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(resolver, "_registry", samples.registry_in(tmp_path / "empty"))
    after = resolver.step()
    assert roles(after) == roles(before)
    assert "no model 'churn'" in after.problems[0]


def test_a_silent_registry_leaves_what_serves_also_across_a_restart(flip, resolver, tmp_path, registry):
    flip(champion=1, challenger=2)
    before = resolver.step()
    silent = Resolver(Registry("http://127.0.0.1:9", tmp_path), name="churn", data_dir=tmp_path)
    with pytest.raises(RegistryError):
        silent.step()
    assert silent.serving == before
    assert read_serving(tmp_path / "serving.json") == before
    again = Resolver(registry, name="churn", data_dir=tmp_path)
    assert again.step() == before  # same roles, same generation: no worker reloads


def test_a_damaged_serving_file_is_written_anew(resolver, flip, tmp_path, registry):
    flip(champion=1)
    resolver.step()
    (tmp_path / "serving.json").write_text("{")
    assert roles(Resolver(registry, name="churn", data_dir=tmp_path).step()) == (V[1], {})


def test_directories_that_served_long_ago_are_removed(resolver, flip, tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "_KEPT_DIRECTORIES", 1)
    flip(champion=1)
    resolver.step()
    flip(champion=2)
    resolver.step()
    long_ago = time.time() - 2 * 86400
    for number in (1, 2):
        os.utime(tmp_path / V[number], (long_ago, long_ago))
    flip(champion=3)
    resolver.step()
    assert not (tmp_path / V[1]).exists()
    assert (tmp_path / V[2]).exists()  # a worker may still be answering from it
    flip(champion=1)
    assert roles(resolver.step()) == (V[1], {})


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "serving.json"
    for generation in range(3):
        publish_serving(path, Serving(generation=generation, published_at="now", champion="models/churn/1"))
        assert read_serving(path).generation == generation
    assert [p.name for p in tmp_path.iterdir()] == ["serving.json"]
