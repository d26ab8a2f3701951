"""The rate limit per client, on the `limits` library.

A hit costs `limits` about 3 µs, a tenth of a request: hits are taken from it in leases of up to 64, and given out one by one. A lease is never
larger than what remains of the window and dies with it, so no client gets more than its limit.
"""

from __future__ import annotations

import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage, Storage
from limits.strategies import FixedWindowRateLimiter

from shadow_mlops.domain.errors import RateLimitedError

_LEASE = 64
_MAX_CLIENTS = 100_000  # leases kept; beyond it all are dropped, which only costs their clients the unused part


class RateLimiter:
    """Limit each client to a number of requests per fixed window.

    Parameters
    ----------
    requests
        Requests per window and client.
    window_seconds
        Length of the window.
    storage
        Where `limits` counts; a process of its own memory when None.
    """

    def __init__(self, requests: int, window_seconds: int, storage: Storage | None = None) -> None:
        self._item = RateLimitItemPerSecond(requests, window_seconds)
        self._limit = requests
        self._limiter = FixedWindowRateLimiter(storage if storage is not None else MemoryStorage())
        self._leases: dict[str, list[float]] = {}

    def take(self, client: str, cost: int = 1) -> None:
        """Count requests of a client.

        Raises
        ------
        RateLimitedError
            The client has none left in this window; nothing was counted.
        """
        lease = self._leases.get(client)
        if lease is not None and lease[0] >= cost and lease[1] > time.time():
            lease[0] -= cost
            return
        self._renew(client, cost)

    def _renew(self, client: str, cost: int) -> None:
        stats = self._limiter.get_window_stats(self._item, client)
        held = self._leases.pop(client, None)
        now = time.time()
        if held is not None and held[1] <= now:
            held = None
        left = int(held[0]) if held is not None else 0
        wanted = min(max(_LEASE, cost - left), stats.remaining)
        if left + wanted < cost or (wanted and not self._limiter.hit(self._item, client, cost=wanted)):
            if held is not None:
                self._leases[client] = held
            raise RateLimitedError(
                f"more than {self._limit} requests per {self._item.get_expiry()} s",
                limit=self._limit,
                remaining=left + stats.remaining,
                reset_seconds=max(1, round(stats.reset_time - now)),
            )
        if len(self._leases) >= _MAX_CLIENTS:
            self._leases.clear()
        # the storage may have begun the window with this very hit, so its end is asked for only now
        self._leases[client] = [left + wanted - cost, self._limiter.get_window_stats(self._item, client).reset_time]
