"""Canary steps on a real registry: what is ordered, what the resolver publishes of it, and what ends it."""

from __future__ import annotations

import time

import pytest

import modelsamples as samples
from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import ConflictError, ModelRefusedError
from shadow_mlops.models.canary import CANARY_TAG, decode_canary
from shadow_mlops.models.resolver import Resolver
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.rollout import Rollout, proving
from shadow_mlops.state import audit, open_state, upgrade

DEPLOYMENT = "name: churn\ncanary: {steps: [0.01, 0.5]}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    registry = samples.registry_in(folder)
    samples.register_sample(registry, "2.1.0", kind="linear")
    samples.register_sample(registry, "3.0.0-beta", kind="boosting")
    return folder


@pytest.fixture
def registry(home):
    registry = samples.registry_in(home)
    for alias in registry.aliases("churn"):
        registry.delete_alias("churn", alias)
    registry.set_alias("churn", "champion", "1")
    registry.set_alias("churn", "challenger", "2")
    registry.delete_tag("churn", CANARY_TAG)
    return registry


@pytest.fixture
def rollout(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(proving, "load_elsewhere", lambda _: None)
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)

    def make(yaml=DEPLOYMENT, **changes):
        given = {
            "data_dir": tmp_path,
            "state": engine,
            "alone": lambda: only_one(tmp_path / "run" / "rollout.lock", "an order"),
            "pins": {},
            "follow_seconds": 0.0,
        }
        return Rollout(registry, parse_deployment(yaml), **{**given, **changes})

    made = make()
    made.engine, made.make = engine, make
    return made


@pytest.fixture
def published(registry, tmp_path):
    resolver = Resolver(registry, name="churn", data_dir=tmp_path)

    def step():
        deadline = time.monotonic() + 120
        while True:
            serving = resolver.step()
            if not resolver.trying and serving is not None:
                return serving
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return step


def test_steps_are_published_and_recorded(rollout, published):
    assert published().canary is None
    change = rollout.canaries.start("challenger", who="ada", reason="the gate says so", rollout="e1")
    assert change.canary is not None
    assert (change.canary.version, change.canary.share, change.canary.steps) == ("3.0.0-beta", 0.01, 2)
    canary = published().canary
    assert canary is not None
    assert (canary.challenger, canary.share, canary.step, canary.rollout) == ("challenger", 0.01, 0, "e1")
    assert canary.directory == published().challengers["challenger"]
    assert time.time() - canary.since_us / 1e6 < 60
    rollout.canaries.advance(who="ada")
    assert published().canary.share == 0.5
    rollout.canaries.freeze(frozen=True, who="ada")
    assert published().canary.frozen
    rollout.canaries.freeze(frozen=False, who="ada")
    assert not published().canary.frozen
    rollout.canaries.abort(who="ada", reason="enough")
    assert published().canary is None
    told = [(entry.action, entry.outcome, entry.from_version, entry.to_version) for entry in _trail(rollout)]
    assert told[::-1] == [
        (f"canary {action}", "done", "2.1.0", "3.0.0-beta")
        for action in ("start", "advance", "freeze", "resume", "abort")
    ]


def test_an_order_that_rests_on_a_step_that_is_over_does_nothing(rollout, registry, published):
    published()
    seen = rollout.canaries.start("challenger", who="gate", rollout="e1").canary
    rollout.canaries.freeze(frozen=True, who="ada")
    with pytest.raises(ConflictError, match="no longer at step 1"):
        rollout.canaries.advance(who="gate", seen=seen)
    assert rollout.canaries.tag().frozen
    rollout.canaries.freeze(frozen=False, who="ada")
    rollout.canaries.advance(who="gate", seen=seen)
    with pytest.raises(ConflictError, match="no longer at step 1"):  # the same order once more, before it is published
        rollout.canaries.advance(who="gate", seen=seen)
    last = rollout.canaries.status()
    rollout.canaries.abort(who="ada")
    with pytest.raises(ConflictError, match="no longer at step 2"):
        rollout.promote("3.0.0-beta", who="gate", seen=last)
    assert registry.aliases("churn")["champion"] == "1"
    rollout.canaries.start("challenger", who="ada", rollout="e2")
    with pytest.raises(ConflictError, match="another is under way"):
        rollout.canaries.abort(who="gate", rollout="e1")
    assert rollout.canaries.tag().rollout == "e2"


def test_a_rollback_during_a_canary_ends_it_and_moves_no_alias(rollout, registry, published):
    published()
    rollout.canaries.start("challenger", who="ada")
    before = registry.aliases("churn")
    switch = rollout.rollback(who="ada", reason="complaints")
    assert (switch.action, switch.from_version, switch.to_version) == ("rollback", "3.0.0-beta", "2.1.0")
    assert registry.aliases("churn") == before
    assert published().canary is None


def test_a_promotion_ends_the_canary(rollout, registry, published):
    published()
    rollout.canaries.start("challenger", who="ada")
    rollout.promote("3.0.0-beta", who="ada")
    assert CANARY_TAG not in registry.tags("churn")
    serving = published()
    assert serving.canary is None
    assert serving.champion.endswith("/2")


def test_another_tools_move_of_the_alias_ends_it(rollout, registry, published):
    published()
    rollout.canaries.start("challenger", who="ada")
    assert published().canary is not None
    registry.delete_alias("churn", "challenger")
    assert published().canary is None


@pytest.mark.parametrize(
    ("tag", "kept"),
    [("nonsense", False), ('{"challenger":"challenger"}', False), ("", False), (None, False)],
)
def test_a_tag_that_is_none_is_no_canary(tag, kept):
    assert (decode_canary(tag) is not None) == kept


def test_a_share_outside_of_its_bounds_is_no_canary(registry, published):
    registry.set_tag(
        "churn", CANARY_TAG, '{"challenger":"challenger","number":"2","share":3,"step":0,"rollout":"r","since_us":1}'
    )
    assert published().canary is None


def test_orders_that_the_state_forbids(rollout, published, monkeypatch):
    published()
    canaries = rollout.canaries
    for order in (canaries.advance, canaries.abort):
        with pytest.raises(ConflictError, match="there is no canary"):
            order(who="ada")
    with pytest.raises(ConflictError, match="no version shadows as 'challenger-7'"):
        canaries.start("challenger-7", who="ada")
    with pytest.raises(ConflictError, match="steps"):
        rollout.make("name: churn\ncanary: {steps: []}\n").canaries.start("challenger", who="ada")
    with pytest.raises(ConflictError, match="pin"):
        rollout.make(pins={"champion": "2.1.0"}).canaries.start("challenger", who="ada")
    canaries.start("challenger", who="ada")
    with pytest.raises(ConflictError, match="under way"):
        canaries.start("challenger", who="ada")
    canaries.advance(who="ada")
    with pytest.raises(ConflictError, match="last step"):
        canaries.advance(who="ada")
    assert {entry.outcome for entry in _trail(rollout)} == {"refused", "done"}


def test_a_version_that_would_not_serve_is_no_canary(rollout, registry, published, monkeypatch):
    published()

    def refuse(*_, **__):
        raise ModelRefusedError("it does not give its recorded outputs")

    monkeypatch.setattr("shadow_mlops.rollout.canary.prove", refuse)
    with pytest.raises(ModelRefusedError):
        rollout.canaries.start("challenger", who="ada")
    assert CANARY_TAG not in registry.tags("churn")


def test_what_rests_on_evidence_is_found_again(rollout, published):
    published()
    assert not audit.rests_on(rollout.engine, "e77")
    rollout.canaries.start("challenger", who="gate", rollout="e77", details={"evidence": "e77"})
    assert audit.rests_on(rollout.engine, "e77")
    assert not audit.rests_on(rollout.engine, "e7%")


def _trail(rollout):
    return audit.entries(rollout.engine).entries
