"""Promotion and rollback on a real registry and a real database; what the resolver makes of every half of them."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

import modelsamples as samples
from shadow_mlops.cli.models import app
from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import (
    ConflictError,
    ModelNotFoundError,
    ModelRefusedError,
    RegistryError,
    StateError,
)
from shadow_mlops.domain.models import Serving
from shadow_mlops.models import preparation, trials
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.preparation import prepared_directory
from shadow_mlops.models.promoted import Promoted, card_mark, publish_promoted, read_promoted
from shadow_mlops.models.resolver import Resolver
from shadow_mlops.models.serving import publish_serving
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.resolver import Nudges
from shadow_mlops.processes.resolver import follow as follow_aliases
from shadow_mlops.rollout import Rollout, following, proving
from shadow_mlops.rollout.aliases import after_moves, alias_moves, challenger_roles
from shadow_mlops.state import audit, open_state, upgrade

DEPLOYMENT = "name: churn\ntask: binary\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    registry = samples.registry_in(folder)
    samples.register_sample(registry, "2.1.0", kind="linear")
    samples.register_sample(registry, "3.0.0-beta", kind="boosting")
    samples.register_sample(registry, "3.1.0", kind="linear", task="multiclass")
    samples.register_sample(registry, "4.0.0", kind="linear")
    return folder


@pytest.fixture
def registry(home):
    registry = samples.registry_in(home)
    for alias in registry.aliases("churn"):
        registry.delete_alias("churn", alias)
    registry.set_alias("churn", "champion", "1")
    registry.set_alias("churn", "challenger", "2")
    return registry


@pytest.fixture
def engine(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


@pytest.fixture
def loaded(monkeypatch):
    """Directories that were loaded in a child; the child itself is another test's."""
    directories = []
    monkeypatch.setattr(proving, "load_elsewhere", directories.append)
    return directories


@pytest.fixture
def rollout(registry, engine, tmp_path, loaded):
    def make(**changes):
        given = {
            "data_dir": tmp_path,
            "state": engine,
            "alone": lambda: only_one(tmp_path / "run" / "rollout.lock", "a promotion"),
            "pins": {"champion": "", "challenger": ""},
            "follow_seconds": 0.0,
        }
        return Rollout(registry, parse_deployment(DEPLOYMENT), **{**given, **changes})

    return make


def trail(engine):
    return audit.entries(engine).entries


def test_promotion_moves_the_aliases_and_says_so(rollout, registry, engine, loaded, tmp_path):
    switch = rollout().promote("3.0.0-beta", who="ada", reason="a week of better log loss", details={"via": "test"})
    assert registry.aliases("churn") == {"champion": "2", "previous": "1", "challenger": "1"}
    assert (switch.from_version, switch.to_version) == ("2.1.0", "3.0.0-beta")
    assert switch.roles == rollout().status()
    assert switch.roles.challengers == {"challenger": "2.1.0"}
    assert loaded == [prepared_directory(tmp_path, "churn", "2")]
    (entry,) = trail(engine)
    assert entry.id == switch.audit_id
    assert (entry.action, entry.outcome, entry.who, entry.reason) == (
        "promote",
        "done",
        "ada",
        "a week of better log loss",
    )
    assert (entry.from_version, entry.to_version, entry.details["via"]) == ("2.1.0", "3.0.0-beta", "test")


def test_rollback_is_promotion_of_the_one_before_and_undoes_itself(rollout, registry, engine):
    one = rollout()
    one.promote("3.0.0-beta", who="ada")
    one.rollback(who="bob", reason="complaints")
    assert registry.aliases("churn") == {"champion": "1", "previous": "2", "challenger": "2"}
    one.rollback(who="bob")
    assert registry.aliases("churn") == {"champion": "2", "previous": "1", "challenger": "1"}
    assert [(e.action, e.from_version, e.to_version, e.outcome) for e in trail(engine)] == [
        ("rollback", "2.1.0", "3.0.0-beta", "done"),
        ("rollback", "3.0.0-beta", "2.1.0", "done"),
        ("promote", "2.1.0", "3.0.0-beta", "done"),
    ]


def test_another_challenger_keeps_its_role(rollout, registry):
    rollout().promote("4.0.0", who="ada")
    assert registry.aliases("churn") == {
        "champion": "4",
        "previous": "1",
        "challenger": "2",
        "challenger-previous": "1",
    }


REFUSED = [
    ("9.9.9", ModelNotFoundError, "no version", None),
    ("2.1.0", ConflictError, "already", "2.1.0"),
    ("3.1.0", ModelRefusedError, "multiclass", "2.1.0"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[version for version, *_ in REFUSED])
def test_a_refused_promotion_changes_nothing_and_is_on_record(rollout, registry, engine, case):
    version, kind, said, before = case
    aliases = registry.aliases("churn")
    with pytest.raises(kind, match=said):
        rollout().promote(version, who="ada", reason="why not")
    assert registry.aliases("churn") == aliases
    (entry,) = trail(engine)
    assert (entry.outcome, entry.to_version, entry.reason) == ("refused", version, "why not")
    assert said in entry.details["problem"]
    assert before is None or entry.from_version == before


def test_without_a_previous_there_is_nothing_to_roll_back_to(rollout, engine):
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        rollout().rollback(who="ada")
    assert [(e.action, e.outcome, e.to_version) for e in trail(engine)] == [("rollback", "refused", None)]


@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_nothing_moves_while_settings_pin_a_version(rollout, registry, engine, role, tmp_path):
    aliases = registry.aliases("churn")
    with pytest.raises(ConflictError, match="pin"):
        rollout(pins={role: "2.1.0"}).promote("3.0.0-beta", who="ada")
    serving = Serving(generation=1, published_at="now", champion="models/churn/1", pinned=(role,))
    publish_serving(tmp_path / "serving.json", serving)
    with pytest.raises(ConflictError, match="pinned"):
        rollout().promote(
            "3.0.0-beta", who="ada"
        )  # the gateway's settings count, whatever this process was started with
    assert registry.aliases("churn") == aliases
    assert [e.outcome for e in trail(engine)] == ["refused", "refused"]


def test_one_at_a_time(rollout, registry, tmp_path):
    with only_one(tmp_path / "run" / "rollout.lock", "another"), pytest.raises(ConflictError, match="running"):
        rollout().promote("3.0.0-beta", who="ada")
    assert registry.aliases("churn")["champion"] == "1"


def test_an_alias_that_somebody_moves_meanwhile_is_noticed(rollout, registry, monkeypatch):
    monkeypatch.setattr(proving, "load_elsewhere", lambda _: registry.set_alias("churn", "champion", "4"))
    with pytest.raises(ConflictError, match="somebody moved"):
        rollout().promote("3.0.0-beta", who="ada")
    assert registry.aliases("churn")["champion"] == "4"


@pytest.mark.parametrize("fails_at", ["previous", "challenger", "champion"])
def test_a_registry_that_fails_half_way_is_put_back(rollout, registry, engine, monkeypatch, fails_at):
    before = registry.aliases("churn")
    write, failing = type(registry).set_alias, [True]

    def set_alias(self, name, alias, number):
        write(self, name, alias, number)  # written, but the answer is lost
        if alias == fails_at and failing:
            failing.clear()
            raise RegistryError("the registry does not answer")

    monkeypatch.setattr(type(registry), "set_alias", set_alias)
    with pytest.raises(RegistryError):
        rollout().promote("3.0.0-beta", who="ada")
    assert registry.aliases("churn") == before
    assert [e.outcome for e in trail(engine)] == ["failed"]


def test_nothing_is_done_that_cannot_be_recorded(rollout, registry, tmp_path, loaded):
    unwritable = open_state(f"sqlite:///{tmp_path / 'no-tables.db'}")
    with pytest.raises(StateError):
        rollout(state=unwritable).promote("3.0.0-beta", who="ada")
    assert registry.aliases("churn")["champion"] == "1"
    assert loaded == []


def test_a_model_that_answers_other_than_at_registration_is_refused_and_the_old_one_stays(
    rollout, registry, tmp_path, monkeypatch
):
    monkeypatch.undo()  # the real child
    registry.set_alias("churn", "champion", "1")
    registry.set_alias("churn", "challenger", "2")
    one = rollout()
    directory = prepared_directory(tmp_path, "churn", "2")
    proving.prepare(registry, registry.numbered("churn", "2"), data_dir=tmp_path)
    path = directory / "recorded.json"
    recorded = msgspec.json.decode(path.read_bytes())
    recorded["scores"][0] = [1.0 - score for score in recorded["scores"][0]]
    path.write_bytes(msgspec.json.encode(recorded))
    with pytest.raises(ModelRefusedError, match="answers its recorded rows otherwise"):
        one.promote("3.0.0-beta", who="ada")
    assert registry.aliases("churn")["champion"] == "1"


def test_a_rollback_to_what_shadows_here_loads_nothing_again_unless_its_file_has_changed(rollout, loaded, tmp_path):
    one = rollout()
    one.promote("3.0.0-beta", who="ada")
    champion, old = (prepared_directory(tmp_path, "churn", number) for number in ("2", "1"))
    proving.prepare(one._registry, one._registry.numbered("churn", "1"), data_dir=tmp_path)
    serving = Serving(
        generation=1,
        published_at="now",
        champion=str(champion.relative_to(tmp_path)),
        challengers={"challenger": str(old.relative_to(tmp_path))},
    )
    publish_serving(tmp_path / "serving.json", serving)
    loaded.clear()
    one.rollback(who="ada")
    assert loaded == []
    card = json.loads((champion / "card.json").read_bytes())
    (champion / card["file"]).write_bytes(b"rotten")
    one.rollback(who="ada")
    assert loaded == [champion]


def test_the_resolver_of_the_host_is_told_which_directory_was_checked(rollout, tmp_path, monkeypatch, registry):
    rollout().promote("4.0.0", who="ada")
    told = read_promoted(tmp_path)
    directory = prepared_directory(tmp_path, "churn", "4")
    assert (told.number, told.card) == ("4", card_mark(directory))

    tried = []
    monkeypatch.setattr(trials, "load_elsewhere", tried.append)
    resolver = Resolver(registry, name="churn", data_dir=tmp_path)
    resolver.trust(told)
    assert resolver.step().champion == "models/churn/4"
    settle(resolver)
    assert tried
    assert directory not in tried

    tried.clear()
    wary = Resolver(registry, name="churn", data_dir=tmp_path)
    wary.trust(msgspec.structs.replace(told, card="of another card"))
    settle(wary)
    assert directory in tried


def settle(resolver):
    deadline = time.monotonic() + 120
    while resolver.step() is None or resolver.trying:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Followed:
    """A resolver that only counts."""

    def __init__(self):
        self.trusted, self.steps = [], 0
        self.problems, self.serving = (), None
        self.trying, self.news = (), False
        self.trust = self.trusted.append

    def step(self):
        self.steps += 1
        self.news = False


def test_a_promotion_shortens_the_resolvers_nap_once(tmp_path):
    resolver, naps = Followed(), []
    promoted = Promoted(number="2", card="abc")

    def nap(seconds):
        naps.append(resolver.steps)
        if len(naps) == 3:
            publish_promoted(tmp_path, promoted)

    publish_promoted(tmp_path, Promoted(number="1", card="of an earlier life"))
    follow_aliases(
        resolver, tmp_path / "run" / "resolver.json", ending=lambda: len(naps) >= 6, nudged=Nudges(resolver, tmp_path),
        pause=nap,
    )  # fmt: skip
    assert naps == [1, 1, 1, 2, 2, 2]
    assert resolver.trusted == [promoted]


def test_a_version_that_is_ready_shortens_the_nap_too_and_one_that_is_not_is_told(tmp_path):
    resolver, naps = Followed(), []
    resolver.trying = ("3",)
    word = tmp_path / "resolver.json"

    def nap(seconds):
        naps.append(resolver.steps)
        resolver.news = len(naps) == 2

    follow_aliases(resolver, word, ending=lambda: len(naps) >= 4, pause=nap)
    assert naps == [1, 1, 2, 2]
    assert "version 3 is being prepared" in json.loads(word.read_bytes())["detail"]


def test_resolver_and_promotion_may_prepare_a_version_at_once(registry, tmp_path, monkeypatch):
    together, write_card = threading.Barrier(4), preparation.write_card

    def write_card_together(*given):
        write_card(*given)
        together.wait(60)

    monkeypatch.setattr(preparation, "write_card", write_card_together)
    version = registry.numbered("churn", "4")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: preparation.prepare(registry, version, data_dir=tmp_path), range(4)))
    (directory,) = set(found)
    assert load_model(directory).card.version == "4.0.0"
    assert [path.name for path in directory.parent.iterdir()] == ["4"]


class Word:
    """What a gateway's parent and a resolver would have left."""

    def __init__(self, data):
        self.data = data
        (data / "run").mkdir(exist_ok=True)

    def say(self, champion, generation, *served, pid=None, problems=()):
        serving = Serving(generation=generation, published_at="now", champion=champion, problems=problems)
        publish_serving(self.data / "serving.json", serving)
        workers = {f"gateway-worker-{i}": number for i, number in enumerate(served)}
        word = {"pid": os.getpid() if pid is None else pid, "port": 1, "children": {}, "generations": workers}
        (self.data / "run" / "gateway.json").write_bytes(msgspec.json.encode(word))


def follow(data):
    return following.await_followed(data, data / "models" / "churn" / "2", seconds=0.0)


def test_served_means_every_worker_has_said_so(tmp_path):
    word = Word(tmp_path)
    assert not follow(tmp_path).gateway
    word.say("models/churn/2", 5, 5, 5, pid=2**22 + 1)
    assert not follow(tmp_path).gateway  # a word of a dead gateway
    word.say("models/churn/1", 4, 4, 4, problems=("champion is not obeyed",))
    assert "champion is not obeyed" in follow(tmp_path).detail
    word.say("models/churn/2", 5, 5, 4)
    late = follow(tmp_path)
    assert (late.served, late.gateway) == (False, True)
    assert "gateway-worker-1" in late.detail
    word.say("models/churn/2", 5)
    assert not follow(tmp_path).served  # no worker yet
    word.say("models/churn/2", 5, 5, 6)
    assert follow(tmp_path).served


NUMBERS = st.sampled_from(["1", "2", "3"])
ROLES = ("challenger", "challenger-previous", "challenger-x", "challenger-y")
ALIASES = st.fixed_dictionaries({}, optional=dict.fromkeys(("champion", "previous", "production", *ROLES), NUMBERS))


class Stepped(Resolver):
    """A resolver for which every version is ready, and which remembers what it would publish."""

    def __init__(self, aliases, folder):
        registry = type("Fake", (), {"aliases": lambda _self, _name: dict(aliases), "tags": lambda _self, _name: {}})()
        super().__init__(registry, name="churn", data_dir=folder)
        self.published = []

    def _settled(self, _role, number, _problems):
        return number

    def _publish(self, champion, challengers, _canary):
        self._serving = Serving(
            generation=1,
            published_at="",
            champion=self._relative(champion),
            challengers={role: self._relative(number) for role, number in challengers.items()},
        )
        self.published.append((champion, dict(challengers)))


@example(aliases={"champion": "1", "challenger": "2"}, number="2", looks=[True] * 8)
@given(aliases=ALIASES, number=NUMBERS, looks=st.lists(st.booleans(), min_size=8, max_size=8))
def test_wherever_the_resolver_looks_it_never_publishes_half_a_promotion(tmp_path_factory, aliases, number, looks):
    old = aliases.get("champion")
    assume(old != number)
    moves, now = alias_moves(aliases, number), dict(aliases)
    resolver = Stepped(now, tmp_path_factory.getbasetemp())
    resolver.step()
    resolver.step()
    resolver.published.clear()
    for move, look in zip(moves, looks, strict=False):
        assert now.get("champion") == old, "champion is written last"
        after = after_moves(now, [move])
        now.clear()
        now.update(after)
        if look:
            resolver.step()
    resolver.step()
    resolver.step()
    assert now["champion"] == number
    roles = challenger_roles(aliases)
    kept = {role: n for role, n in roles.items() if n not in {number, old} and role != "challenger-previous"}
    for champion, challengers in resolver.published:
        assert champion in {old, number}
        assert champion not in challengers.values()
        assert kept.items() <= challengers.items()
        assert champion == old or old is None or old in challengers.values()
        if number in roles.values() and old not in roles.values():
            assert number in {champion, *challengers.values()}, "it answers or shadows all the time"
    assert resolver.published[-1][0] == number
    assert old is None or now["previous"] == old


@pytest.fixture
def command(registry, home, tmp_path, monkeypatch, loaded):
    """The command line on the registry's folder; state, prepared models and lock on a folder of the test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    monkeypatch.delenv("MODEL_CHAMPION_VERSION", raising=False)
    monkeypatch.delenv("MODEL_CHALLENGER_VERSION", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shadow.yaml").write_text(DEPLOYMENT)

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path)])

    return run


def test_the_command_line_does_the_same_and_says_who(command, registry, engine):
    done = command("promote", "3.0.0-beta", "--reason", "better", "--format", "json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["from"], said["to"], said["followed"]["gateway"]) == ("2.1.0", "3.0.0-beta", False)
    assert registry.aliases("churn")["champion"] == "2"
    (entry,) = trail(engine)
    assert (entry.reason, entry.details["via"]) == ("better", "cli")
    assert "@" in entry.who
    told = command("rollback")
    assert told.exit_code == 0
    assert "rolled back to 2.1.0 (before: 3.0.0-beta)" in told.stdout
    assert "no gateway runs" in told.stdout


def test_a_script_learns_that_the_gateway_does_not_follow(command, registry, tmp_path, monkeypatch):
    from shadow_mlops.rollout import switching

    monkeypatch.setattr(
        switching,
        "await_followed",
        lambda *_, **__: following.await_followed(tmp_path, tmp_path / "models" / "churn" / "2", seconds=0.0),
    )
    Word(tmp_path).say("models/churn/1", 1, 1)
    done = command("promote", "3.0.0-beta")
    assert done.exit_code == 5
    assert "not published within" in done.stdout
