"""The rate limit: exact for one worker, shared by several, unmoved by the wall clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadow_mlops.domain.errors import RateLimitedError
from shadow_mlops.gateway import limiter as module
from shadow_mlops.gateway.limiter import RateLimiter, create_table


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 6000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def granted(limiter: RateLimiter, client: str, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            limiter.take(client)
        except RateLimitedError:
            continue
        count += 1
    return count


@pytest.mark.parametrize("limit", [1, 5, 64, 65, 1000, 60_000])
def test_a_client_gets_exactly_its_limit_in_a_window(clock: Clock, limit: int):
    limiter = RateLimiter(limit, 60)
    assert granted(limiter, "a", limit + 100) == limit
    assert granted(limiter, "b", limit + 1) == limit


def test_the_next_window_begins_anew(clock: Clock):
    limiter = RateLimiter(100, 60)
    assert granted(limiter, "a", 150) == 100
    clock.now += 60
    assert granted(limiter, "a", 150) == 100


def test_an_unused_lease_dies_with_its_window(clock: Clock):
    limiter = RateLimiter(100, 60)
    assert granted(limiter, "a", 1) == 1
    clock.now += 60
    assert granted(limiter, "a", 150) == 100


def test_the_refusal_says_when_to_come_back(clock: Clock):
    limiter = RateLimiter(2, 60)
    clock.now = 6010.0
    assert granted(limiter, "a", 2) == 2
    with pytest.raises(RateLimitedError) as caught:
        limiter.take("a")
    assert (caught.value.limit, caught.value.remaining, caught.value.reset_seconds) == (2, 0, 50)


def test_workers_that_share_a_table_share_the_limit(clock: Clock, tmp_path: Path):
    create_table(tmp_path / "table")
    workers = [RateLimiter(1000, 60, tmp_path / "table") for _ in range(3)]
    total = sum(granted(workers[i % 3], "a", 1) for i in range(5000))
    assert total == 1000
    assert granted(workers[0], "b", 10) == 10


def test_many_clients_are_counted_apart(clock: Clock):
    limiter = RateLimiter(3, 60)
    assert all(granted(limiter, f"10.0.{i // 256}.{i % 256}", 5) == 3 for i in range(5000))
