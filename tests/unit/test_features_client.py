"""From a gateway worker to the store: together, in time, left alone when it fails, used again when it is well."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from featureserver import DAY_US, Stoppable, feature_process
from shadow_mlops.breaker import Breaker
from shadow_mlops.domain.errors import FeatureStoreError
from shadow_mlops.features.client import FeatureClient, Row
from shadow_mlops.features.seam import Held
from shadow_mlops.features.server import FeatureServer

NAMES = ("tenure", "plan")
NOW = 100 * DAY_US


def store() -> Stoppable:
    made = Stoppable({"tenure": DAY_US, "plan": 10 * DAY_US}, clock=lambda: NOW)
    for number in range(500):
        made.write(f"C-{number}", time=NOW - 1, values={"tenure": number, "plan": f"p{number % 3}"})
    return made


async def connected(client: FeatureClient) -> asyncio.Task[None]:
    following = asyncio.create_task(client.follow())
    deadline = time.monotonic() + 10
    while not client.connected:
        assert time.monotonic() < deadline, "no connection"
        await asyncio.sleep(0.01)
    return following


async def ended(client: FeatureClient, following: asyncio.Task[None]) -> None:
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    client.close()


def test_requests_at_once_are_few_questions_and_each_gets_its_own_row(tmp_path: Path):
    kept = store()

    async def run() -> list:
        client = FeatureClient(tmp_path / "features.json", timeout=5)
        following = await connected(client)
        found = await asyncio.gather(*(client.read(f"C-{n % 600}", NAMES) for n in range(1200)))
        await ended(client, following)
        return found

    with feature_process(tmp_path, kept):
        found = asyncio.run(run())
    for number, row in enumerate(found):
        key = number % 600
        assert isinstance(row, Row)
        if key < 500:
            assert row.values == [key, f"p{key % 3}"]
        else:
            assert row.held == bytes([Held.ABSENT] * 2)
    assert sum(kept.reads) == 1200
    assert len(kept.reads) <= 10


def test_a_store_that_hangs_costs_a_request_the_time_out_then_nothing_and_is_used_again(tmp_path: Path):
    kept = store()

    async def run() -> None:
        breaker = Breaker(failures=3, pause=0.3, longest=0.3)
        client = FeatureClient(tmp_path / "features.json", timeout=0.05, breaker=breaker)
        following = await connected(client)
        kept.hanging.set()
        slow = []
        while client.state == "closed":
            slow.append(await client.read("C-1", NAMES))
        assert slow == ["timeout"] * 3
        assert await asyncio.gather(*(client.read("C-1", NAMES) for _ in range(50))) == ["open"] * 50
        await asyncio.sleep(0.35)
        probing = await asyncio.gather(*(client.read(f"C-{n}", NAMES) for n in range(50)))
        assert set(probing) <= {"timeout", "open"}  # it is on trial, and fails again
        assert client.state != "closed"  # half-open again, where this machine took longer than the pause
        kept.hanging.clear()
        deadline = time.monotonic() + 10
        while not isinstance(await client.read("C-1", NAMES), Row):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert client.state == "closed"
        await ended(client, following)

    with feature_process(tmp_path, kept):
        asyncio.run(run())


@pytest.mark.parametrize("failing", [True, False])
def test_a_store_that_fails_and_a_process_that_ends_are_told_at_once(tmp_path: Path, failing: bool):
    kept = store()
    kept.failing = failing

    async def run() -> None:
        client = FeatureClient(tmp_path / "features.json", timeout=30)
        following = await connected(client)
        if failing:
            assert await client.read("C-1", NAMES) == "error"
        else:
            assert isinstance(await client.read("C-1", NAMES), Row)
            kept.hanging.set()
            waiting = asyncio.create_task(client.read("C-1", NAMES))
            while len(kept.reads) < 2:
                await asyncio.sleep(0.01)
            client._writer.transport.abort()
            assert await waiting == "error"
            kept.hanging.clear()
        await ended(client, following)

    with feature_process(tmp_path, kept):
        asyncio.run(run())


def test_without_a_feature_process_nobody_waits(tmp_path: Path):
    async def run() -> None:
        client = FeatureClient(tmp_path / "features.json", timeout=30)
        following = asyncio.create_task(client.follow())
        assert await client.read("C-1", NAMES) == "error"
        await ended(client, following)

    asyncio.run(run())


def test_more_questions_than_fit_are_refused_and_late_ones_are_not_read(tmp_path: Path):
    kept = store()

    async def run() -> None:
        clients = [FeatureClient(tmp_path / "features.json", timeout=0.2) for _ in range(4)]
        following = [await connected(client) for client in clients]
        kept.hanging.set()
        found = await asyncio.gather(*(c.read(f"C-{n}", (f"n{n}",)) for c in clients for n in range(4)))
        assert set(found) == {"timeout", "error"}
        assert found.count("error") == 12  # two are being read, two wait
        kept.hanging.clear()
        await asyncio.sleep(0.1)
        assert len(kept.reads) == 2  # those that waited came too late, and were not read
        for client, task in zip(clients, following, strict=True):
            await ended(client, task)

    with feature_process(tmp_path, kept, waiting=2):
        asyncio.run(run())


def test_a_defect_of_a_store_is_an_answer_and_a_store_that_cannot_be_opened_ends_the_warming(tmp_path: Path):
    kept = store()
    kept.online = lambda *_: 1 / 0

    async def run() -> None:
        client = FeatureClient(tmp_path / "features.json", timeout=30)
        following = await connected(client)
        assert await client.read("C-1", NAMES) == "error"
        await ended(client, following)

    with feature_process(tmp_path, kept):
        asyncio.run(run())
    opened = iter([kept])

    def open_one() -> Stoppable:
        try:
            return next(opened)
        except StopIteration:
            raise FeatureStoreError("only once") from None

    kept.online = lambda *_: None
    with pytest.raises(FeatureStoreError, match="only once"):
        FeatureServer(open_one).warm(NAMES)
