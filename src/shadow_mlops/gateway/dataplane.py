"""The routes that clients call for every prediction, as plain ASGI in front of the framework.

FastAPI's routing costs as much as the whole rest of a prediction (measured: 41k requests/s bare, 10.6k through a
FastAPI route); these routes stand in the same OpenAPI document (:mod:`~shadow_mlops.gateway.openapi`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from shadow_mlops.access import RULES, Keyring, require_rules
from shadow_mlops.deployment.columns import Stored
from shadow_mlops.domain.errors import (
    BodyTooLargeError,
    InvalidFieldsError,
    MalformedBodyError,
    Problem,
    RateLimitedError,
    ShadowError,
)
from shadow_mlops.gateway.answers import Answer
from shadow_mlops.gateway.browsers import hardened
from shadow_mlops.gateway.limiter import RateLimiter
from shadow_mlops.gateway.outcomes import OutcomeIntake
from shadow_mlops.gateway.predict import Predictor
from shadow_mlops.gateway.stored import StoredFeatures
from shadow_mlops.gateway.transport import (
    ClientGoneError,
    Headers,
    client_of,
    read_body,
    request_id_of,
    require_json,
    respond,
)
from shadow_mlops.httperrors import error_response, http_error_response
from shadow_mlops.telemetry.metrics import Metrics

_encode = msgspec.json.encode
_UNLIMITED = re.compile(r"/(health(/ready|/live)?|metrics)")  # probes and scrapes must get through when a client storms

log = structlog.get_logger()


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /predict/batch``."""

    instances: list[Any]


class DataPlane:
    """ASGI application: predict, batch and outcomes here, every other path in the application behind.

    Parameters
    ----------
    predictor
        Answers rows.
    outcomes
        Takes outcomes.
    rest
        The application of all other routes.
    keys
        Knows callers by their keys.
    limiter
        Requests per client; None: unlimited.
    max_body, max_rows
        Bounds of a body, in bytes, and of a batch, in rows.
    stored
        Completes requests from a feature store; None: there is none.
    """

    def __init__(
        self,
        predictor: Predictor,
        outcomes: OutcomeIntake,
        rest: ASGIApp,
        metrics: Metrics,
        *,
        keys: Keyring,
        limiter: RateLimiter | None,
        max_body: int,
        max_rows: int,
        stored: StoredFeatures | None = None,
    ) -> None:
        self._predictor = predictor
        self._stored = stored
        self._outcomes = outcomes
        self._rest = rest
        self._metrics = metrics
        self._keys = keys
        self._limiter = limiter
        self._max_body = max_body
        self._max_rows = max_rows
        self._routes: dict[str, Callable[[Headers, Receive, str], Awaitable[tuple[int, bytes]]]] = {
            "/predict": self._predict,
            "/predict/batch": self._batch,
            "/outcomes": self._report,
        }
        require_rules([f"POST {path}" for path in self._routes], checked=True)
        self._rules = {path: RULES[f"POST {path}"] for path in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path: str = scope["path"]
        route = self._routes.get(path)
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        try:
            if self._limiter is not None and (route is not None or not _UNLIMITED.fullmatch(path)):
                self._limiter.take(client_of(scope))
            if route is None:
                scope["request_id"] = request_id
                await self._rest(scope, receive, hardened(send))
                return
            if scope["method"] != "POST":
                self._metrics.requests.labels(path, "405").inc()
                body = http_error_response(405, f"{path} takes POST", request_id)
                await respond(send, 405, body, request_id, {"Allow": "POST"})
                return
            self._keys.admit(self._rules[path], headers)
            status, body = await route(headers, receive, request_id)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - mapped to the one error shape; the unexpected is logged in full
            await self._fail(error, path if route is not None else "other", request_id, send)
            return
        await respond(send, status, body, request_id)

    async def _fail(self, error: Exception, path: str, request_id: str, send: Send) -> None:
        status, body, extra = error_response(error, request_id)
        if status == 500:
            shown = None if isinstance(error, ShadowError) else error
            log.error("a request failed", route=path, request_id=request_id, reason=str(error), exc_info=shown)
        if isinstance(error, RateLimitedError):
            self._metrics.rate_limited.inc()
        self._metrics.requests.labels(path, str(status)).inc()
        await respond(send, status, body, request_id, extra)

    async def _predict(self, headers: Headers, receive: Receive, request_id: str) -> tuple[int, bytes]:
        received = time.monotonic_ns()
        require_json(headers)
        body = await read_body(receive, headers, self._max_body)
        fields = self._predictor.served.fields
        values = fields.decode(body)
        stored = None
        if self._stored is not None and (entity := self._stored.wanted(fields, values)) is not None:
            found = await self._stored.read(fields, entity)
            if self._predictor.served.fields is not fields:  # another champion has come meanwhile
                fields = self._predictor.served.fields
                values = fields.decode(body)
            values, stored = self._stored.fill(fields, values, found)
        return 200, _encode(await self._predictor.submit(values, request_id, received, stored))

    async def _batch(self, headers: Headers, receive: Receive, request_id: str) -> tuple[int, bytes]:
        received = time.monotonic_ns()
        require_json(headers)
        body = await read_body(receive, headers, self._max_body)
        fields = self._predictor.served.fields
        instances = _instances(body)
        if len(instances) > self._max_rows:
            raise BodyTooLargeError(f"the batch has {len(instances)} instances, at most {self._max_rows} are allowed")
        rows = fields.convert_each(instances)
        stored: list[Stored | None] = [None] * len(rows)
        if self._stored is not None:
            wanted = [self._stored.wanted(fields, row) for row in rows]
            found = await asyncio.gather(*[self._stored.read(fields, each) for each in wanted if each is not None])
            if self._predictor.served.fields is not fields:
                fields = self._predictor.served.fields
                rows = fields.convert_each(instances)
            places = [place for place, each in enumerate(wanted) if each is not None]
            for place, row in zip(places, found, strict=True):
                rows[place], stored[place] = self._stored.fill(fields, rows[place], row)
        fields.check_all(rows, stored)
        answers = await self._answer_all(rows, stored, request_id, received)
        self._metrics.requests.labels("/predict/batch", "200").inc()
        return 200, _encode({"predictions": answers})

    async def _answer_all(
        self, rows: list[tuple[Any, ...]], stored: list[Stored | None], request_id: str, received: int
    ) -> list[Answer]:
        futures = [
            self._predictor.submit(row, f"{request_id[:100]}-{i}", received, each)
            for i, (row, each) in enumerate(zip(rows, stored, strict=True))
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    async def _report(self, headers: Headers, receive: Receive, _request_id: str) -> tuple[int, bytes]:
        require_json(headers)
        body = await read_body(receive, headers, self._max_body)
        accepted = self._outcomes.accept(body)
        self._metrics.requests.labels("/outcomes", "202").inc()
        return 202, _encode({"accepted": accepted})


def _instances(body: bytes) -> list[Any]:
    try:
        return msgspec.json.decode(body, type=Batch).instances
    except msgspec.ValidationError as error:
        raise InvalidFieldsError(
            "the body of a batch has one field, `instances`, a list of requests",
            [Problem("instances", str(error))],
        ) from None
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from None
