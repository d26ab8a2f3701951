"""Where a remote model is, and what may be said of that: its address, protocol and time-out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

import msgspec

from shadow_mlops.domain.errors import ModelRefusedError

Protocol: TypeAlias = Literal["v2", "mlflow"]
"""Open Inference Protocol v2, or ``/invocations`` of MLflow's scoring server."""
RUNTIME_TAG = "shadow.runtime"
URL_TAG = "shadow.url"
PROTOCOL_TAG = "shadow.protocol"
TIMEOUT_TAG = "shadow.timeout_ms"
ENDPOINT = "remote.json"
"""Its file in a prepared directory."""
TIMEOUT_MS = 1000
_LONGEST_MS = 60_000
_ENDS: Mapping[str, str] = {"v2": "/infer", "mlflow": "/invocations"}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One remote model, as the file ``remote.json`` of its prepared directory holds it."""

    url: str
    """Full address that requests are posted to."""
    protocol: Protocol
    timeout_ms: int = TIMEOUT_MS

    @property
    def shown(self) -> str:
        """The address for messages and logs: without a query, which may hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


def endpoint_of(name: str, *, url: str, protocol: str, timeout_ms: str | int = TIMEOUT_MS) -> Endpoint:
    """Check an address and complete it.

    Parameters
    ----------
    name
        Of the model there; used where the address does not end in ``/infer`` or ``/invocations`` itself.

    Raises
    ------
    ModelRefusedError
        If it is no http or https address, holds credentials, or protocol or time-out are wrong.

    Examples
    --------
    >>> endpoint_of("churn", url="http://models:8080", protocol="v2").url
    'http://models:8080/v2/models/churn/infer'
    >>> endpoint_of("churn", url="http://models:8080/churn/", protocol="mlflow").url
    'http://models:8080/churn/invocations'
    """
    if protocol not in get_args(Protocol):
        raise ModelRefusedError(f"{PROTOCOL_TAG} {protocol!r} is none of {', '.join(get_args(Protocol))}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ModelRefusedError(f"{URL_TAG} is no address: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ModelRefusedError(f"{URL_TAG} holds credentials, and everybody who reads the registry would see them")
    if parts.scheme not in {"http", "https"} or not host:
        raise ModelRefusedError(f"{URL_TAG} must begin with http:// or https:// and name a host")
    path = parts.path.rstrip("/")
    if not path.endswith(_ENDS[protocol]):
        path += f"/v2/models/{name}/infer" if protocol == "v2" else "/invocations"
    whole = parts._replace(path=path, fragment="").geturl()
    return Endpoint(url=whole, protocol=cast("Protocol", protocol), timeout_ms=_milliseconds(timeout_ms))


def endpoint_of_tags(name: str, tags: Mapping[str, str]) -> Endpoint | None:
    """The remote model that a version's tags name; None when they name none.

    Raises
    ------
    ModelRefusedError
        If they are not complete, or wrong.
    """
    if tags.get(RUNTIME_TAG) != "http":
        return None
    if URL_TAG not in tags:
        raise ModelRefusedError(f"its tag {RUNTIME_TAG} is http, and the tag {URL_TAG} is absent")
    return endpoint_of(
        name,
        url=tags[URL_TAG],
        protocol=tags.get(PROTOCOL_TAG, "v2"),
        timeout_ms=tags.get(TIMEOUT_TAG, TIMEOUT_MS),
    )


def tags_of(endpoint: Endpoint) -> dict[str, str]:
    """Tags by which a version says that it is served by a remote model."""
    return {
        RUNTIME_TAG: "http",
        URL_TAG: endpoint.url,
        PROTOCOL_TAG: endpoint.protocol,
        TIMEOUT_TAG: str(endpoint.timeout_ms),
    }


def read_endpoint(path: Path) -> Endpoint:
    """The remote model of a prepared directory.

    Raises
    ------
    ModelRefusedError
        If the file is none, or names an address that may not be called.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelRefusedError(f"{path} cannot be read: {error}") from error
    return endpoint_of("", url=found.url, protocol=found.protocol, timeout_ms=found.timeout_ms)


def write_endpoint(path: Path, endpoint: Endpoint) -> None:
    """Write the file of a prepared directory."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(endpoint), indent=2))


def _milliseconds(text: str | int) -> int:
    try:
        found = int(text)
    except ValueError:
        found = 0
    if not 1 <= found <= _LONGEST_MS:
        raise ModelRefusedError(f"{TIMEOUT_TAG} {text!r} is no number of milliseconds from 1 to {_LONGEST_MS}")
    return found
