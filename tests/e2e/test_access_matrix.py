"""Every route of a running system against every kind of caller: the table of rules is what happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from shadow_mlops.access import ALLOWED, CLOSER, RULES, add_key
from system import System, get, trained_example, wait_for

NOT_IN_THE_DOCUMENT = {
    "GET /openapi.json", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc", "* /static-offline-docs",
}  # fmt: skip
ROLES = {"client": "client", "viewer": "viewer", "operator": "operator", "token": "operator"}
CALLERS = ["none", *ROLES, "expired", "wrong", "revoked"]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    data = trained_example(tmp_path_factory.mktemp("access") / "data")
    with System(data, environment={"CORS_ORIGINS": "https://app.example.com"}).running() as running:
        wait_for(lambda: b"/promote" in get(f"{running.url}/openapi.json")[1], "the console's routes are published")
        yield running


def shadow(system, *arguments, **environment):
    command = [Path(sys.executable).with_name("shadow"), *arguments, "--data-dir", system.data]
    environment = os.environ | {"DEPLOYMENT_FILE": str(system.deployment_file)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def made(system, name, role):
    done = shadow(system, "access", "add", name, "--role", role)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(system, route, headers, body=b"{"):
    """Status and headers; the body of an order is none, so that nothing is promoted by those who may."""
    method, path = route.split()
    more = {"Content-Type": "application/json", **headers}
    request = Request(system.url + path, data=body if method == "POST" else None, headers=more, method=method)
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def expected(route, caller):
    """401, 403, or None for let in."""
    may = RULES[route]
    if may == "open":
        # what is shown to a route with a closer look is checked, so that nobody takes the short answer for the long one
        return 401 if route == "GET /drift" and caller in {"expired", "wrong", "revoked"} else None
    if caller not in ROLES:
        return 401
    return None if ROLES[caller] in ALLOWED[may] else 403


@pytest.mark.slow
def test_every_route_lets_in_whom_its_rule_names_and_nobody_else(system):
    document = json.loads(get(f"{system.url}/openapi.json")[1])
    routes = [f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item]
    assert set(routes) == set(RULES) - NOT_IN_THE_DOCUMENT
    for route in ("POST /predict", "POST /outcomes", "POST /events"):
        assert ask(system, route, {})[0] == 400, "open while there is no client's key"

    secrets = {name: made(system, f"key-{name}", role) for name, role in ROLES.items() if name != "token"}
    secrets["token"] = (system.data / "operator-token").read_text().strip()
    past = datetime.now(UTC) - timedelta(seconds=1)
    secrets["expired"] = add_key(system.data, "key-expired", "operator", by="test", expires=past)[1]
    secrets["wrong"] = secrets["client"][:-1] + ("A" if secrets["client"][-1] != "A" else "B")
    secrets["revoked"] = made(system, "key-revoked", "operator")
    time.sleep(1.1)  # the files are looked at once a second
    assert ask(system, "GET /audit", {"Authorization": f"Bearer {secrets['revoked']}"})[0] == 200
    assert shadow(system, "access", "revoke", "key-revoked").returncode == 0
    time.sleep(1.1)

    wrong = []
    for route in [*sorted(routes), "GET /docs", "GET /redoc", "GET /openapi.json"]:
        for caller in CALLERS:
            headers = {"Authorization": f"Bearer {secrets[caller]}"} if caller in secrets else {}
            status, answered, body = ask(system, route, headers)
            refused = status if status in {401, 403} else None
            if refused != expected(route, caller):
                wrong.append((route, caller, status))
            if status in {401, 403}:
                assert set(json.loads(body)) == {"error"}
                assert (answered["WWW-Authenticate"] == "Bearer") is (status == 401)
            assert answered["X-Content-Type-Options"] == "nosniff", route
            assert answered["X-Request-ID"], route
            assert not any(secret.encode() in body for secret in secrets.values())
    assert wrong == []
    for route in CLOSER:
        assert ask(system, f"{route}?segments=true", {"Authorization": f"Bearer {secrets['viewer']}"})[0] == 200

    entries = json.loads(ask(system, "GET /audit", {"Authorization": f"Bearer {secrets['viewer']}"})[2])["entries"]
    assert [e["details"]["key"] for e in entries if e["action"] == "access revoke"] == ["key-revoked"]
    written = "".join(
        path.read_text(errors="replace")
        for path in [system.output, *system.data.glob("*.json"), system.data / "state.db"]
    )
    assert not [caller for caller, secret in secrets.items() if secret in written]


@pytest.mark.slow
def test_traffic_with_a_clients_key_is_answered_and_without_one_is_not(system):
    secret = made(system, "traffic", "client")
    time.sleep(1.1)
    sending = ["traffic", "--url", system.url, "--example", "churn", "--count", "50", "--label-delay", "0"]
    sent = shadow(system, *sending, "--format", "json", SHADOW_API_KEY=secret)
    assert sent.returncode == 0, sent.stderr
    assert {name: json.loads(sent.stdout)[name] for name in ("ok", "labels_posted")} == {"ok": 50, "labels_posted": 50}
    refused = shadow(system, *sending, SHADOW_API_KEY="")
    assert (refused.returncode, "SHADOW_API_KEY" in refused.stdout) == (1, True)


@pytest.mark.slow
def test_a_named_origin_may_call(system):
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    status, answered, _ = ask(system, "OPTIONS /predict", asked)
    assert (status, answered["Access-Control-Allow-Origin"]) == (200, "https://app.example.com")
