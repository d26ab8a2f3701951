"""The console's routes: who may, what is passed on, and the one error shape."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import httpx2
import msgspec
import pytest
from structlog.testing import capture_logs

from shadow_mlops.access import RULES, Keyring, add_key
from shadow_mlops.console import Answer, Console
from shadow_mlops.domain.errors import AccessRuleError, ConflictError, LakeError, ModelNotFoundError, UnavailableError
from shadow_mlops.retraining.ordering import Ordered
from shadow_mlops.rollout import CanaryChange, Followed, Status, Switch
from shadow_mlops.state import audit, open_state, upgrade

TOKEN = "s3cret-of-operators"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
GUARDED = [
    ("GET", "/shadow/logs"),
    ("GET", "/audit"),
    ("POST", "/promote"),
    ("POST", "/rollback"),
    ("POST", "/canary"),
    ("POST", "/retrain"),
]


class Compared(msgspec.Struct):
    pairs: int


class Page(msgspec.Struct):
    pairs: list[dict[str, int]]
    next: str


def switch(action, version):
    followed = Followed(served=True, gateway=True, seconds=0.4, detail="served by 1 worker after 0.40 s")
    roles = Status(model="churn", champion=version, previous="1", challengers={"challenger": "1"})
    return Switch(action=action, from_version="1", to_version=version, roles=roles, followed=followed, audit_id=7)


class Retrains:
    """Takes orders to retrain."""

    def __init__(self, running):
        self.running = running

    def order(self, **more):
        return self.running.note("retrain", more, Ordered(key="retrain-1", state="pending", action="make retrain"))


class Running:
    """A console without a server; what its functions were called with."""

    def __init__(self, folder):
        self.asked = []
        self.fails = None
        self.state = open_state(f"sqlite:///{folder / 'state.db'}")
        upgrade(self.state)
        self.console = Console(
            keys=Keyring(folder, TOKEN),
            compare=Answer(lambda *given: self.note("compare", given, Compared(3)), Compared),
            inspect=Answer(lambda *given: self.note("inspect", given, Compared(3)), Compared),
            gate=Answer(lambda: self.note("gate", (), {"decision": "keep_watching"}), dict[str, str]),
            drift=Answer(lambda *given: self.note("drift", given, Page([], "d")), Page),
            logs=Answer(lambda *given: self.note("logs", given, Page([{"event_id": 1}], "n")), Page),
            rollout=self,
            retrain=Retrains(self),
            state=self.state,
            intake=self,
            max_body=1000,
        )

    def note(self, what, given, answer):
        self.asked.append((what, given))
        if self.fails is not None:
            raise self.fails
        return answer

    def promote(self, version, **more):
        return self.note("promote", (version, more), switch("promote", version))

    def rollback(self, **more):
        return self.note("rollback", more, switch("rollback", "1"))

    @property
    def canaries(self):
        return self

    def order(self, action, role, **more):
        followed = Followed(served=True, gateway=True, seconds=0.1, detail="served")
        return self.note(
            "canary", (action, role, more), CanaryChange(action=action, canary=None, followed=followed, audit_id=9)
        )

    def accept(self, headers, body):
        return self.note("events", (headers, body), (202, {"accepted": 2}))

    def call(self, method, path, **kwargs):
        async def run():
            transport = httpx2.ASGITransport(app=self.console.asgi, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://console") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(run())


@pytest.fixture
def running(tmp_path):
    return Running(tmp_path)


def error(response):
    (body,) = response.json().values()
    assert set(body) == {"code", "message", "details", "request_id"}
    assert body["request_id"] == response.headers["X-Request-ID"]
    return body


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("shown", [None, "Bearer wrong", "Basic s3cret-of-operators", f"Bearer {TOKEN}x"])
def test_operator_routes_want_the_token(running, method, path, shown):
    headers = {"Authorization": shown} if shown else {}
    body = {"json": {"version": "2"}} if method == "POST" else {}
    with capture_logs() as lines:
        response = running.call(method, path, headers=headers, **body)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "unauthenticated"
    assert running.asked == []
    assert not shown or shown.partition(" ")[2] not in str(lines) + response.text


def test_the_token_is_wanted_before_the_body_is_read(running):
    response = running.call("POST", "/promote", content=b"x" * 5000, headers={"Content-Type": "text/plain"})
    assert response.status_code == 401


def test_a_promotion_is_ordered_with_its_reason_and_by_whom(running):
    headers = {**OPERATOR, "X-Request-ID": "abc", "X-Forwarded-For": "10.0.0.9"}
    response = running.call("POST", "/promote", json={"version": "2.0.0", "reason": "better"}, headers=headers)
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "abc"
    said = response.json()
    assert (said["action"], said["from"], said["to"], said["followed"]["served"]) == ("promote", "1", "2.0.0", True)
    details = {"via": "http", "request_id": "abc"}
    assert running.asked == [
        ("promote", ("2.0.0", {"reason": "better", "who": "operator@10.0.0.9", "details": details}))
    ]
    assert running.call("POST", "/rollback", json={}, headers=OPERATOR).json()["action"] == "rollback"
    assert TOKEN not in str(running.asked)


def test_retraining_is_ordered_with_its_reason_and_by_whom(running):
    headers = {**OPERATOR, "X-Request-ID": "abc", "X-Forwarded-For": "10.0.0.9"}
    response = running.call("POST", "/retrain", json={"reason": "prices", "force": True}, headers=headers)
    assert response.status_code == 202
    assert response.json() == {"key": "retrain-1", "state": "pending", "action": "make retrain", "notes": []}
    details = {"via": "http", "request_id": "abc"}
    expected = {"reason": "prices", "force": True, "who": "operator@10.0.0.9", "details": details}
    assert running.asked == [("retrain", expected)]
    running.fails = ConflictError("retraining retrain-0 is running already")
    response = running.call("POST", "/retrain", json={}, headers=OPERATOR)
    assert (response.status_code, error(response)["code"]) == (409, "conflict")
    assert running.call("POST", "/retrain", json={"now": 1}, headers=OPERATOR).status_code == 422


def test_the_document_shows_how_to_retrain(running):
    document = running.call("GET", "/openapi.json").json()
    route = document["paths"]["/retrain"]["post"]
    assert route["requestBody"]["content"]["application/json"]["example"]["reason"]
    assert {"202", "401", "409", "422"} <= set(route["responses"])
    assert set(document["components"]["schemas"]["RetrainOrder"]["properties"]) == {"reason", "force"}


BAD_BODIES = [
    (b"{", "application/json", 400),
    (b"", "application/json", 400),
    (b'{"version": 2}', "application/json", 422),
    (b'{"version": ""}', "application/json", 422),
    (b'{"reason": "no version"}', "application/json", 422),
    (b'{"version": "2", "versoin": "3"}', "application/json", 422),
    (b"[]", "application/json", 422),
    (b'{"version": "2"}', "text/plain", 415),
    (b'{"version": "2", "reason": "' + b"x" * 1000 + b'"}', "application/json", 413),
]


@pytest.mark.parametrize(("body", "kind", "status"), BAD_BODIES, ids=[f"{b[:20]!r}-{s}" for b, _, s in BAD_BODIES])
def test_a_wrong_body_orders_nothing(running, body, kind, status):
    response = running.call("POST", "/promote", content=body, headers={**OPERATOR, "Content-Type": kind})
    assert response.status_code == status, response.text
    assert error(response)["message"]
    assert running.asked == []


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ConflictError("pinned"), 409, "conflict"),
        (ModelNotFoundError("none"), 404, "not_found"),
        (RuntimeError("a secret of the inside"), 500, "internal"),
    ],
)
def test_what_fails_is_told_in_the_one_shape(running, failure, status, code):
    running.fails = failure
    response = running.call("POST", "/rollback", json={}, headers=OPERATOR)
    assert (response.status_code, error(response)["code"]) == (status, code)
    assert "secret of the inside" not in response.text


def test_comparison_is_open_and_its_bounds_are_utc(running):
    response = running.call("GET", "/shadow/comparison")
    assert response.json() == {"pairs": 3}
    bounds = "since=2026-11-01T12:00:00&until=2026-11-02T12:00:00%2B02:00&exact=true"
    assert running.call("GET", f"/shadow/comparison?{bounds}").status_code == 200
    since, until = datetime(2026, 11, 1, 12, tzinfo=UTC), datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert running.asked == [("compare", (None, None, False)), ("compare", (since, until, True))]


@pytest.mark.parametrize(
    "path",
    [
        "/shadow/comparison?since=yesterday",
        "/shadow/comparison?since=0001-01-01T00:00:00%2B10:00",
        "/shadow/comparison?exact=so",
    ],
)
def test_a_wrong_bound_is_named(running, path):
    response = running.call("GET", path)
    assert response.status_code == 422
    assert error(response)["code"] == "invalid_fields"
    assert running.asked == []


def test_logs_are_paged(running):
    assert running.call("GET", "/shadow/logs?limit=5&after=x", headers=OPERATOR).json()["next"] == "n"
    assert running.asked == [("logs", (5, "x"))]
    assert running.call("GET", "/shadow/logs?limit=0", headers=OPERATOR).status_code == 422
    running.fails = LakeError("the manifest is damaged")
    assert running.call("GET", "/shadow/logs", headers=OPERATOR).status_code == 503


def test_the_trail_is_shown_newest_first(running):
    numbers = [audit.record(running.state, action="promote", who="ada", model="churn") for _ in range(3)]
    page = running.call("GET", "/audit?limit=2", headers=OPERATOR).json()
    assert [each["id"] for each in page["entries"]] == numbers[:0:-1]
    assert set(page["entries"][0]) >= {"at", "who", "action", "from", "to", "reason", "outcome"}
    rest = running.call("GET", f"/audit?after={page['next']}", headers=OPERATOR).json()
    assert ([each["id"] for each in rest["entries"]], rest["next"]) == (numbers[:1], None)


def test_events_go_to_the_intake_as_they_came(running):
    headers = {"Content-Type": "application/x-ndjson", "Ce-Id": "1"}
    response = running.call("POST", "/events", content=b"{}\n{}", headers=headers)
    assert (response.status_code, response.json()) == (202, {"accepted": 2})
    ((_, (seen, body)),) = running.asked
    assert (seen["content-type"], seen["ce-id"], body) == ("application/x-ndjson", "1", b"{}\n{}")
    assert running.call("POST", "/events", content=b"x" * 1001).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/promote", 405), ("PUT", "/drift", 405), ("GET", "/docs", 404)],
)
def test_what_is_not_there_is_told_in_the_one_shape(running, method, path, status):
    response = running.call(method, path)
    assert response.status_code == status
    error(response)


def test_an_order_outlives_its_client(running):
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow(**_):
        begun.set()
        go_on.wait(10)
        done.append(True)
        return switch("rollback", "1")

    running.rollback = slow

    async def run():
        transport = httpx2.ASGITransport(app=running.console.asgi)
        async with httpx2.AsyncClient(transport=transport, base_url="http://console") as client:
            request = asyncio.create_task(client.post("/rollback", json={}, headers=OPERATOR))
            await asyncio.to_thread(begun.wait, 10)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            early = await running.console.drain(0.05)
            go_on.set()
            return early, await running.console.drain(10)

    assert asyncio.run(run()) == (False, True)
    assert done == [True]


def test_the_document_describes_every_answer(running):
    document = running.call("GET", "/openapi.json").json()
    assert set(document["paths"]) == {
        "/drift",
        "/shadow/comparison",
        "/shadow/gate",
        "/shadow/logs",
        "/audit",
        "/promote",
        "/rollback",
        "/canary",
        "/retrain",
        "/events",
    }
    text = msgspec.json.encode(document).decode()
    schemas = document["components"]["schemas"]
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} - {"Error"}:
        assert name in schemas, name
    for method, path in GUARDED:
        operation = document["paths"][path][method.lower()]
        assert {"operator": []} in operation["security"]
        assert {} not in operation["security"]
        assert {"401", "403"} <= set(operation["responses"])
    assert document["paths"]["/promote"]["post"]["security"] == [{"operator": []}]
    assert {} in document["paths"]["/events"]["post"]["security"]
    assert "security" not in document["paths"]["/shadow/comparison"]["get"]
    assert schemas["Switch"]["properties"].keys() >= {"from", "to", "roles", "followed"}


def together(running, requests):
    """Answers to requests that are under way at the same time."""

    async def run():
        transport = httpx2.ASGITransport(app=running.console.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://console") as client:
            return await asyncio.gather(*(client.request(method, path, **more) for method, path, more in requests))

    return asyncio.run(run())


def test_an_order_that_comes_while_another_is_carried_out_is_refused_not_queued(running):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(**more):
        begun.set()
        assert go_on.wait(10)
        return running.note("rollback", more, switch("rollback", "1"))

    running.rollback = slowly

    async def run():
        transport = httpx2.ASGITransport(app=running.console.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://console") as client:
            first = asyncio.create_task(client.post("/rollback", json={}, headers=OPERATOR))
            await asyncio.to_thread(begun.wait, 10)
            second = await client.post("/rollback", json={}, headers=OPERATOR)
            go_on.set()
            return await first, second, await client.post("/rollback", json={}, headers=OPERATOR)

    first, second, third = asyncio.run(run())
    assert [first.status_code, second.status_code, third.status_code] == [200, 409, 200]
    assert error(second)["code"] == "conflict"
    assert [what for what, _ in running.asked] == ["rollback", "rollback"]


def test_more_comparisons_than_can_be_made_are_refused(running):
    go_on = threading.Event()
    running.note = lambda *_: go_on.wait(0.5) or Compared(3)
    answers = together(running, [("GET", "/shadow/comparison", {})] * 20)
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 503)


def test_no_path_is_redirected_to_the_loopback_address(running):
    assert running.call("GET", "/shadow/comparison/").status_code == 404


def test_a_closer_look_is_for_operators(tmp_path):
    running = Running(tmp_path)
    for query in ("?segments=true", "?disagreements=1"):
        assert running.call("GET", f"/shadow/comparison{query}").status_code == 401
    assert running.asked == []
    answer = running.call("GET", "/shadow/comparison?segments=true&disagreements=true", headers=OPERATOR)
    assert answer.status_code == 200
    assert running.asked == [("inspect", (None, None, False, True, True))]


def test_how_the_gate_stands_is_open(tmp_path):
    answer = Running(tmp_path).call("GET", "/shadow/gate")
    assert (answer.status_code, answer.json()) == (200, {"decision": "keep_watching"})


def test_canary_orders_are_passed_on_with_who_gave_them(tmp_path):
    running = Running(tmp_path)
    answer = running.call("POST", "/canary", json={"action": "freeze", "reason": "weekend"}, headers=OPERATOR)
    assert answer.status_code == 200
    ((_, (action, role, more)),) = running.asked
    assert (action, role, more["reason"]) == ("freeze", "challenger", "weekend")
    assert more["who"].startswith("operator@")
    wrong = running.call("POST", "/canary", json={"action": "explode"}, headers=OPERATOR)
    assert wrong.status_code == 422


def test_drift_is_open_and_shows_values_to_operators_only(running):
    assert running.call("GET", "/drift").json() == {"pairs": [], "next": "d"}
    assert running.call("GET", "/drift", headers=OPERATOR).status_code == 200
    assert running.asked == [("drift", (False,)), ("drift", (True,))]
    assert running.call("GET", "/drift", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert len(running.asked) == 2


def test_drift_that_nobody_watches_is_503_with_the_reason(running):
    running.fails = UnavailableError("nobody watches drift: shadow up")
    response = running.call("GET", "/drift")
    assert response.status_code == 503
    assert error(response)["message"] == "nobody watches drift: shadow up"


def test_a_viewer_reads_what_was_recorded_and_orders_nothing(tmp_path):
    viewer = {"Authorization": f"Bearer {add_key(tmp_path, 'vera', 'viewer', by='ada')[1]}"}
    running = Running(tmp_path)
    for method, path in GUARDED:
        answer = running.call(method, path, headers=viewer, json={"version": "2"} if path == "/promote" else {})
        assert answer.status_code == (200 if RULES[f"{method} {path}"] == "viewer" else 403), path
        assert answer.status_code == 200 or error(answer)["code"] == "forbidden"
    assert running.call("GET", "/shadow/comparison?segments=true", headers=viewer).status_code == 200
    running.call("GET", "/drift", headers=viewer)
    assert [what for what, _ in running.asked] == ["logs", "inspect", "drift"]
    assert running.asked[-1] == ("drift", (True,))


def test_an_order_by_key_is_recorded_under_its_name(tmp_path):
    olga = {"Authorization": f"Bearer {add_key(tmp_path, 'olga', 'operator', by='ada')[1]}"}
    running = Running(tmp_path)
    assert running.call("POST", "/rollback", json={}, headers=olga).status_code == 200
    ((_, more),) = running.asked
    assert more["who"].startswith("olga@")


def test_a_client_reports_events_and_sees_no_more_than_a_stranger(tmp_path):
    secret = add_key(tmp_path, "shop", "client", by="ada")[1]
    running = Running(tmp_path)
    assert running.call("POST", "/events", content=b"{}").status_code == 401
    assert running.asked == []
    assert running.call("POST", "/events", content=b"{}", headers={"X-API-Key": secret}).status_code == 202
    client = {"Authorization": f"Bearer {secret}"}
    assert running.call("GET", "/shadow/comparison?segments=true", headers=client).status_code == 403
    assert running.call("GET", "/audit", headers=client).status_code == 403
    assert running.call("GET", "/drift", headers=client).status_code == 200
    assert running.asked[-1] == ("drift", (False,))


@pytest.mark.parametrize("route", ["GET /audit", "GET /openapi.json", "POST /events"])
def test_a_console_with_a_route_of_which_nobody_said_who_may_use_it_does_not_start(tmp_path, monkeypatch, route):
    monkeypatch.delitem(RULES, route)
    with pytest.raises(AccessRuleError, match=f"{route} has no rule"):
        Running(tmp_path)
