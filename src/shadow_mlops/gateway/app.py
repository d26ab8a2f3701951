"""The gateway's application: the data plane in front, FastAPI for everything else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from shadow_mlops import __version__
from shadow_mlops.access import Keyring, named, require_rules
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import ShadowError, UnavailableError
from shadow_mlops.domain.events import EVENTS, OUTCOMES
from shadow_mlops.eventlog.seam import EventLog
from shadow_mlops.features.client import FeatureClient
from shadow_mlops.gateway.browsers import CrossOrigin, with_page_policy
from shadow_mlops.gateway.champion import ChampionFollower
from shadow_mlops.gateway.dataplane import DataPlane
from shadow_mlops.gateway.forwarding import FORWARDED, ConsoleClient, Forwarder
from shadow_mlops.gateway.health import HealthChecks
from shadow_mlops.gateway.limiter import RateLimiter
from shadow_mlops.gateway.openapi import document, merged
from shadow_mlops.gateway.outcomes import OutcomeIntake
from shadow_mlops.gateway.predict import Predictor
from shadow_mlops.gateway.status import describe_models
from shadow_mlops.gateway.stored import StoredFeatures
from shadow_mlops.httperrors import error_response, http_error_response
from shadow_mlops.telemetry.metrics import Metrics

BEAT_SECONDS = 0.05  # an idle writer tells readers of the ordered log this often that nothing older will follow


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what clients may send."""

    body_bytes: int = 1_048_576
    batch_rows: int = 1000
    requests: int | None = 60_000
    """Per window and client; None: unlimited."""
    window_seconds: int = 60
    table: Path | None = None
    """Counters that the workers of the host share; None: each counts alone."""


class Gateway:
    """One gateway worker.

    Parameters
    ----------
    deployment
        What is served.
    data_dir
        ``serving.json``, prepared models and ``run/``.
    log
        Where predictions and outcomes are appended.
    writer
        Name of this worker as a writer of the log.
    metrics_text
        Prometheus text of all processes of this host.
    keys
        Knows callers by their keys; None: those of the data directory.
    origins
        Web origins whose pages may call the API.
    sync
        True: an answer leaves only when its event survives a loss of power.
    """

    def __init__(
        self,
        deployment: Deployment,
        data_dir: Path,
        log: EventLog,
        metrics: Metrics,
        *,
        writer: str,
        metrics_text: Callable[[], Awaitable[bytes]],
        keys: Keyring | None = None,
        origins: Sequence[str] = (),
        title: str = "Shadow MLOps API",
        limits: Limits | None = None,
        sync: bool = False,
    ) -> None:
        limits = limits or Limits()
        self._events = log.appender(EVENTS, writer=writer)
        self._outcomes = log.appender(OUTCOMES, writer=writer)
        self.predictor = Predictor(
            self._events,
            metrics,
            on_failure=deployment.log.on_failure,
            sync=sync,
            sample=deployment.shadow.sample,
        )
        self.follower = ChampionFollower(data_dir, deployment, self._swap)
        self.health = HealthChecks(
            data_dir, self.follower, self.predictor, refuse_without_log=deployment.log.on_failure == "refuse"
        )
        self.stored = _stored_features(deployment, data_dir, metrics)
        self.health.features = self.stored
        self._generation = metrics.serving_generation.labels(writer)
        self._swaps = metrics.model_swaps.labels("served")
        self.console = ConsoleClient(data_dir / "run" / "console.json")
        self.application = _fastapi(self, deployment, data_dir, metrics_text, title)
        for route in self.application.routes:
            require_rules(named(route), checked=False)
        self.asgi: ASGIApp = DataPlane(
            self.predictor,
            OutcomeIntake(self._outcomes, deployment.name, metrics, sync=sync),
            Forwarder(
                self.application,
                self.console,
                max_body=limits.body_bytes,
                count=lambda path, status: metrics.requests.labels(path, str(status)).inc(),
            ),
            metrics,
            keys=keys or Keyring(data_dir),
            limiter=None
            if limits.requests is None
            else RateLimiter(limits.requests, limits.window_seconds, limits.table),
            max_body=limits.body_bytes,
            max_rows=limits.batch_rows,
            stored=self.stored,
        )
        if origins:  # else nothing is in the way of a prediction
            self.asgi = CrossOrigin(self.asgi, origins)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load the champion, if one is published, and begin to follow it."""
        await self.follower.step()
        self._tasks = [asyncio.create_task(self.follower.follow()), asyncio.create_task(self._beat())]
        if self.stored is not None:
            self._tasks.append(asyncio.create_task(self.stored.client.follow()))

    async def stop(self) -> None:
        """Answer what was accepted, then seal the log."""
        self.health.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.console.close()
        await self.predictor.drain()
        self.predictor.publish()
        if self.stored is not None:
            self.stored.client.close()
            self.stored.publish()
        self._events.close()
        self._outcomes.close()

    def _swap(self, served: Any) -> None:
        self.predictor.swap(served)
        self.application.openapi_schema = None
        self._generation.set(served.serving.generation)
        self._swaps.inc()

    async def _beat(self) -> None:
        beats = [
            beat for beat in (getattr(a, "beat", None) for a in (self._events, self._outcomes)) if beat is not None
        ]
        while True:
            self.predictor.publish()
            if self.stored is not None:
                self.stored.publish()
            for beat in beats:
                beat()
            await asyncio.sleep(BEAT_SECONDS)


def _stored_features(deployment: Deployment, data_dir: Path, metrics: Metrics) -> StoredFeatures | None:
    store = deployment.feature_store
    if store is None:
        return None
    client = FeatureClient(data_dir / "run" / "features.json", timeout=store.timeout_ms / 1000)
    return StoredFeatures(client, metrics, on_failure=store.on_failure)


def _fastapi(
    gateway: Gateway,
    deployment: Deployment,
    data_dir: Path,
    metrics_text: Callable[[], Awaitable[bytes]],
    title: str,
) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        yield
        await gateway.stop()

    app = FastAPIOffline(title=title, version=__version__, lifespan=lifespan, description=_DESCRIPTION)
    _add_errors(app)
    _add_openapi(app, gateway, deployment)

    app.middleware("http")(with_page_policy)

    @app.get("/health", tags=["operations"], summary="Is it well?")
    async def health() -> Response:
        """Status of each part; 503 when it is down."""
        status, checks = gateway.health.report()
        return _json({"status": status, "checks": checks}, 503 if status == "down" else 200)

    @app.get("/health/ready", tags=["operations"], summary="Can it answer?")
    async def ready() -> Response:
        """200 when predictions can be answered, else 503."""
        ok = gateway.health.ready()
        return _json({"status": "ok" if ok else "down"}, 200 if ok else 503)

    @app.get("/health/live", tags=["operations"], summary="Is it alive?")
    async def live() -> Response:
        """200 while the event loop turns."""
        return _json({"status": "ok"}, 200)

    async def _text() -> bytes:
        gateway.predictor.publish()
        try:
            return await metrics_text()
        except ConnectionError as error:
            raise UnavailableError(str(error)) from None

    @app.get("/models", tags=["operations"], summary="Who serves, who shadows")
    async def models() -> Response:
        """Versions, held-out metrics, predictions and latency of the champion and its challengers."""
        return _json(describe_models(gateway.predictor.served, await _text(), data_dir), 200)

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text of all processes of this host."""
        return Response(await _text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_openapi(app: FastAPI, gateway: Gateway, deployment: Deployment) -> None:
    app.openapi = lambda: document(app, deployment, gateway.follower.served)  # type: ignore[method-assign]
    # FastAPI's own route cannot wait for the console's half of the document.
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != app.openapi_url]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(merged(app.openapi(), await gateway.console.document(), FORWARDED), 200)


_DESCRIPTION = (
    "The champion answers every client; challengers see the same traffic in the shadow and never touch an answer. "
    "Every answered prediction is in the event log before its answer leaves."
)


def _json(content: object, status: int) -> Response:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")


def _add_errors(app: FastAPI) -> None:
    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
        body = http_error_response(error.status_code, str(error.detail), request.scope.get("request_id", ""))
        return Response(
            body,
            status_code=error.status_code,
            media_type="application/json",
            headers=dict(error.headers or {}),
        )

    async def validation_error(request: Request, error: Exception) -> Response:
        body = http_error_response(422, str(error), request.scope.get("request_id", ""))
        return Response(body, status_code=422, media_type="application/json")

    async def own_error(request: Request, error: Exception) -> Response:
        status, body, headers = error_response(error, request.scope.get("request_id", ""))
        return Response(body, status_code=status, media_type="application/json", headers=headers)

    app.add_exception_handler(ShadowError, own_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
