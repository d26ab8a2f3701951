"""Episodes and alerts in the state database: once each, whatever is read again."""

from __future__ import annotations

import pytest

from shadow_mlops.domain.errors import StateError
from shadow_mlops.state import episodes, open_state, outbox, upgrade
from shadow_mlops.state.database import transaction
from shadow_mlops.state.episodes import Episode


@pytest.fixture
def engine(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


def opened(bucket, *, feature="tenure", reference="churn/1", key=None):
    return Episode(
        key=key or f"{feature}-{reference}-{bucket}",
        deployment="churn",
        feature=feature,
        reference=reference,
        version="2.1.0",
        opened_bucket=bucket,
        opened_at=f"2026-01-01T00:{bucket:02d}:00Z",
        details={"psi": 0.4},
    )


def begin(engine, episode):
    with transaction(engine) as connection:
        return episodes.begin(connection, episode)


def end(engine, bucket, *, feature="tenure", reference="churn/1"):
    with transaction(engine) as connection:
        return episodes.end(
            connection, deployment="churn", feature=feature, reference=reference, bucket=bucket,
            at=f"2026-01-01T00:{bucket:02d}:00Z", details={"reason": "quiet"},
        )  # fmt: skip


def test_an_episode_is_recorded_once_and_closed_once(engine):
    assert [begin(engine, opened(5)) for _ in range(3)] == [True, False, False]
    closed = end(engine, 9)
    assert (closed.opened_bucket, closed.closed_bucket, closed.details) == (5, 9, {"psi": 0.4, "reason": "quiet"})
    assert end(engine, 9) is None
    assert begin(engine, opened(5)) is False
    assert episodes.recent(engine, "churn") == (closed,)


def test_features_and_later_times_have_episodes_of_their_own(engine):
    assert begin(engine, opened(5))
    assert begin(engine, opened(5, feature="charges"))
    end(engine, 9)
    assert begin(engine, opened(12))
    assert [(each.feature, each.opened_bucket, each.closed_bucket) for each in episodes.recent(engine, "churn")] == [
        ("tenure", 12, None),
        ("charges", 5, None),
        ("tenure", 5, 9),
    ]
    assert episodes.recent(engine, "other") == ()


def test_a_log_that_is_read_again_from_a_later_beginning_opens_nothing_anew(engine):
    begin(engine, opened(5))
    assert not begin(engine, opened(7)), "the one that is open goes on"
    end(engine, 20)
    assert not begin(engine, opened(8)), "that time was judged"
    assert end(engine, 19) is None
    assert begin(engine, opened(21))
    assert not begin(engine, opened(6)), "so was that"


def test_another_reference_is_another_matter(engine):
    begin(engine, opened(5))
    assert begin(engine, opened(9, reference="churn/2"))
    assert end(engine, 10, reference="churn/2").opened_bucket == 9
    assert end(engine, 10).opened_bucket == 5


def test_an_episode_and_its_alert_are_one_transaction(engine):
    def fail_half_way():
        with transaction(engine) as connection:
            episodes.begin(connection, opened(5))
            outbox.add(connection, key="k" * 5, kind=None, payload={})

    with pytest.raises(StateError):
        fail_half_way()
    assert episodes.recent(engine, "churn") == ()
    assert begin(engine, opened(5))


def test_a_message_waits_until_it_is_delivered_or_given_up(engine):
    with transaction(engine) as connection:
        assert outbox.add(connection, key="a-opened", kind="webhook", payload={"n": 1})
        assert not outbox.add(connection, key="a-opened", kind="webhook", payload={"n": 2})
        assert outbox.add(connection, key="a-opened", kind="slack", payload={"text": "x"})
        assert outbox.add(connection, key="b-opened", kind="webhook", payload={})
    first, second, third = outbox.pending(engine)
    assert (first.key, first.kind, first.payload, first.attempts) == ("a-opened", "webhook", {"n": 1}, 0)
    outbox.note(engine, first.id, state="pending", problem="answered 500")
    outbox.note(engine, first.id, state="delivered")
    outbox.note(engine, second.id, state="failed", problem="x" * 1000)
    (left,) = outbox.pending(engine)
    assert left == third
    assert outbox.counts(engine) == {
        ("webhook", "delivered"): 1, ("slack", "failed"): 1, ("webhook", "pending"): 1,
    }  # fmt: skip
    with transaction(engine) as connection:
        assert not outbox.add(connection, key="a-opened", kind="webhook", payload={}), "also when it is delivered"
