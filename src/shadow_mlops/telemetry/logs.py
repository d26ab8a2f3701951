"""Structured logs: JSON lines for machines, aligned text on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(process: str, *, level: str = "INFO", as_json: bool | None = None) -> None:
    """Send every log line of this process to standard error.

    Parameters
    ----------
    process
        Name shown in each line (``gateway-0``, ``monitor``).
    level
        Lowest level shown.
    as_json
        None decides by whether standard error is a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(pad_event_to=0)
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(message)s", force=True)
