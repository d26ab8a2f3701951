"""The rate limit per client, on the `limits` library, counted once for all workers of a host.

A hit costs `limits` about 3 µs, a tenth of a request: hits are taken from it in leases of up to 64, and given out one
by one. A lease is never larger than what remains of the window, and dies with it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
from pathlib import Path

from limits import RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from shadow_mlops.domain.errors import RateLimitedError

_LEASE = 64
_MAX_CLIENTS = 100_000  # leases kept; beyond it all are dropped, which only costs their clients the unused part
_SLOT = struct.Struct("<QQQ")  # hash of the key, number of the window, count
_SLOTS = 65_536
_PROBES = 16
TABLE_BYTES = _SLOTS * _SLOT.size


class SharedWindows(Storage):  # type: ignore[misc]
    """Counters of fixed windows in memory that the workers of a host share; windows follow the monotonic clock.

    There is no lock: two workers that renew the lease of one client in the same microsecond may count one lease for
    two. A client's window is forgotten only when 16 others with neighbouring hashes are busier in the same window.

    Parameters
    ----------
    window_seconds
        Length of the windows.
    table
        File of ``TABLE_BYTES`` bytes made by :func:`create_table`; None keeps the counters in this process.
    """

    STORAGE_SCHEME = None

    def __init__(self, window_seconds: int, table: Path | None = None) -> None:
        super().__init__()
        self._window_seconds = window_seconds
        if table is None:
            self._memory = mmap.mmap(-1, TABLE_BYTES)
        else:
            with table.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), TABLE_BYTES)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the memory can raise."""
        return ValueError

    def _find(self, key: str) -> tuple[int, int, int, int]:
        """Offset, hash, window and count of a key; the offset is that of the slot to take when the count is 0."""
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") | 1
        window = int(time.monotonic()) // self._window_seconds
        best, least = 0, 2**64
        for probe in range(_PROBES):
            offset = ((digest + probe) % _SLOTS) * _SLOT.size
            held, number, count = _SLOT.unpack_from(self._memory, offset)
            if held == digest and number == window:
                return offset, digest, window, count
            worth = count if number == window else 0
            if worth < least:
                best, least = offset, worth
        return best, digest, window, 0

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:  # noqa: ARG002 - the seam of `limits`
        """Add to a counter; its value after that. The window is the storage's own, whatever ``expiry`` says."""
        offset, digest, window, count = self._find(key)
        _SLOT.pack_into(self._memory, offset, digest, window, count + amount)
        return count + amount

    def get(self, key: str) -> int:
        """Value of a counter."""
        return self._find(key)[3]

    def get_expiry(self, key: str) -> float:
        """Monotonic time at which the current window ends; windows of all keys end together."""
        return float((self._find(key)[2] + 1) * self._window_seconds)

    def check(self) -> bool:
        """Memory does not fail."""
        return True

    def reset(self) -> int | None:
        """Forget all counters."""
        self._memory[:] = bytes(TABLE_BYTES)
        return None

    def clear(self, key: str) -> None:
        """Forget one counter."""
        offset, _, _, count = self._find(key)
        if count:
            _SLOT.pack_into(self._memory, offset, 0, 0, 0)


def create_table(path: Path) -> None:
    """Make an empty table of counters, all its blocks written.

    A page that a full disk cannot give would kill the process that touches it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(bytes(TABLE_BYTES))
    temporary.replace(path)


class RateLimiter:
    """Limit each client to a number of requests per fixed window.

    Parameters
    ----------
    requests
        Requests per window and client.
    window_seconds
        Length of the window.
    table
        Counters shared by the workers of a host (:func:`create_table`); None: this worker counts alone.
    """

    def __init__(self, requests: int, window_seconds: int, table: Path | None = None) -> None:
        self._item = RateLimitItemPerSecond(requests, window_seconds)
        self._limit = requests
        self._limiter = FixedWindowRateLimiter(SharedWindows(window_seconds, table))
        self._leases: dict[str, tuple[int, float]] = {}

    def take(self, client: str) -> None:
        """Count one request of a client.

        Raises
        ------
        RateLimitedError
            The client has none left in this window; nothing was counted.
        """
        left, until = self._leases.get(client, (0, 0.0))
        now = time.monotonic()
        if left and now < until:
            self._leases[client] = (left - 1, until)
            return
        self._renew(client, now)

    def _renew(self, client: str, now: float) -> None:
        stats = self._limiter.get_window_stats(self._item, client)
        # towards the end of a window's allowance leases shrink, so that no worker sits on what another one's client
        # could use
        wanted = min(_LEASE, max(1, stats.remaining // 8), stats.remaining)
        if not wanted or not self._limiter.hit(self._item, client, cost=wanted):
            raise RateLimitedError(
                f"more than {self._limit} requests in {self._item.get_expiry()} s",
                limit=self._limit,
                remaining=stats.remaining,
                reset_seconds=max(1, round(stats.reset_time - now)),
            )
        if len(self._leases) >= _MAX_CLIENTS:
            self._leases.clear()
        self._leases[client] = (wanted - 1, stats.reset_time)
