"""The operator's bearer token: configured, or made once and kept in the data directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

import structlog

from shadow_mlops.domain.errors import SettingsError

log = structlog.get_logger()

_FILE = "operator-token"
_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def token_file(data_dir: Path) -> Path:
    """Where the generated token is kept."""
    return data_dir / _FILE


def operator_token(data_dir: Path, configured: str) -> str:
    """The token in force: the configured one, else that of ``<data-dir>/operator-token``, made if it is absent.

    Raises
    ------
    SettingsError
        If the file cannot be read or made, or holds nothing.
    """
    if configured:
        return configured
    path = token_file(data_dir)
    try:
        if not path.exists():
            _create(path)
        token = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the operator's token cannot be kept in {path}: {error}; or set OPERATOR_TOKEN") from None
    if not token:
        raise SettingsError(f"{path} holds no token: remove it and one is generated, or set OPERATOR_TOKEN")
    if mode & _OTHERS:
        log.warning("others may read the operator's token", path=str(path), do=f"chmod 600 {path}")
    return token


def _create(path: Path) -> None:
    """Make the file with a new token: complete or not at all, and of two makers the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", opener=_private, encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
