"""Keys of people and programs: ``<data-dir>/access.json``, which holds what proves a key, never the key.

A key is 256 random bits, so one round of SHA-256 keeps it as safe as a slow password hash would: nobody can try 2^255
keys, however fast the hash is. What is slow on purpose (bcrypt, Argon2) protects secrets that people choose, and would
cost each request of a client some 100 ms.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from shadow_mlops.access.rules import Role
from shadow_mlops.domain.errors import ConflictError, SettingsError
from shadow_mlops.durable import replace_durably

PREFIX = "shadow_"  # by which scanners find a key that was published by mistake
OPERATOR = "operator"
"""How the audit trail calls whoever shows the token of ``OPERATOR_TOKEN`` or ``<data-dir>/operator-token``."""
_FILE = "access.json"
_MODE = 0o600
_BYTES = 32
_SHOWN = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a key."""

    name: str
    role: Role
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Of the whole key, in hexadecimal digits."""
    ends: str
    """Its last characters, by which its owner knows it again."""
    added: datetime
    added_by: str
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...]


def keys_file(data_dir: Path) -> Path:
    """Where the keys are kept."""
    return data_dir / _FILE


def digest(secret: bytes) -> bytes:
    """What a key is known by."""
    return hashlib.sha256(secret).digest()


def read_keys(data_dir: Path) -> tuple[Key, ...] | None:
    """The keys, expired ones too; None where there is no file.

    Raises
    ------
    SettingsError
        If the file cannot be read, or is not understood.
    """
    path = keys_file(data_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


def add_key(data_dir: Path, name: str, role: Role, *, by: str, expires: datetime | None = None) -> tuple[Key, str]:
    """Make a key.

    Parameters
    ----------
    by
        Who makes it.
    expires
        From when on it is refused; None: never.

    Returns
    -------
    tuple
        What is kept, and the key itself, which cannot be had again.

    Raises
    ------
    SettingsError
        If the name is none, or the file cannot be read or written.
    ConflictError
        If there is a key of this name.
    """
    if not _NAME.fullmatch(name) or name == OPERATOR:
        raise SettingsError(
            f"{name[:100]!r} is no name of a key: at most 64 letters, digits and . _ -, and not {OPERATOR!r},"
            " which is how the audit trail calls the token of OPERATOR_TOKEN"
        )
    keys = read_keys(data_dir) or ()
    if any(key.name == name for key in keys):
        raise ConflictError(f"there is a key {name} already: choose another name, or revoke it first")
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    key = Key(
        name=name,
        role=role,
        sha256=digest(secret.encode()).hex(),
        ends=secret[-_SHOWN:],
        added=datetime.now(UTC).replace(microsecond=0),
        added_by=by,
        expires=expires,
    )
    _write(data_dir, [*keys, key])
    return key, secret


def revoke_key(data_dir: Path, name: str) -> Key:
    """Take a key away.

    Raises
    ------
    SettingsError
        If there is none of this name, or the file cannot be read or written.
    """
    keys = read_keys(data_dir) or ()
    found = next((key for key in keys if key.name == name), None)
    if found is None:
        raise SettingsError(f"there is no key {name[:100]}; shadow access list shows what there is")
    _write(data_dir, [key for key in keys if key is not found])
    return found


def _write(data_dir: Path, keys: Sequence[Key]) -> None:
    path = keys_file(data_dir)
    content = msgspec.json.format(msgspec.json.encode(_File(tuple(keys))), indent=1)
    try:
        replace_durably(path, content + b"\n", mode=_MODE)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from None
