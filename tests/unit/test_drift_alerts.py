"""Alerts arrive at least once, each under a name of its own, and no secret is told."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from structlog.testing import capture_logs
from tests.webhook import Webhook

from shadow_mlops.drift.alerts import MOST_ATTEMPTS, Courier, HttpReceiver, LogReceiver
from shadow_mlops.state import open_state, outbox, upgrade
from shadow_mlops.state.database import transaction

PAYLOAD = {"event": "drift_opened", "text": "tenure drifted", "feature": "tenure"}


@pytest.fixture
def state(tmp_path):
    engine = open_state(f"sqlite:///{tmp_path / 'state.db'}")
    upgrade(engine)
    return engine


@pytest.fixture
def webhook():
    with Webhook().running() as webhook:
        yield webhook


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def put(state, key="a-opened", kind="webhook", payload=PAYLOAD):
    with transaction(state) as connection:
        assert outbox.add(connection, key=key, kind=kind, payload=payload)


def courier(state, receivers, **more):
    results = []
    return Courier(state, receivers, told=lambda kind, result: results.append((kind, result)), **more), results


def test_a_message_is_posted_once_with_its_key(state, webhook):
    put(state)
    sender, results = courier(state, {"webhook": HttpReceiver(f"{webhook.url}/hook?token=abc")})
    assert sender.round() > 0
    sender.round()
    (taken,) = webhook.taken
    assert (taken.path, taken.key, taken.body) == ("/hook?token=abc", "a-opened", PAYLOAD)
    assert results == [("webhook", "delivered")]
    assert outbox.counts(state) == {("webhook", "delivered"): 1}


def test_slack_gets_text_and_the_log_a_line(state, webhook):
    put(state, kind="slack")
    put(state, kind="log")
    sender, _ = courier(state, {"slack": HttpReceiver(webhook.url, only_text=True), "log": LogReceiver()})
    with capture_logs() as lines:
        sender.round()
    assert webhook.taken[0].body == {"text": "tenure drifted"}
    assert lines == [{"event": "drift_opened", "feature": "tenure", "alert": "a-opened", "log_level": "warning"}]


def test_a_refusal_is_tried_again_later_under_the_same_key_and_holds_up_nobody(state, webhook):
    webhook.answers = [(500, {}, b"no")]
    put(state, "a-opened")
    put(state, "b-opened")
    clock = Clock()
    sender, results = courier(state, {"webhook": HttpReceiver(webhook.url)}, clock=clock)
    assert sender.round() == pytest.approx(1.0)
    assert [taken.key for taken in webhook.taken] == ["a-opened", "b-opened"]
    sender.round()
    assert len(webhook.taken) == 2, "not before its time"
    clock.now += 1.0
    sender.round()
    assert [taken.key for taken in webhook.taken] == ["a-opened", "b-opened", "a-opened"]
    assert results == [("webhook", "retried"), ("webhook", "delivered"), ("webhook", "delivered")]


def test_what_nobody_takes_is_given_up_after_a_bound_and_counted(state):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/secret-path"
    put(state)
    clock = Clock()
    sender, results = courier(state, {"webhook": HttpReceiver(nobody)}, clock=clock)
    pauses = []
    with capture_logs() as lines:
        while outbox.pending(state):
            pauses.append(sender.round())
            clock.now += pauses[-1]
    assert results == [("webhook", "retried")] * (MOST_ATTEMPTS - 1) + [("webhook", "failed")]
    assert pauses[:4] == pytest.approx([1, 2, 4, 8])
    assert max(pauses) == pytest.approx(900)
    assert outbox.counts(state) == {("webhook", "failed"): 1}
    assert len(lines) == 2, "the first failure and the last, not each"
    assert "secret-path" not in str(lines)


def test_a_restart_goes_on_with_what_is_left(state, webhook):
    put(state)
    webhook.answers = [(503, {}, b"")]
    first, _ = courier(state, {"webhook": HttpReceiver(webhook.url)})
    first.round()
    second, _ = courier(state, {"webhook": HttpReceiver(webhook.url)})
    second.round()
    assert [taken.key for taken in webhook.taken] == ["a-opened", "a-opened"]
    assert outbox.counts(state) == {("webhook", "delivered"): 1}


def test_a_redirect_is_refused(state, webhook):
    webhook.answers = [(307, {"Location": f"{webhook.url}/elsewhere"}, b"")]
    put(state)
    sender, results = courier(state, {"webhook": HttpReceiver(webhook.url)})
    sender.round()
    assert [taken.path for taken in webhook.taken] == ["/"]
    assert results == [("webhook", "retried")]


def test_an_answer_of_any_length_is_not_read(state, webhook):
    webhook.answers = [(200, {}, b"x" * 50_000_000)]
    put(state)
    sender, results = courier(state, {"webhook": HttpReceiver(webhook.url)})
    sender.round()
    assert results == [("webhook", "delivered")]


def test_a_receiver_that_does_not_answer_costs_a_time_out(state):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        put(state)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sender, results = courier(state, {"webhook": HttpReceiver(url, timeout=0.1)})
        sender.round()
    assert results == [("webhook", "retried")]
    assert outbox.pending(state)[0].problem == "no answer (ReadTimeout)"


@pytest.mark.parametrize("url", ["http://", "ftp://host/secret", "http://user:secret@[::1", "http://\x00secret"])
def test_an_address_that_is_none_is_a_failure_like_any_other_and_stays_a_secret(state, url):
    put(state)
    sender, results = courier(state, {"webhook": HttpReceiver(url)})
    with capture_logs() as lines:
        sender.round()
    assert results == [("webhook", "retried")]
    assert "secret" not in str(lines)
    assert "secret" not in outbox.pending(state)[0].problem


def test_a_kind_that_is_not_set_any_more_is_given_up_at_once(state):
    put(state)
    sender, results = courier(state, {})
    sender.round()
    assert results == [("webhook", "failed")]


def test_the_thread_delivers_by_itself_and_ends(state, webhook, caplog):
    caplog.set_level(logging.WARNING)
    delivered = threading.Event()
    sender = Courier(state, {"webhook": HttpReceiver(webhook.url)}, told=lambda *_: delivered.set())
    sender.start()
    put(state)
    sender.wake()
    assert delivered.wait(20)
    sender.close(20)
    assert not sender._thread.is_alive()
    assert [taken.key for taken in webhook.taken] == ["a-opened"]


def test_a_database_that_does_not_answer_is_told_once_and_asked_again(tmp_path, webhook):
    state = open_state(f"sqlite:///{tmp_path / 'state.db'}")  # no tables yet
    delivered = threading.Event()
    sender = Courier(state, {"webhook": HttpReceiver(webhook.url)}, told=lambda *_: delivered.set())
    with capture_logs() as lines:
        sender.start()
        while not lines:
            delivered.wait(0.01)
        upgrade(state)
        put(state)
        sender.wake()
        assert delivered.wait(20)
        sender.close(20)
    assert [line["event"] for line in lines] == ["alerts cannot be delivered"]
