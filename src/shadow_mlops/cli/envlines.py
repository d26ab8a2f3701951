"""Findings as ``name=value`` lines, which CI systems read (GitHub's ``GITHUB_OUTPUT``, GitLab's dotenv reports)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from shadow_mlops.domain.errors import SettingsError

EnvOption: TypeAlias = Annotated[
    Path | None, typer.Option("--env", help="Also append NAME=VALUE lines to that file, for CI.", show_default=False)
]


def append_lines(path: Path | None, found: Mapping[str, str | int | float | bool | None]) -> None:
    """Append a line for each finding, ``true`` and ``false`` in lower case, nothing for None; no path: do nothing.

    Raises
    ------
    SettingsError
        If the file cannot be written, or a text has a line break: it could pass for another line.
    """
    if path is None:
        return
    lines = [f"{name}={_text(name, value)}\n" for name, value in found.items()]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise SettingsError(f"--env {path} cannot be written: {error.strerror or error}") from error


def _text(name: str, value: str | float | bool | None) -> str:
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if len(text.splitlines()) > 1 or text.endswith(("\n", "\r")):
        raise SettingsError(f"{name} has a line break and cannot be a line of --env: {text!r}")
    return text
