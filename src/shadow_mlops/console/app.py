"""The console's application: each route calls one function and renders what it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import Engine
from starlette.types import ASGIApp

from shadow_mlops import __version__
from shadow_mlops.access import ALLOWED, CLOSER, RULES, Caller, Keyring, named, require_rules
from shadow_mlops.console.bodies import CanaryOrder, Promotion, RetrainOrder, Rollback, read_bytes, read_json
from shadow_mlops.console.errors import RequestIds, add_error_handlers
from shadow_mlops.console.openapi import document, events_body, json_body, responses
from shadow_mlops.domain.errors import ConflictError, InvalidFieldsError, UnavailableError
from shadow_mlops.retraining.ordering import Ordered
from shadow_mlops.rollout import CanaryAction, CanaryChange, Switch
from shadow_mlops.state import audit

_T = TypeVar("_T")
_READERS = 2  # queries that run at once: each may take all cores and a gigabyte
_WAITING_READERS = 8  # more that run or wait are refused: strangers may ask for comparisons


@dataclass(frozen=True, slots=True)
class Answer:
    """A function that answers a route, and the type of what it gives, for the OpenAPI document."""

    call: Callable[..., Any]
    kind: Any


class Stepping(Protocol):
    """What ``POST /canary`` needs of :class:`~shadow_mlops.rollout.canary.Canaries`."""

    def order(self, action: CanaryAction, role: str, *, who: str, reason: str, details: dict[str, Any]) -> CanaryChange:
        """See there."""


class Switching(Protocol):
    """What the operator routes need of :class:`~shadow_mlops.rollout.Rollout`."""

    def promote(self, version: str, *, who: str, reason: str, details: dict[str, Any]) -> Switch:
        """See there."""

    def rollback(self, *, who: str, reason: str, details: dict[str, Any]) -> Switch:
        """See there."""

    @property
    def canaries(self) -> Stepping:
        """See there."""


class Retraining(Protocol):
    """What ``POST /retrain`` needs of :class:`~shadow_mlops.retraining.ordering.RetrainOrders`."""

    def order(self, *, who: str, reason: str, force: bool, details: dict[str, Any]) -> Ordered:
        """See there."""


class Taking(Protocol):
    """What ``POST /events`` needs of the intake."""

    def accept(self, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        """Append the events of a body; status and answer. Header names are in lower case."""


class Console:
    """The routes, and the threads that their functions run in.

    Parameters
    ----------
    keys
        Knows callers by their keys.
    compare
        ``(since, until, exact) -> `` the comparison.
    inspect
        ``(since, until, exact, segments, disagreements) -> `` the same, closer.
    gate
        ``() -> `` how gates and canary stand.
    drift
        ``(with_values) -> `` how far the newest window of traffic is from its reference.
    logs
        ``(limit, after) -> `` a page of the recorded pairs.
    rollout
        Promotes and rolls back.
    retrain
        Takes orders to retrain.
    state
        Database with the audit trail.
    intake
        Takes events that were answered elsewhere.
    max_body
        Largest body in bytes.
    """

    def __init__(
        self,
        *,
        keys: Keyring,
        compare: Answer,
        inspect: Answer,
        gate: Answer,
        drift: Answer,
        logs: Answer,
        rollout: Switching,
        retrain: Retraining,
        state: Engine,
        intake: Taking,
        max_body: int,
        title: str = "Shadow MLOps console",
    ) -> None:
        self._keys = keys
        self._compare = compare
        self._inspect = inspect
        self._gate = gate
        self._drift = drift
        self._logs = logs
        self._rollout = rollout
        self._retrain = retrain
        self._state = state
        self._intake = intake
        self._max_body = max_body
        # One thread each for orders and for the only writer of its log stream: neither waits for a long query.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._operators = ThreadPoolExecutor(1, thread_name_prefix="operate")
        self._trail = ThreadPoolExecutor(1, thread_name_prefix="trail")
        self._takers = ThreadPoolExecutor(1, thread_name_prefix="take")
        self._running: set[asyncio.Future[Any]] = set()
        self._order: asyncio.Future[Any] | None = None
        self._reading = 0
        self.application = FastAPI(
            title=title,
            version=__version__,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            dependencies=[Depends(self._admit)],
        )
        self.application.openapi = lambda: document(  # type: ignore[method-assign]
            self.application,
            {"Comparison": compare.kind, "LogsPage": logs.kind, "Gate": gate.kind, "LiveDrift": drift.kind},
        )
        add_error_handlers(self.application)
        self._add_shadow()
        self._add_drift()
        self._add_trail()
        self._add_operating()
        self._add_retraining()
        self._add_taking()
        for route in self.application.routes:  # those of Starlette alone know no dependencies
            require_rules(named(route), checked=isinstance(route, APIRoute))
        self.asgi: ASGIApp = RequestIds(self.application)

    async def drain(self, seconds: float) -> bool:
        """Wait for the functions that run; False if one was still running after so long."""
        if not self._running:
            return True
        _, pending = await asyncio.wait(self._running, timeout=seconds)
        return not pending

    async def _run(self, threads: ThreadPoolExecutor, function: Callable[[], _T]) -> _T:
        future = asyncio.get_running_loop().run_in_executor(threads, function)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.shield(future)  # a client that goes away does not undo half an order

    async def _read(self, function: Callable[[], _T]) -> _T:
        if self._reading >= _WAITING_READERS:
            raise UnavailableError(f"{_WAITING_READERS} queries run or wait already; try again")
        self._reading += 1
        try:
            return await self._run(self._readers, function)
        finally:
            self._reading -= 1

    async def _operate(self, order: Callable[[], _T]) -> _T:
        # Refused, not queued: an order that is repeated because its answer took long would undo the first.
        if self._order is not None and not self._order.done():
            raise ConflictError("another promotion or rollback is under way; GET /audit says which")
        self._order = asyncio.ensure_future(self._run(self._operators, order))
        return await asyncio.shield(self._order)

    async def _admit(self, request: Request) -> None:
        may = RULES[f"{request.method} {request.scope['route'].path}"]
        request.state.caller = self._keys.admit(may, dict(request.scope["headers"]))

    def _add_shadow(self) -> None:
        app = self.application

        @app.get("/health", include_in_schema=False)
        async def health() -> Response:
            return _json({"status": "ok"})

        @app.get(
            "/shadow/comparison",
            tags=["shadow"],
            summary="Champion against challengers",
            responses=responses(200, "Comparison"),
        )
        async def comparison(  # noqa: PLR0917 - one parameter per query parameter
            request: Request,
            since: Annotated[datetime | None, Query(description="Events from this time on; UTC unless told.")] = None,
            until: Annotated[datetime | None, Query(description="Events before this time.")] = None,
            exact: Annotated[bool, Query(description="Sort for the AUC instead of counting in bins.")] = False,
            segments: Annotated[bool, Query(description="Compare in segments too; viewers only.")] = False,
            disagreements: Annotated[bool, Query(description="List disagreements too; viewers only.")] = False,
        ) -> Response:
            """Pairs, agreement, and on labelled pairs accuracy, AUC, log loss and Brier score of each side."""
            span = (_utc(since), _utc(until), exact)
            if segments or disagreements:  # values of features, and customers
                self._keys.admit(CLOSER["GET /shadow/comparison"], dict(request.scope["headers"]))
                return _json(await self._read(partial(self._inspect.call, *span, segments, disagreements)))
            return _json(await self._read(partial(self._compare.call, *span)))

        @app.get(
            "/shadow/gate",
            tags=["rollout"],
            summary="What stands between a challenger and promotion",
            responses=responses(200, "Gate", 409),
        )
        async def gate() -> Response:
            """What the gate says and why, how many labels it needs, its guardrails; the canary step in force."""
            return _json(await self._read(self._gate.call))

        @app.get(
            "/shadow/logs",
            tags=["shadow"],
            summary="Recorded pairs",
            responses=responses(200, "LogsPage"),
        )
        async def logs(
            limit: Annotated[int, Query(ge=1, le=1000, description="Most pairs.")] = 100,
            after: Annotated[str, Query(max_length=200, description="`next` of the page before.")] = "",
        ) -> Response:
            """Events with both sides' scores and what came true, newest first."""
            return _json(await self._read(partial(self._logs.call, limit, after)))

    def _add_drift(self) -> None:
        @self.application.get(
            "/drift",
            tags=["drift"],
            summary="How far traffic is from its reference",
            responses=responses(200, "LiveDrift"),
        )
        async def drift(request: Request) -> Response:
            """Scores of the newest window, detector, episodes; to viewers and operators also bins and categories."""
            caller = self._keys.known(dict(request.scope["headers"]))
            shown = caller is not None and caller.role in ALLOWED[CLOSER["GET /drift"]]
            return _json(await self._read(partial(self._drift.call, shown)))

    def _add_trail(self) -> None:
        @self.application.get(
            "/audit",
            tags=["rollout"],
            summary="Who did what, when and why",
            responses=responses(200, "AuditTrail"),
        )
        async def trail(
            limit: Annotated[int, Query(ge=1, le=1000, description="Most entries.")] = 100,
            after: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of the page before.")] = None,
        ) -> Response:
            """Promotions, rollbacks, keys and retraining, refused ones too, newest first."""
            return _json(await self._run(self._trail, partial(audit.entries, self._state, limit, after)))

    def _add_operating(self) -> None:
        app = self.application

        @app.post(
            "/promote",
            tags=["rollout"],
            summary="Make a version champion",
            responses=responses(200, "Switch", 400, 404, 409, 413, 415),
            openapi_extra=json_body("Promotion", {"version": "3.0.0-beta", "reason": "better log loss for a week"}),
        )
        async def promote(request: Request) -> Response:
            """The version is loaded and checked first; the old champion becomes `previous` and a challenger."""
            body = await read_json(request, Promotion, self._max_body)
            order = partial(self._rollout.promote, body.version, reason=body.reason, **_origin(request))
            return _json(await self._operate(order))

        @app.post(
            "/rollback",
            tags=["rollout"],
            summary="Make the version before it champion again",
            responses=responses(200, "Switch", 400, 404, 409, 413, 415),
            openapi_extra=json_body("Rollback", {"reason": "complaints"}),
        )
        async def rollback(request: Request) -> Response:
            """The version with the alias `previous` answers again; the one that did becomes `previous`."""
            body = await read_json(request, Rollback, self._max_body)
            order = partial(self._rollout.rollback, reason=body.reason, **_origin(request))
            return _json(await self._operate(order))

        @app.post(
            "/canary",
            tags=["rollout"],
            summary="Start a canary, go on, hold or end it",
            responses=responses(200, "CanaryChange", 400, 404, 409, 413, 415),
            openapi_extra=json_body("CanaryOrder", {"action": "start", "reason": "the gate says promote"}),
        )
        async def canary(request: Request) -> Response:
            """A challenger answers a part of the entities; `abort`, or a rollback, gives them back to the champion."""
            body = await read_json(request, CanaryOrder, self._max_body)
            order = partial(
                self._rollout.canaries.order, body.action, body.role, reason=body.reason, **_origin(request)
            )
            return _json(await self._operate(order))

    def _add_retraining(self) -> None:
        @self.application.post(
            "/retrain",
            status_code=202,
            tags=["drift"],
            summary="Retrain now",
            responses=responses(202, "Retraining", 400, 409, 413, 415),
            openapi_extra=json_body("RetrainOrder", {"reason": "new price list since Monday"}),
        )
        async def retrain(request: Request) -> Response:
            """The monitor runs what `retrain.action` names, whatever cool-down and budget say; 409 while one runs."""
            body = await read_json(request, RetrainOrder, self._max_body)
            order = partial(self._retrain.order, reason=body.reason, force=body.force, **_origin(request))
            return _json(await self._run(self._trail, order), 202)

    def _add_taking(self) -> None:
        @self.application.post(
            "/events",
            status_code=202,
            tags=["shadow"],
            summary="Report predictions that were answered elsewhere",
            responses=responses(202, "Accepted", 400, 409, 413, 415),
            openapi_extra=events_body(),
        )
        async def events(request: Request) -> Response:
            """Events as JSON, NDJSON or CloudEvents; challengers score them like the gateway's own."""
            body = await read_bytes(request, self._max_body)
            headers = {name.lower(): value for name, value in request.headers.items()}
            status, answer = await self._run(self._takers, partial(self._intake.accept, headers, body))
            return _json(answer, status)


def _origin(request: Request) -> dict[str, Any]:
    peer = request.client.host if request.client else "local"
    client = request.headers.get("x-forwarded-for", peer)[:100]
    caller: Caller = request.state.caller  # a route that gives orders knows who does
    return {"who": f"{caller.name}@{client}", "details": {"via": "http", "request_id": request.scope["request_id"]}}


def _utc(time: datetime | None) -> datetime | None:
    if time is None:
        return None
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise InvalidFieldsError(f"{time.isoformat()} is no time that can be told in UTC") from None


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")
