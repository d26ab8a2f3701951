"""The gateway's HTTP face, in one process, over the in-memory log and a model that can be computed by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from shadow_mlops.access import RULES, add_key
from shadow_mlops.deployment import parse_deployment
from shadow_mlops.domain.errors import AccessRuleError, AppendError
from shadow_mlops.domain.events import EVENTS, OUTCOMES, Origin
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard, Serving
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.gateway import Gateway, Limits
from shadow_mlops.gateway.champion import assemble
from shadow_mlops.models.loading import LoadedModel
from shadow_mlops.telemetry.metrics import open_metrics

YAML = """
name: churn
entity: customer_id
features:
  b: {default: 0.25}
  note: {default: null}
"""
SIGNATURE = Signature(
    (
        Feature("a"),
        Feature("b"),
        Feature("n", "integer"),
        Feature("kind", "string"),
        Feature("note", "string"),
    )
)


class Sum:
    """P(1) = a / 10 + b / 10, +0.1 for kind 'x'; refuses a = 9."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, numbers, strings):
        self.batches.append(len(numbers))
        if (numbers[:, 0] == 9).any():
            raise RuntimeError("poisoned row")
        p = numbers[:, 0] / 10 + np.nan_to_num(numbers[:, 1]) / 10 + 0.1 * (strings[:, 0] == "x")
        return np.column_stack([1 - p, p])


class Running:
    """A gateway without a server, its log and its model."""

    def __init__(self, *, yaml: str = YAML, limits: Limits | None = None, slow: bool = False, data_dir: Path) -> None:
        self.log, self.model = MemoryLog(), Sum()
        self.metrics = open_metrics()
        deployment = parse_deployment(yaml)

        async def text() -> bytes:
            from prometheus_client import generate_latest

            return generate_latest(self.metrics.registry)

        self.gateway = Gateway(
            deployment, data_dir, self.log, self.metrics, writer="gateway-0", metrics_text=text, limits=limits
        )
        card = ModelCard(
            name="churn", version="2.1.0", registry_version="1", task="binary", runtime="onnx", file="m", sha256="",
            signature=SIGNATURE, classes=("0", "1"), metrics={"accuracy": 0.9},
        )  # fmt: skip
        loaded = LoadedModel(data_dir, card, self.model, 0.01 if slow else 1e-5)
        serving = Serving(generation=1, published_at="2026-01-01T00:00:00Z", champion="models/churn/1")
        self.served = assemble(deployment, serving, loaded, {})
        self.gateway.follower.served = self.served
        self.gateway._swap(self.served)
        self.deployment = deployment

    def shadow(self, **signatures) -> None:
        """Let challengers of these signatures shadow."""
        cards = {
            name: msgspec.structs.replace(self.served.card, version=name, signature=signature)
            for name, signature in signatures.items()
        }
        self.served = assemble(self.deployment, self.served.serving, self.served.loaded, cards)
        self.gateway._swap(self.served)

    def call(self, method: str, path: str, **kwargs) -> httpx2.Response:
        return self.calls([(method, path, kwargs)])[0]

    def calls(self, requests) -> list[httpx2.Response]:
        async def run():
            transport = httpx2.ASGITransport(app=self.gateway.asgi, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
                return await asyncio.gather(*(client.request(m, p, **k) for m, p, k in requests))

        return asyncio.run(run())

    def events(self):
        return [f.batch for f in self.log.tail(EVENTS).poll(10_000)]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(data_dir=tmp_path)


GOOD = {"customer_id": "C-1", "a": 2, "b": 1.0, "n": 3, "kind": "x", "note": "hi"}


def test_an_answer_has_the_six_fields_of_the_contract(running: Running):
    response = running.call("POST", "/predict", json=GOOD, headers={"X-Request-ID": "abc"})
    assert response.status_code == 200
    assert list(response.json()) == [
        "probability",
        "label",
        "confidence",
        "risk_tier",
        "model_version",
        "request_id",
    ]
    body = response.json()
    assert body["probability"] == pytest.approx(0.4)
    assert (body["label"], body["risk_tier"], body["model_version"], body["request_id"]) == (
        0,
        "MEDIUM",
        "2.1.0",
        "abc",
    )
    assert body["confidence"] == pytest.approx(0.6)
    assert response.headers["X-Request-ID"] == "abc"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    ("p", "tier", "label"),
    [
        (0.0, "LOW", 0),
        (0.25, "LOW", 0),
        (0.3, "MEDIUM", 0),
        (0.5, "MEDIUM", 1),
        (0.75, "HIGH", 1),
        (0.9, "CRITICAL", 1),
        (1.0, "CRITICAL", 1),
    ],
)
def test_tiers_are_upper_bounds_and_the_threshold_is_inclusive(running: Running, p: float, tier: str, label: int):
    body = running.call("POST", "/predict", json={**GOOD, "a": 0, "b": p * 10, "kind": "y"}).json()
    assert (body["risk_tier"], body["label"]) == (tier, label)


def test_what_was_answered_is_in_the_log_with_its_features_and_origins(running: Running):
    running.call(
        "POST",
        "/predict",
        json={"customer_id": 7, "a": True, "n": None, "kind": "x"},
        headers={"X-Request-ID": "r1"},
    )
    (batch,) = running.events()
    assert batch.request_ids == ["r1"]
    assert batch.entities == ["7"]
    assert batch.schema.version == "2.1.0"
    assert batch.schema.numbers == ("a", "b", "n")
    np.testing.assert_array_equal(batch.numbers, [[1.0, 0.25, np.nan]])
    assert batch.strings.tolist() == [["x", None]]
    assert batch.origins is not None
    assert batch.origins.tolist() == [[Origin.REQUEST, Origin.DEFAULT, Origin.MISSING, Origin.REQUEST, Origin.MISSING]]
    assert batch.scores[0, 1] == pytest.approx(0.225)


def test_concurrent_requests_share_one_model_run_and_one_frame(running: Running):
    responses = running.calls([("POST", "/predict", {"json": {**GOOD, "a": i / 10}}) for i in range(20)])
    assert [r.status_code for r in responses] == [200] * 20
    assert [r.json()["probability"] for r in responses] == pytest.approx([0.2 + i / 100 for i in range(20)])
    assert max(running.model.batches) > 1
    assert len(running.events()) == len(running.model.batches)


def test_a_slow_model_answers_from_a_thread(tmp_path: Path):
    running = Running(data_dir=tmp_path, slow=True)
    responses = running.calls([("POST", "/predict", {"json": {**GOOD, "a": i / 10}}) for i in range(20)])
    assert [r.json()["probability"] for r in responses] == pytest.approx([0.2 + i / 100 for i in range(20)])
    assert sum(len(b) for b in running.events()) == 20


def test_a_row_on_which_the_model_fails_takes_no_other_with_it(running: Running):
    rows = [{**GOOD, "a": a} for a in (1, 9, 2)]
    codes = [r.status_code for r in running.calls([("POST", "/predict", {"json": row}) for row in rows])]
    assert codes == [200, 500, 200]
    assert sum(len(b) for b in running.events()) == 2


BAD = [
    (b'{"a": 1', 400, "malformed_body", None),
    (b"", 400, "malformed_body", None),
    (b"\xff\xfe", 400, "malformed_body", None),
    (b'{"kind": "\xff"}', 400, "malformed_body", None),
    (b'{"kind": "\\ud800"}', 422, "invalid_fields", "kind"),
    (b"[" * 100_000, 400, "malformed_body", None),
    (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed_body", None),
    (b"[1, 2]", 422, "invalid_fields", ""),
    (b'{"a": "1", "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": NaN, "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": -Infinity, "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1e999, "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1e300, "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1' + b"0" * 5000 + b', "n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1, "n": 1.5, "kind": "x"}', 422, "invalid_fields", "n"),
    (b'{"a": 1, "n": 1}', 422, "invalid_fields", "kind"),
    (b'{"n": 1, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1, "n": 1, "kind": 5}', 422, "invalid_fields", "kind"),
    (b'{"a": 1, "n": 1, "kind": "x", "custmer_id": 1}', 422, "invalid_fields", "custmer_id"),
    (b'{"a": [1], "n": {}, "kind": "x"}', 422, "invalid_fields", "a"),
    (b'{"a": 1, "n": 1, "kind": "' + b"x" * 5000 + b'"}', 422, "invalid_fields", "kind"),
    (b'{"a": 1, "n": 1, "kind": "x", "customer_id": ""}', 422, "invalid_fields", "customer_id"),
    (b'{"a": "' + b"x" * 2_000_000 + b'"}', 413, "too_large", None),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), BAD, ids=[f"{b[:24]!r}-{s}" for b, s, *_ in BAD])
def test_bad_input_is_named_in_the_one_error_shape(
    running: Running, body: bytes, status: int, code: str, field: str | None
):
    response = running.call(
        "POST", "/predict", content=body, headers={"Content-Type": "application/json", "X-Request-ID": "r"}
    )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "details", "request_id"}
    assert (error["code"], error["request_id"]) == (code, "r")
    if field is not None:
        assert error["details"][0]["field"] == field
        assert error["details"][0]["problem"]
    assert running.events() == []


def test_an_unknown_field_is_told_the_nearest_name(running: Running):
    response = running.call("POST", "/predict", json={**GOOD, "custmer_id": 1})
    assert "`customer_id`" in response.json()["error"]["details"][0]["problem"]


def test_a_challenger_takes_no_answer_from_clients_that_do_not_know_its_features(running: Running):
    running.shadow(challenger=Signature((*SIGNATURE.features, Feature("fresh"), Feature("colour", "string"))))
    assert running.call("POST", "/predict", json=GOOD).status_code == 200
    assert running.call("POST", "/predict", json=GOOD | {"fresh": 2, "colour": "red"}).status_code == 200
    without, given = running.events()
    assert np.isnan(without.numbers[0][without.schema.numbers.index("fresh")])
    assert without.strings[0][without.schema.strings.index("colour")] is None
    assert given.numbers[0][given.schema.numbers.index("fresh")] == 2
    missing = {name: value for name, value in GOOD.items() if name != "a"}
    assert running.call("POST", "/predict", json=missing).status_code == 422  # the champion's own


def test_a_challenger_that_does_not_fit_the_deployment_keeps_nobody_else_away(running: Running):
    odd = Signature((*SIGNATURE.features, Feature("customer_id", "string")))
    good = Signature((*SIGNATURE.features, Feature("fresh")))
    running.shadow(challenger=odd, other=good)
    assert running.call("POST", "/predict", json=GOOD | {"fresh": 1}).status_code == 200


def test_all_problems_are_told_at_once(running: Running):
    details = running.call("POST", "/predict", json={"a": "x", "kind": 1, "zzz": 0}).json()["error"]["details"]
    assert {d["field"] for d in details} == {"a", "kind", "zzz"}


def test_unknown_fields_pass_where_the_deployment_says_so(tmp_path: Path):
    running = Running(yaml=YAML + "unknown_fields: ignore\n", data_dir=tmp_path)
    assert running.call("POST", "/predict", json={**GOOD, "zzz": 0}).status_code == 200


def test_a_body_that_is_not_declared_as_json_is_refused(running: Running):
    response = running.call("POST", "/predict", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    ok = running.call(
        "POST",
        "/predict",
        content=json.dumps(GOOD),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert ok.status_code == 200


@pytest.mark.parametrize("given", ["bad id", "x" * 129, "ü", ""])
def test_an_invalid_request_id_is_replaced(running: Running, given: str):
    response = running.call("POST", "/predict", json=GOOD, headers={"X-Request-ID": given.encode()})
    assert response.headers["X-Request-ID"] != given
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


def test_a_repeated_request_id_is_answered_and_logged_again(running: Running):
    for _ in range(2):
        assert running.call("POST", "/predict", json=GOOD, headers={"X-Request-ID": "same"}).status_code == 200
    assert [b.request_ids for b in running.events()] == [["same"], ["same"]]


def test_a_batch_answers_each_instance_under_an_id_of_its_own(running: Running):
    response = running.call(
        "POST", "/predict/batch", json={"instances": [GOOD, {**GOOD, "a": 3}]}, headers={"X-Request-ID": "b"}
    )
    predictions = response.json()["predictions"]
    assert [p["probability"] for p in predictions] == pytest.approx([0.4, 0.5])
    assert [p["request_id"] for p in predictions] == ["b-0", "b-1"]
    assert [i for b in running.events() for i in b.request_ids] == ["b-0", "b-1"]
    assert running.call("POST", "/predict/batch", json={"instances": []}).json() == {"predictions": []}


def test_one_bad_row_refuses_the_batch_and_names_its_index(running: Running):
    rows = [GOOD, {**GOOD, "a": "x"}, {**GOOD, "n": 1.5}, 7]
    response = running.call("POST", "/predict/batch", json={"instances": rows})
    assert response.status_code == 422
    found = {(d["index"], d["field"]) for d in response.json()["error"]["details"]}
    assert found == {(1, "a"), (2, "n"), (3, "")}
    assert running.events() == []


def test_a_batch_over_the_limit_is_refused(tmp_path: Path):
    running = Running(data_dir=tmp_path, limits=Limits(batch_rows=3))
    response = running.call("POST", "/predict/batch", json={"instances": [GOOD] * 4})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


def test_a_batch_of_another_form_is_refused(running: Running):
    assert running.call("POST", "/predict/batch", json={"rows": []}).status_code == 422
    assert running.call("POST", "/predict/batch", json=[GOOD]).status_code == 422
    assert (
        running.call("POST", "/predict/batch", content=b"{", headers={"Content-Type": "application/json"}).status_code
        == 400
    )


def test_the_rate_limit_answers_429_with_what_a_client_needs(tmp_path: Path):
    running = Running(data_dir=tmp_path, limits=Limits(requests=5, window_seconds=60))
    responses = [running.call("POST", "/predict", json=GOOD) for _ in range(7)]
    assert [r.status_code for r in responses] == [200] * 5 + [429] * 2
    limited = responses[-1]
    assert limited.json()["error"]["code"] == "rate_limited"
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert limited.headers["RateLimit-Limit"] == "5"
    assert limited.headers["RateLimit-Remaining"] == "0"
    assert running.call("GET", "/health/live").status_code == 200


class Full:
    """An appender on a full disk."""

    def append(self, _batch):
        raise AppendError("No space left on device")

    def sync(self):
        raise AppendError("No space left on device")

    def close(self):
        return None


def test_a_full_disk_is_answered_and_counted_by_default(running: Running):
    running.gateway.predictor._appender = Full()
    assert running.call("POST", "/predict", json=GOOD).status_code == 200
    assert 'shadow_events_lost_total{stream="events"} 1.0' in running.call("GET", "/metrics").text
    health = running.call("GET", "/health").json()
    assert health["checks"]["event_log"]["status"] == "degraded"


def test_a_full_disk_refuses_where_the_deployment_says_so(tmp_path: Path):
    running = Running(yaml=YAML + "log: {on_failure: refuse}\n", data_dir=tmp_path)
    running.gateway.predictor._appender = Full()
    response = running.call("POST", "/predict", json=GOOD)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "Retry-After" in response.headers
    assert running.call("GET", "/health").status_code == 503


def test_sampling_is_deterministic_by_entity_and_recorded(tmp_path: Path):
    running = Running(yaml=YAML + "shadow: {sample: 0.3}\n", data_dir=tmp_path)
    rows = [{**GOOD, "customer_id": f"C-{i % 200}"} for i in range(400)]
    running.calls([("POST", "/predict", {"json": row}) for row in rows])
    by_entity: dict[str, set[bool]] = {}
    for batch in running.events():
        for entity, sampled in zip(batch.entities, batch.sampled, strict=True):
            by_entity.setdefault(entity, set()).add(bool(sampled))
    assert all(len(v) == 1 for v in by_entity.values())
    share = np.mean([v == {True} for v in by_entity.values()])
    assert 0.15 < share < 0.45


OUTCOMES_GOOD = [
    ({"request_id": "r", "label": 1}, 1),
    ({"request_id": "r", "label": "yes"}, 1),
    ({"request_id": "r", "label": True, "time": "2026-01-01T00:00:00Z"}, 1),
    ({"entity": "C-1", "time": "2026-01-01T00:00:00+02:00", "label": 0}, 1),
    (
        {
            "outcomes": [
                {"request_id": "r", "label": 1},
                {"entity": 5, "time": "2026-01-01T00:00:00Z", "label": 0.5},
            ]
        },
        2,
    ),
    ({"outcomes": []}, 0),
]


@pytest.mark.parametrize(("body", "n"), OUTCOMES_GOOD)
def test_outcomes_are_accepted_and_logged(running: Running, body: dict, n: int):
    response = running.call("POST", "/outcomes", json=body)
    assert (response.status_code, response.json()) == (202, {"accepted": n})
    assert sum(len(f.batch) for f in running.log.tail(OUTCOMES).poll(100)) == n


@pytest.mark.parametrize(
    "body",
    [
        {"label": 1},
        {"request_id": "r"},
        {"entity": "e", "label": 1},
        {"request_id": "r", "entity": "e", "time": "2026-01-01T00:00:00Z", "label": 1},
        {"request_id": "r", "label": 1, "time": "2026-01-01"},
        {"request_id": "r", "label": 1, "time": "2026-01-01T00:00:00"},
        {"request_id": "r", "label": None},
        {"request_id": "r", "label": [1]},
        {"request_id": "r", "label": 1, "extra": 0},
        {"outcomes": [{"request_id": "r", "label": 1}, {"label": 1}]},
        {"outcomes": 5},
    ],
)
def test_outcomes_of_a_wrong_form_are_refused_as_a_whole(running: Running, body: dict):
    response = running.call("POST", "/outcomes", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_fields")
    assert response.json()["error"]["details"]
    assert running.log.tail(OUTCOMES).poll(100) == []


def test_outcomes_that_cannot_be_logged_are_not_accepted(running: Running):
    running.gateway.asgi._outcomes._appender = Full()
    response = running.call("POST", "/outcomes", json={"request_id": "r", "label": 1})
    assert response.status_code == 503


def test_before_the_first_champion_predictions_are_503_and_health_is_down(tmp_path: Path):
    running = Running(data_dir=tmp_path)
    running.gateway.predictor._served = running.gateway.follower.served = None
    assert running.call("POST", "/predict", json=GOOD).status_code == 503
    assert running.call("GET", "/models").status_code == 503
    health = running.call("GET", "/health")
    assert (health.status_code, health.json()["status"], health.json()["checks"]["champion"]["status"]) == (
        503,
        "down",
        "down",
    )
    assert running.call("GET", "/health/ready").status_code == 503
    assert running.call("GET", "/health/live").status_code == 200


def test_health_is_degraded_while_companions_are_silent_and_ok_when_they_speak(running: Running, tmp_path: Path):
    assert running.call("GET", "/health").json()["status"] == "degraded"
    (tmp_path / "run").mkdir(exist_ok=True)
    for name in ("resolver", "accounting"):
        (tmp_path / "run" / f"{name}.json").write_text('{"status": "ok"}')
    health = running.call("GET", "/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert set(health.json()["checks"]) >= {"champion", "event_log", "registry", "monitor", "deployment"}


def test_models_shows_metrics_predictions_and_latency(running: Running):
    running.call("POST", "/predict", json=GOOD)
    champion = running.call("GET", "/models").json()["champion"]
    assert {
        "name",
        "version",
        "registry_version",
        "pinned",
        "metrics",
        "predictions",
        "latency_p50_ms",
        "latency_p99_ms",
    } <= set(champion)
    assert (champion["version"], champion["predictions"], champion["pinned"]) == ("2.1.0", 1, False)
    assert champion["latency_p50_ms"] > 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/health", 405),
        ("POST", "/nowhere", 404),
    ],
)
def test_every_error_has_the_one_shape(running: Running, method: str, path: str, status: int):
    response = running.call(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "details", "request_id"}
    assert response.headers["X-Request-ID"] == response.json()["error"]["request_id"]


def test_the_documentation_needs_no_internet(running: Running):
    for path in ("/docs", "/redoc"):
        page = running.call("GET", path)
        assert page.status_code == 200
        assert "https://" not in page.text.replace("https://fonts.googleapis.com", "https://") or "cdn" not in page.text


def test_the_openapi_example_is_answered(running: Running):
    spec = running.call("GET", "/openapi.json").json()
    assert {"/predict", "/predict/batch", "/outcomes", "/health", "/models", "/metrics"} <= set(spec["paths"])
    content = spec["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert running.call("POST", "/predict", json=content["example"]).status_code == 200
    features = spec["components"]["schemas"]["Features"]
    assert set(features["properties"]) == {"customer_id", "a", "b", "n", "kind", "note"}
    assert set(features["required"]) == {"a", "n", "kind"}
    assert features["additionalProperties"] is False


def test_a_champion_of_another_task_or_class_is_refused(tmp_path: Path):
    from shadow_mlops.domain.errors import DeploymentError

    running = Running(data_dir=tmp_path)
    for yaml in ("name: churn\ntask: regression\n", "name: churn\npositive: yes_please\n", "name: other\n"):
        with pytest.raises(DeploymentError):
            assemble(parse_deployment(yaml), running.served.serving, running.served.loaded, {})


def test_answers_are_the_bytes_that_the_schema_promises(running: Running):
    from shadow_mlops.gateway.answers import BinaryAnswer

    raw = running.call("POST", "/predict", json=GOOD).content
    assert msgspec.json.decode(raw, type=BinaryAnswer).model_version == "2.1.0"


def test_with_a_key_configured_predictions_and_outcomes_need_one(tmp_path: Path):
    secret = add_key(tmp_path, "shop", "client", by="ada")[1]
    viewer = add_key(tmp_path, "vera", "viewer", by="ada")[1]
    running = Running(data_dir=tmp_path)
    bodies = {
        "/predict": GOOD,
        "/predict/batch": {"instances": [GOOD]},
        "/outcomes": {"request_id": "r", "label": 1},
    }
    for path, body in bodies.items():
        for headers, status in (
            ({}, 401),
            ({"Authorization": f"Bearer {secret}x"}, 401),
            ({"Authorization": f"Bearer {viewer}"}, 403),
        ):
            with capture_logs() as lines:
                answer = running.call("POST", path, json=body, headers=headers)
            assert answer.status_code == status, path
            assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
            assert answer.json()["error"]["request_id"] == answer.headers["X-Request-ID"]
            assert secret not in answer.text + str(lines)
        assert running.events() == []
    for headers in ({"Authorization": f"Bearer {secret}"}, {"X-API-Key": secret}):
        codes = [running.call("POST", path, json=body, headers=headers).status_code for path, body in bodies.items()]
        assert codes == [200, 200, 202]
    assert running.call("GET", "/health/live").status_code == 200


def test_credentials_that_nobody_asked_for_change_nothing(running: Running):
    for headers in ({"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}):
        assert running.call("POST", "/predict", json=GOOD, headers=headers).status_code == 200


def test_a_gateway_with_a_route_of_which_nobody_said_who_may_use_it_does_not_start(tmp_path: Path, monkeypatch):
    monkeypatch.delitem(RULES, "GET /models")
    with pytest.raises(AccessRuleError, match="GET /models has no rule"):
        Running(data_dir=tmp_path)


def test_a_rule_that_the_frameworks_routes_cannot_keep_keeps_the_gateway_from_starting(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(RULES, "GET /metrics", "viewer")
    with pytest.raises(AccessRuleError, match="nothing before it looks at credentials"):
        Running(data_dir=tmp_path)
