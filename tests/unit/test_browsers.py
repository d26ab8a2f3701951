"""What browsers are told: headers of every answer, what the documentation may load, and whose pages may call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import httpx2
import pytest

from shadow_mlops.access import DATA_HEADERS
from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.gateway import Gateway
from shadow_mlops.processes.settings import load_settings
from shadow_mlops.telemetry.metrics import open_metrics

ORIGIN = "https://app.example.com"


async def no_metrics() -> bytes:
    return b""


def gateway(folder, *, origins=()):
    return Gateway(
        parse_deployment("name: churn"),
        folder,
        MemoryLog(),
        open_metrics(),
        writer="gateway-0",
        metrics_text=no_metrics,
        origins=origins,
    )


def ask(served, method, path, **more):
    async def run():
        transport = httpx2.ASGITransport(app=served.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.request(method, path, **more)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/predict", 415),
        ("GET", "/predict", 405),
        ("GET", "/health/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("GET", "/drift", 503),  # of the console, which is not there
        ("GET", "/docs", 200),
        ("GET", "/static-offline-docs/swagger-ui.css", 200),
    ],
)
def test_every_answer_has_the_headers_once(tmp_path, method, path, status):
    answer = ask(gateway(tmp_path), method, path)
    assert answer.status_code == status
    assert answer.headers["X-Request-ID"]
    for name, value in DATA_HEADERS:
        assert answer.headers.get_list(name.decode()) == [value.decode()]
    (policy,) = answer.headers.get_list("Content-Security-Policy")
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_the_documentation_may_load_what_it_needs_and_it_is_there(tmp_path, page):
    served = gateway(tmp_path)
    answer = ask(served, "GET", page)
    policy = dict(each.split(" ", 1) for each in answer.headers["Content-Security-Policy"].split("; "))
    assert "'unsafe-inline'" not in policy["script-src"]
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    for script in inline:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy["script-src"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert inline or loaded
    for address in loaded:
        assert address.startswith("/"), "nothing from elsewhere"
        found = ask(served, "GET", address)
        assert found.status_code == 200
        assert found.content
    assert not re.search(r"<script(?! src=|>)| on\w+=", answer.text), "a script that no hash allows"


PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


def test_pages_of_other_origins_are_kept_out_by_default(tmp_path):
    served = gateway(tmp_path)
    for answer in (
        ask(served, "OPTIONS", "/predict", headers=PREFLIGHT),
        ask(served, "GET", "/health/live", headers={"Origin": ORIGIN}),
    ):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_a_named_origin_is_let_in_and_no_other(tmp_path):
    served = gateway(tmp_path, origins=(ORIGIN,))
    allowed = ask(served, "OPTIONS", "/predict", headers=PREFLIGHT)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert "X-API-Key" in allowed.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    refused = ask(served, "OPTIONS", "/predict", headers={**PREFLIGHT, "Origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")
    assert "Access-Control-Allow-Origin" not in refused.headers
    for answer in (allowed, refused):
        assert answer.headers["X-Request-ID"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for origin, shown in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        answer = ask(served, "POST", "/predict", headers={"Origin": origin}, json={})
        assert answer.headers.get("Access-Control-Allow-Origin") == shown
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origins",
    ["*", "app.example.com", "https://app.example.com/", "https://*.example.com", "https://a.example,ftp://b"],
)
def test_what_is_no_origin_is_told_at_start(monkeypatch, origins):
    monkeypatch.setenv("CORS_ORIGINS", origins)
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings()
