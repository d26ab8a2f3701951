"""What browsers are told about every answer: no guessing of types, no frames, no referrer, and what a page may load."""

from __future__ import annotations

import base64
import hashlib
import re

_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

DATA_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
"""Of predictions and accepted outcomes: JSON that no browser takes for a page needs no policy, and each header costs
a prediction 0.35 µs, because the server checks its bytes (``benchmarks/access.py``)."""
SECURITY_HEADERS = (*DATA_HEADERS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
"""Of every other answer; a page that loads something has a policy of its own (:func:`page_policy`)."""


def page_policy(html: bytes) -> bytes:
    """The ``Content-Security-Policy`` of a page of the API documentation.

    Its scripts and styles come from this server, its inline scripts are allowed by their hashes; Swagger UI and ReDoc
    make style elements as they run, show data URLs as pictures, and ReDoc searches in a worker that it makes itself.

    Examples
    --------
    >>> b"script-src 'self' 'sha256-" in page_policy(b"<script>go()</script>")
    True
    """
    hashes = [
        b"'sha256-%b'" % base64.b64encode(hashlib.sha256(script).digest()) for script in _INLINE_SCRIPT.findall(html)
    ]
    return b"; ".join(
        [
            b"default-src 'none'",
            b" ".join([b"script-src 'self'", *hashes]),
            b"style-src 'self' 'unsafe-inline'",
            b"img-src 'self' data:",
            b"font-src 'self' data:",
            b"connect-src 'self'",
            b"worker-src blob:",
            b"base-uri 'none'",
            b"form-action 'self'",
            b"frame-ancestors 'none'",
        ]
    )
