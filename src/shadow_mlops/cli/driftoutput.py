"""How a drift report leaves: as text, JSON, HTML or Markdown, on standard output or into a file."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from rich.console import Console

from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.drift.html import page
from shadow_mlops.drift.markdown import markdown
from shadow_mlops.drift.report import DriftReport, encode_report
from shadow_mlops.drift.text import rendered
from shadow_mlops.drift.wording import TITLES, sentence
from shadow_mlops.durable import replace_durably

Format: TypeAlias = Literal["text", "json", "html", "markdown"]
_WIDTH = 110  # of a file or a pipe: room for every column


def check_destination(output: Path | None) -> None:
    """Complain of an output that cannot be written before anything is computed.

    Raises
    ------
    SettingsError
        The message names what is in the way.
    """
    if output is None:
        return
    if output.is_dir():
        raise SettingsError(f"--output {output} is a directory; name a file in it")
    if not output.parent.is_dir():
        raise SettingsError(f"--output {output}: there is no directory {output.parent}; make it first")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise SettingsError(f"--output {output} may not be written by this user")


def deliver(report: DriftReport, form: Format, output: Path | None) -> None:
    """Print a report, or write it to a file and print its verdict.

    Raises
    ------
    SettingsError
        If the file cannot be written.
    """
    if output is not None:
        _write(output, _content(report, form))
        _print(f"{TITLES[report.verdict]}: {sentence(report.reason)}\n{form} report: {output}\n".encode())
    else:
        _print(_for_this_terminal(report) if form == "text" else _content(report, form))


def _content(report: DriftReport, form: Format) -> bytes:
    if form == "json":
        return encode_report(report)
    if form == "html":
        return page(report).encode()
    if form == "markdown":
        return markdown(report).encode()
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH, highlight=False, color_system=None)
    for part in rendered(report):
        console.print(part)
    return text.getvalue().encode()


def _write(output: Path, content: bytes) -> None:
    try:
        if output.exists() and not output.is_file():  # a pipe or a device is written to, never replaced
            output.write_bytes(content)
        else:
            replace_durably(output.resolve(), content)
    except OSError as error:
        raise SettingsError(f"--output {output} cannot be written: {error.strerror or error}") from None


def _for_this_terminal(report: DriftReport) -> bytes:
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    text = io.StringIO()  # not the terminal itself: Rich ends the process with 1, our drift, if that goes away
    console = Console(file=text, force_terminal=sys.stdout.isatty() or None, highlight=False, width=wide)
    for part in rendered(report):
        console.print(part)
    # A report with a poor histogram is better than none.
    return text.getvalue().encode(sys.stdout.encoding or "utf-8", errors="replace")


def _print(content: bytes) -> None:
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends
        if not isinstance(error, BrokenPipeError):  # who reads has read enough, as `head` does
            raise SettingsError(f"standard output cannot be written: {error.strerror or error}") from None
