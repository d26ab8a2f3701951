"""Who shows which key: looked up in memory, and read again when the files change."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from shadow_mlops.access.keys import OPERATOR, Key, digest, keys_file, read_keys
from shadow_mlops.access.rules import ALLOWED, May, Role
from shadow_mlops.access.tokens import token_file
from shadow_mlops.domain.errors import ForbiddenError, SettingsError, UnauthenticatedError

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How long a new key waits and a revoked one still works, at most."""
_REMEMBERED = 1024  # spellings of headers, each by somebody who holds a key: more than a gateway has clients
_HOW = {
    "client": "send a client's key as Authorization: Bearer KEY or as X-API-Key: KEY",
    "viewer": "send Authorization: Bearer TOKEN of a viewer or an operator",
    "operator": "operators only: send Authorization: Bearer TOKEN"
    " (OPERATOR_TOKEN, the file operator-token in the data directory, or a key of this role)",
}


class Caller(NamedTuple):
    """Whoever showed a key that is in force."""

    name: str
    role: Role
    until: float
    """Seconds since the epoch at which the key expires; infinite for most."""


class Keyring:
    """Knows callers by their headers.

    A request costs a dictionary's look-up: only headers that were found right are remembered, so strangers cannot fill
    the memory, and dictionaries of byte strings compare by a secret hash first, so their time tells nothing. The files
    are looked at once a second, by whichever request comes first.

    Parameters
    ----------
    data_dir
        Folder of ``access.json`` and ``operator-token``.
    configured
        The operators' token, if the settings have one; else it is the file's.

    Raises
    ------
    SettingsError
        If ``access.json`` is not understood.
    """

    def __init__(self, data_dir: Path, configured: str = "") -> None:
        self._data_dir = data_dir
        self._configured = configured
        self._keys: tuple[Key, ...] = ()
        self._known: dict[bytes, Caller] = {}
        self._digests: list[tuple[bytes, Caller]] = []
        self._due = time.monotonic() + LOOK_SECONDS
        self._mark = self._stamp()
        self._take(read_keys(data_dir) or ())

    @property
    def closed(self) -> bool:
        """Whether clients need a key: there is one, be it expired. What expires must not open a door."""
        return self._closed

    def admit(self, may: May, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Let through whoever may.

        Parameters
        ----------
        may
            The rule of the route.
        headers
            Of the request, names in lower case.

        Returns
        -------
        Caller or None
            None where nobody had to be known.

        Raises
        ------
        UnauthenticatedError
            No key, or none that is in force.
        ForbiddenError
            A key of another role.
        """
        if may == "open":
            return None
        if time.monotonic() >= self._due:
            self._look()
        if may == "client" and not self._closed:
            return None
        caller = self._known_by(may, headers)
        if caller.role not in ALLOWED[may]:
            raise ForbiddenError(f"the key {caller.name} has the role {caller.role}; {_HOW[may]}")
        return caller

    def known(self, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Whoever shows a key to a route that is open; None where no ``Authorization`` was sent.

        Raises
        ------
        UnauthenticatedError
            What was shown is not in force.
        """
        if b"authorization" not in headers:
            return None
        if time.monotonic() >= self._due:
            self._look()
        return self._known_by("viewer", headers)

    def _known_by(self, may: May, headers: Mapping[bytes, bytes]) -> Caller:
        shown = headers.get(b"x-api-key") if may == "client" else None
        bare = shown is not None  # before Authorization, which a proxy in front may use for itself
        if shown is None:
            shown = headers.get(b"authorization")
        if shown is None:
            raise UnauthenticatedError(_HOW[may])
        caller = self._known.get(shown)
        if caller is None:
            caller = self._verify(may, shown if bare else _bearer(shown))
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[shown] = caller
        if caller.until <= time.time():
            raise UnauthenticatedError(f"the key {caller.name} has expired")
        return caller

    def _verify(self, may: May, secret: bytes) -> Caller:
        given, found = digest(secret), None
        for kept, caller in self._digests:  # all of them: the time must not tell which came close
            if hmac.compare_digest(given, kept):
                found = caller
        if found is None:
            raise UnauthenticatedError(f"this key is not known, or has been revoked; {_HOW[may]}")
        return found

    def _look(self) -> None:
        self._due = time.monotonic() + LOOK_SECONDS
        mark = self._stamp()  # before reading: what changes meanwhile is read again a second later
        if mark == self._mark:
            return
        self._mark = mark
        try:
            keys = read_keys(self._data_dir)
        except SettingsError as error:
            log.error("the keys cannot be read, those read before stay in force", reason=str(error))
            keys = self._keys
        if keys is None and self._keys:
            log.error("the file of keys is gone, its keys stay in force", path=str(keys_file(self._data_dir)))
            keys = self._keys
        self._take(keys or ())
        log.info("access keys read", keys=len(self._keys), clients_need_one=self._closed)

    def _take(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._closed = any(key.role == "client" for key in keys)
        self._digests = [(bytes.fromhex(key.sha256), Caller(key.name, key.role, _until(key))) for key in keys]
        if token := self._configured or _generated(self._data_dir):
            self._digests.append((digest(token.encode()), Caller(OPERATOR, "operator", float("inf"))))
        self._known.clear()

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return _stat(keys_file(self._data_dir)), _stat(token_file(self._data_dir))


def _bearer(header: bytes) -> bytes:
    scheme, _, secret = header.partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""


def _until(key: Key) -> float:
    return float("inf") if key.expires is None else key.expires.timestamp()


def _generated(data_dir: Path) -> str:
    try:
        return token_file(data_dir).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # none yet, or the console complains of it


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
