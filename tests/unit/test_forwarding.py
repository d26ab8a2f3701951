"""What the gateway hands on to the console, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from pathlib import Path

import httpx2
import msgspec
import pytest
import uvicorn
from prometheus_client import generate_latest

from shadow_mlops.deployment import parse_deployment
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.gateway import Gateway, Limits, forwarding
from shadow_mlops.gateway.forwarding import FORWARDED
from shadow_mlops.gateway.openapi import merged
from shadow_mlops.telemetry.metrics import open_metrics

DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {"/promote": {"post": {"summary": "theirs"}}, "/health": {"get": {"summary": "theirs"}}},
    "components": {
        "schemas": {"Switch": {"type": "object"}, "Error": {"type": "string"}},
        "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
    },
}


class FakeConsole:
    """A real server that remembers what it was asked."""

    def __init__(self):
        self.seen = []
        self.connections = set()
        self.status, self.body, self.headers = 200, b'{"answer": 1}', [(b"x-own", b"1")]
        self.break_off = False

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.connections.add(scope["client"])
        if scope["path"] == "/openapi.json":
            status, answer, headers = 200, msgspec.json.encode(DOCUMENT), []
        else:
            self.seen.append((scope["method"], scope["raw_path"], scope["query_string"], dict(scope["headers"]), body))
            status, answer, headers = self.status, self.body, self.headers
        if self.break_off:
            raise RuntimeError("it dies")
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    @contextlib.contextmanager
    def serving(self):
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self, log_config=None, lifespan="off", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def console():
    return FakeConsole()


@pytest.fixture
def url(console):
    with console.serving() as url:
        yield url


class Running:
    def __init__(self, data: Path, **limits):
        self.word = data / "run" / "console.json"
        self.word.parent.mkdir()
        self.metrics = open_metrics()

        async def text():
            return generate_latest(self.metrics.registry)

        self.gateway = Gateway(
            parse_deployment("name: churn\n"), data, MemoryLog(), self.metrics, writer="gateway-0", metrics_text=text,
            limits=Limits(**limits),
        )  # fmt: skip

    def say(self, url):
        self.word.write_bytes(msgspec.json.encode({"url": url, "pid": 1}))

    def calls(self, *requests):
        async def run():
            transport = httpx2.ASGITransport(app=self.gateway.asgi, raise_app_exceptions=False, client=("10.0.0.9", 5))
            async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
                answers = [await client.request(method, path, **more) for method, path, more in requests]
            await self.gateway.console.close()
            return answers

        return asyncio.run(run())

    def call(self, method, path, **more):
        return self.calls((method, path, more))[0]


@pytest.fixture
def running(tmp_path):
    return Running(tmp_path)


def test_a_request_arrives_whole_and_its_answer_comes_back(running, console, url):
    running.say(url)
    console.status, console.body = 409, b'{"error": {}}'
    response = running.call(
        "POST", "/promote?dry=a%20b", content=b'{"version": "2"}',
        headers={"Authorization": "Bearer t", "Content-Type": "application/json", "X-Request-ID": "abc"},
    )  # fmt: skip
    ((method, path, query, headers, body),) = console.seen
    assert (method, path, query, body) == ("POST", b"/promote", b"dry=a%20b", b'{"version": "2"}')
    assert headers[b"authorization"] == b"Bearer t"
    assert headers[b"content-type"] == b"application/json"
    assert (response.status_code, response.content) == (409, b'{"error": {}}')
    assert response.headers["x-own"] == "1"
    assert response.headers.get_list("x-request-id") == ["abc"]
    assert (
        'shadow_http_requests_total{route="/promote",status="409"} 1.0'
        in generate_latest(running.metrics.registry).decode()
    )


def test_nobody_chooses_his_address_or_id_and_hops_stay_hops(running, console, url):
    running.say(url)
    console.headers = [
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"x-request-id", b"theirs"),
    ]
    given = {
        "X-Forwarded-For": "1.2.3.4",
        "Connection": "close, X-Mine",
        "X-Mine": "1",
        "X-Request-ID": "bad id",
        "TE": "trailers",
    }
    response = running.call("GET", "/shadow/logs", headers=given)
    ((_, _, _, headers, _),) = console.seen
    assert headers[b"x-forwarded-for"] == b"10.0.0.9"
    assert headers[b"x-request-id"].decode() == response.headers["x-request-id"] != "bad id"
    assert not {b"x-mine", b"te"} & headers.keys()
    assert not {"x-hop", "keep-alive", "connection"} & set(response.headers)


@pytest.mark.parametrize(("given", "status"), [("Bearer ", 200), ("Bearer \x01\x00", 400), ("Bearer \u00ff", 200)])
def test_a_header_that_cannot_be_handed_on_is_the_clients_fault(running, console, url, given, status):
    running.say(url)
    response = running.call("POST", "/rollback", json={}, headers={"Authorization": given.encode("latin-1")})
    assert response.status_code == status
    assert len(console.seen) == (status == 200)


def test_connections_are_kept(running, console, url):
    running.say(url)
    answers = running.calls(*[("GET", "/shadow/comparison", {})] * 20)
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len(console.connections) == 1


def test_a_restarted_console_is_found_again(running, console):
    with console.serving() as url:
        running.say(url)
        assert running.call("GET", "/audit").status_code == 200
    gone = running.call("GET", "/audit")
    assert gone.status_code == 503
    assert "shadow up" in gone.json()["error"]["message"]
    with console.serving() as url:
        running.say(url)
        assert running.call("GET", "/audit").status_code == 200


def test_without_a_console_the_answer_says_how_to_start_one(running):
    response = running.call("POST", "/rollback", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "`shadow console`" in response.json()["error"]["message"]
    assert response.headers["Retry-After"]


def test_an_order_whose_answer_is_lost_points_at_the_trail(running, console, url):
    running.say(url)
    console.headers = [(b"content-length", b"100")]  # more than it sends
    response = running.call("POST", "/rollback", json={})
    assert response.status_code == 503
    assert "/audit" in response.json()["error"]["message"]


def test_a_console_that_hangs_is_given_up(running, monkeypatch):
    monkeypatch.setattr(forwarding.ConsoleClient.ask, "__kwdefaults__", {"seconds": 0.1})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running.say(f"http://127.0.0.1:{listener.getsockname()[1]}")
        response = running.call("GET", "/shadow/comparison")
    assert response.status_code == 503
    assert "ReadTimeout" in response.json()["error"]["message"]


def test_a_body_that_is_too_large_is_not_handed_on(tmp_path, console, url):
    running = Running(tmp_path, body_bytes=100)
    running.say(url)
    assert running.call("POST", "/events", content=b"x" * 101).status_code == 413
    assert console.seen == []


def test_the_rate_limit_stands_in_front(tmp_path, console, url):
    running = Running(tmp_path, requests=2, window_seconds=3600)
    running.say(url)
    answers = running.calls(*[("POST", "/promote", {"json": {}})] * 4)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert len(console.seen) == 2


@pytest.mark.parametrize(
    "path", ["/shadow/logs", "/shadow/", "/drift", "/promote", "/rollback", "/retrain", "/audit", "/events"]
)
def test_these_paths_are_the_consoles(path):
    assert FORWARDED.fullmatch(path)


@pytest.mark.parametrize(
    "path", ["/", "/shadow", "/shadows/x", "/drift/x", "/promote/x", "/health", "/predict", "/models", "/docs"]
)
def test_these_are_not(path):
    assert not FORWARDED.fullmatch(path)


def test_one_document_has_both_halves_while_the_console_is_there(running, console, url):
    alone = running.call("GET", "/openapi.json").json()
    assert "/predict" in alone["paths"]
    assert "/promote" not in alone["paths"]
    running.say(url)
    both = running.call("GET", "/openapi.json").json()
    assert both["paths"]["/promote"] == {"post": {"summary": "theirs"}}
    assert both["paths"]["/health"] == alone["paths"]["/health"]
    assert both["components"]["schemas"].keys() >= {"Switch", "Features"}
    assert both["components"]["schemas"]["Error"] == alone["components"]["schemas"]["Error"]
    assert both["components"]["securitySchemes"]["operator"]["scheme"] == "bearer"
    assert running.call("GET", "/docs").status_code == 200


def test_merging_changes_neither_half():
    own = {"paths": {"/predict": {}}, "components": {"schemas": {"A": {}}}}
    before = msgspec.json.encode([own, DOCUMENT])
    assert set(merged(own, DOCUMENT, FORWARDED)["paths"]) == {"/predict", "/promote"}
    assert msgspec.json.encode([own, DOCUMENT]) == before
    assert merged(own, None, FORWARDED) == own
