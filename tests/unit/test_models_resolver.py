"""The resolver, step by step, against a real SQLite registry whose aliases a plain MLflow client moves."""

from __future__ import annotations

import os
import threading
import time

import pytest
from mlflow import MlflowClient

import modelsamples as samples
from shadow_mlops.domain.errors import ModelRefusedError, RegistryError
from shadow_mlops.domain.models import Serving
from shadow_mlops.models import resolver as resolving
from shadow_mlops.models import trials
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.promoted import Promoted, card_mark
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


def step_until(resolver, done):
    """What is published by the step after which it is so."""
    deadline = time.monotonic() + 120
    while True:
        serving = resolver.step()
        if done():
            return serving
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settle(resolver):
    """Step until nothing is being tried."""
    return step_until(resolver, lambda: not resolver.trying)


class Hanging:
    """Versions whose loading hangs until it is released."""

    def __init__(self, load):
        self.numbers = set()
        self.begun = []
        self.released = threading.Event()
        self._load = load

    def __call__(self, directory):
        self.begun.append(directory.name)
        if directory.name in self.numbers:
            self.released.wait(60)
        self._load(directory)


@pytest.fixture
def hanging(monkeypatch):
    hanging = Hanging(trials.load_elsewhere)
    monkeypatch.setattr(trials, "load_elsewhere", hanging)
    yield hanging
    hanging.released.set()


def roles(serving):
    return serving.champion, dict(serving.challengers)


V = {number: f"models/churn/{number}" for number in (1, 2, 3)}


def test_aliases_are_followed(resolver, flip, tmp_path):
    flip(champion=1, challenger=2, previous=3)
    first = settle(resolver)
    assert roles(first) == (V[1], {"challenger": V[2]})
    assert first.generation == 2  # the champion had one to itself
    assert first.problems == ()
    assert read_serving(tmp_path / "serving.json") == first
    assert load_model(tmp_path / first.champion).card.version == "2.1.0"
    assert resolver.step() == first  # nothing has changed, nothing is written

    flip(challenger_trees=3)
    assert roles(settle(resolver)) == (V[1], {"challenger": V[2], "challenger-trees": V[3]})
    flip(challenger=None)
    last = resolver.step()
    assert roles(last) == (V[1], {"challenger-trees": V[3]})
    assert last.generation == 4


def test_a_challenger_that_hangs_delays_no_switch_of_the_champion(resolver, flip, hanging):
    flip(champion=1, challenger=2)
    before = settle(resolver)
    hanging.numbers = {"3"}
    flip(challenger_trees=3)
    assert resolver.step() == before
    assert resolver.trying == ("3",)
    flip(champion=2, challenger=1)
    switched = resolver.step()
    assert roles(switched) == (V[2], {"challenger": V[1]})
    flip(champion=1, challenger=2)
    back = resolver.step()
    assert roles(back) == (V[1], {"challenger": V[2]})
    assert (switched.generation, back.generation) == (before.generation + 1, before.generation + 2)
    assert back.problems == ()
    hanging.released.set()
    assert roles(settle(resolver)) == (V[1], {"challenger": V[2], "challenger-trees": V[3]})


def test_a_champion_is_tried_and_published_beside_a_challenger_that_hangs(resolver, flip, hanging):
    flip(champion=1)
    settle(resolver)
    hanging.numbers = {"3"}
    flip(challenger=3)
    resolver.step()
    flip(champion=2)
    assert roles(step_until(resolver, lambda: "2" not in resolver.trying)) == (V[2], {})
    assert resolver.trying == ("3",)
    hanging.released.set()
    assert roles(settle(resolver)) == (V[2], {"challenger": V[3]})


def test_a_champion_that_hangs_keeps_no_other_from_its_place(resolver, flip, hanging):
    flip(champion=1, challenger=2)
    settle(resolver)
    hanging.numbers = {"3"}
    flip(champion=3)
    assert roles(resolver.step()) == (V[1], {"challenger": V[2]})
    flip(champion=2, challenger=1)
    assert roles(resolver.step()) == (V[2], {"challenger": V[1]})
    assert resolver.trying == ("3",)
    hanging.released.set()
    assert roles(settle(resolver)) == (V[2], {"challenger": V[1]})


def test_whoever_plays_a_role_stays_until_the_next_one_is_ready(resolver, flip, hanging):
    flip(champion=1, challenger=2)
    before = settle(resolver)
    hanging.numbers = {"3"}
    flip(challenger=3)
    assert resolver.step() == before
    hanging.released.set()
    assert roles(settle(resolver)) == (V[1], {"challenger": V[3]})


def test_the_first_champion_waits_for_nobody_and_challengers_are_prepared_one_by_one(resolver, flip, hanging):
    hanging.numbers = {"2"}
    flip(champion=1, challenger=2, challenger_trees=3)
    assert resolver.step() is None
    assert resolver.trying == ("1",)
    assert roles(step_until(resolver, lambda: resolver.serving)) == (V[1], {})
    assert resolver.trying == ("2",)
    hanging.released.set()
    assert roles(settle(resolver)) == (V[1], {"challenger": V[2], "challenger-trees": V[3]})
    assert hanging.begun == ["1", "2", "3"]


def test_what_the_resolver_before_has_published_goes_on_while_the_next_one_tries_it(resolver, flip, hanging, tmp_path):
    flip(champion=1, challenger=2)
    before = settle(resolver)
    hanging.numbers = {"1", "2"}
    again = Resolver(resolver._registry, name="churn", data_dir=tmp_path)
    assert again.step() == before
    flip(champion=2, challenger=1)
    assert roles(again.step()) == (V[2], {"challenger": V[1]})
    hanging.released.set()
    assert roles(settle(again)) == (V[2], {"challenger": V[1]})
    assert set(hanging.begun[2:]) == {"1", "2"}


def test_a_version_that_a_promotion_has_proved_waits_for_no_trial(resolver, flip, hanging, tmp_path):
    flip(champion=1, challenger=2)
    settle(resolver)
    hanging.numbers = {"3"}
    flip(challenger_trees=3)
    step_until(resolver, lambda: "3" in hanging.begun)  # it is prepared by then
    resolver.trust(Promoted(number="3", card=card_mark(tmp_path / V[3])))
    flip(challenger_trees=None, champion=3, challenger=1)
    assert roles(resolver.step()) == (V[3], {"challenger": V[1]})
    hanging._load = refusing
    hanging.released.set()
    assert roles(settle(resolver)) == (V[3], {"challenger": V[1]})
    assert resolver.problems == ()


def refusing(directory):
    raise ModelRefusedError(f"{directory} answers its recorded rows otherwise")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_version_on_which_the_platform_fails_is_told_and_tried_again(resolver, flip, monkeypatch, clock):
    flip(champion=1, challenger=2)
    settle(resolver)
    monkeypatch.setattr(trials, "prepare", lambda *_, **__: {}["a mistake of ours"])
    flip(champion=3)
    after = settle(resolver)
    assert roles(after) == (V[1], {"challenger": V[2]})
    assert "the platform failed on it" in after.problems[0]
    monkeypatch.undo()
    clock.now += 10
    assert roles(settle(resolver)) == (V[3], {"challenger": V[2]})


def test_the_middle_of_a_swap_is_never_published(resolver, flip):
    flip(champion=1, challenger=2)
    settle(resolver)
    flip(champion=2)
    assert roles(resolver.step()) == (V[1], {"challenger": V[2]})
    flip(challenger=1)
    assert roles(resolver.step()) == (V[2], {"challenger": V[1]})


def test_a_champion_that_stays_a_challenger_is_not_shadowed_by_itself(resolver, flip):
    flip(champion=1, challenger=2)
    settle(resolver)
    flip(champion=2)
    resolver.step()
    after = resolver.step()
    assert roles(after) == (V[2], {})
    assert resolver.step() == after


def test_a_refused_champion_leaves_the_old_one(resolver, flip, monkeypatch, clock):
    flip(champion=1, challenger=2)
    settle(resolver)
    attempts = []

    def refused(directory):
        attempts.append(directory)
        refusing(directory)

    monkeypatch.setattr(trials, "load_elsewhere", refused)
    flip(champion=3)
    after = settle(resolver)
    assert roles(after) == (V[1], {"challenger": V[2]})
    assert len(after.problems) == 1
    assert "version 3" in after.problems[0]
    assert "otherwise" in after.problems[0]
    assert resolver.problems == after.problems

    for _ in range(4):
        clock.now += 1
        settle(resolver)
    assert len(attempts) == 1  # not each second
    clock.now += 1
    settle(resolver)
    assert len(attempts) == 2
    clock.now += 9
    settle(resolver)
    assert len(attempts) == 2  # and less often each time

    monkeypatch.undo()
    clock.now += 2
    healed = settle(resolver)
    assert roles(healed) == (V[3], {"challenger": V[2]})
    assert healed.problems == ()


def test_pins_win_over_aliases(registry, flip, tmp_path):
    flip(champion=1, challenger=2)
    resolver = Resolver(registry, name="churn", data_dir=tmp_path, champion_pin="3.0.0-beta", challenger_pin="2.1.0")
    serving = settle(resolver)
    assert roles(serving) == (V[2], {"challenger": V[1]})
    assert serving.pinned == ("champion", "challenger")

    absent = Resolver(registry, name="churn", data_dir=tmp_path, champion_pin="9")
    kept = settle(absent)
    assert kept.champion == V[2]
    assert "pinned" in kept.problems[0]


def test_without_a_champion_nothing_is_published(resolver, flip, tmp_path):
    flip(challenger=2)
    assert settle(resolver) is None
    assert "no alias 'champion'" in resolver.problems[0]
    assert read_serving(tmp_path / "serving.json") is None


def test_a_model_that_vanishes_from_the_registry_goes_on_serving(resolver, flip, monkeypatch, registry, tmp_path):
    flip(champion=1, challenger=2)
    before = settle(resolver)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(resolver, "_registry", samples.registry_in(tmp_path / "empty"))
    after = resolver.step()
    assert roles(after) == roles(before)
    assert "no model 'churn'" in after.problems[0]


def test_a_silent_registry_leaves_what_serves_also_across_a_restart(flip, resolver, tmp_path, registry):
    flip(champion=1, challenger=2)
    before = settle(resolver)
    silent = Resolver(Registry("http://127.0.0.1:9", tmp_path), name="churn", data_dir=tmp_path)
    with pytest.raises(RegistryError):
        silent.step()
    assert silent.serving == before
    assert read_serving(tmp_path / "serving.json") == before
    again = Resolver(registry, name="churn", data_dir=tmp_path)
    assert again.step() == before  # same roles, same generation: no worker reloads
    assert settle(again) == before


def test_a_damaged_serving_file_is_written_anew(resolver, flip, tmp_path, registry):
    flip(champion=1)
    settle(resolver)
    (tmp_path / "serving.json").write_text("{")
    assert roles(settle(Resolver(registry, name="churn", data_dir=tmp_path))) == (V[1], {})


def test_directories_that_served_long_ago_are_removed(resolver, flip, tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "_KEPT_DIRECTORIES", 1)
    for number in (1, 2):
        flip(champion=number)
        settle(resolver)
    left, under_way = (tmp_path / "models" / "churn" / name for name in (".3-killed", ".9-under-way"))
    left.mkdir()
    under_way.mkdir()
    long_ago = time.time() - 2 * 86400
    for path in (tmp_path / V[1], tmp_path / V[2], left):
        os.utime(path, (long_ago, long_ago))
    flip(champion=3)
    settle(resolver)
    assert not (tmp_path / V[1]).exists()
    assert (tmp_path / V[2]).exists()  # a worker may still be answering from it
    assert not left.exists()
    assert under_way.exists()
    flip(champion=1)
    assert roles(settle(resolver)) == (V[1], {})


def test_a_directory_of_long_ago_that_is_tried_again_is_not_removed(resolver, flip, hanging, tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "_KEPT_DIRECTORIES", 1)
    for number in (1, 2, 3):
        flip(champion=number)
        settle(resolver)
    long_ago = time.time() - 2 * 86400
    os.utime(tmp_path / V[1], (long_ago, long_ago))
    hanging.numbers = {"1"}
    again = Resolver(resolver._registry, name="churn", data_dir=tmp_path)
    flip(challenger=1)
    step_until(again, lambda: hanging.begun[-1] == "1")
    flip(champion=2)
    assert roles(step_until(again, lambda: again.trying == ("1",))) == (V[2], {})
    hanging.released.set()
    assert roles(settle(again)) == (V[2], {"challenger": V[1]})
    assert again.problems == ()


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "serving.json"
    for generation in range(3):
        publish_serving(path, Serving(generation=generation, published_at="now", champion="models/churn/1"))
        assert read_serving(path).generation == generation
    assert [p.name for p in tmp_path.iterdir()] == ["serving.json"]
