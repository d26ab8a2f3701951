"""Who may use which route: one table for gateway and console.

A process whose application has a route that is not in the table does not start: nobody can add a route and forget to
say who may use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from shadow_mlops.domain.errors import AccessRuleError

Role: TypeAlias = Literal["client", "viewer", "operator"]
"""What a key is for. An operator may do everything; client and viewer share nothing."""
May: TypeAlias = Literal["open", "client", "viewer", "operator"]
"""``open``: everybody. ``client``: whoever has a client's key, once there is one; until then everybody."""

ALLOWED: dict[May, frozenset[Role]] = {
    "open": frozenset({"client", "viewer", "operator"}),
    "client": frozenset({"client", "operator"}),
    "viewer": frozenset({"viewer", "operator"}),
    "operator": frozenset({"operator"}),
}

RULES: dict[str, May] = {
    "GET /health": "open",
    "GET /health/ready": "open",
    "GET /health/live": "open",
    "GET /models": "open",
    "GET /metrics": "open",
    "GET /openapi.json": "open",
    "GET /docs": "open",
    "GET /docs/oauth2-redirect": "open",
    "GET /redoc": "open",
    "* /static-offline-docs": "open",  # scripts and styles of the two pages above
    "POST /predict": "client",
    "POST /predict/batch": "client",
    "POST /outcomes": "client",
    "POST /events": "client",
    "GET /shadow/comparison": "open",
    "GET /shadow/gate": "open",
    "GET /drift": "open",
    "GET /shadow/logs": "viewer",
    "GET /audit": "viewer",
    "POST /promote": "operator",
    "POST /rollback": "operator",
    "POST /canary": "operator",
    "POST /retrain": "operator",
}
"""Method and path -> who may. A folder of files has no method: ``*``."""

CLOSER: dict[str, May] = {"GET /shadow/comparison": "viewer", "GET /drift": "viewer"}
"""Open routes that show more (values of features, customers) to whoever may see recorded data."""


def named(route: Any) -> list[str]:
    """The names that a route of a web framework has in the table.

    Parameters
    ----------
    route
        Anything with ``path`` and, unless it is a folder of files, ``methods``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> named(SimpleNamespace(path="/health", methods={"GET", "HEAD"}))
    ['GET /health']
    """
    methods = getattr(route, "methods", None)
    if not methods:
        return [f"* {route.path}"]
    return [f"{method} {route.path}" for method in sorted(methods) if method != "HEAD" or len(methods) == 1]


def require_rules(routes: Iterable[str], *, checked: bool) -> None:
    """See that each route has a rule, and that its rule can be kept.

    Parameters
    ----------
    routes
        Method and path of each.
    checked
        Whether the application looks at credentials before it answers these routes.

    Raises
    ------
    AccessRuleError
        Naming the first route that has none, or that nobody guards.

    Examples
    --------
    >>> require_rules(["GET /health", "POST /predict"], checked=True)
    >>> require_rules(["GET /secrets"], checked=True)
    Traceback (most recent call last):
    ...
    shadow_mlops.domain.errors.AccessRuleError: the route GET /secrets has no rule: ...
    """
    for route in routes:
        may = RULES.get(route)
        if may is None:
            raise AccessRuleError(f"the route {route} has no rule: say in access/rules.py who may use it")
        if may != "open" and not checked:
            raise AccessRuleError(f"the route {route} is for {may}s, but nothing before it looks at credentials")
