"""The open-loop client: requests leave on schedule, every failure is counted under its name."""

import asyncio
import socket

import numpy as np
import pytest
import uvloop
from httpserver import Seen, Server, reply
from hypothesis import given
from hypothesis import strategies as st

from shadow_mlops.cli.latencies import Latencies
from shadow_mlops.cli.loadclient import Exchange, Pool, run_schedule
from shadow_mlops.domain.errors import SettingsError, UnavailableError


def drive(url, count, *, rate=2000.0, loop_factory=asyncio.new_event_loop, spin=False, **options):
    ended = []

    async def main():
        pool = Pool(url, ended.append, **options)
        try:
            requests = (Exchange("/predict", b'{"n": %d}' % n, f"r-{n}") for n in range(count))
            await run_schedule(pool, requests, rate, asyncio.Event(), spin=spin)
        finally:
            await pool.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return ended


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_every_request_is_answered_once_over_few_connections(loop_factory, spin):
    with Server().running() as server:
        ended = drive(server.url, 500, connections=8, loop_factory=loop_factory, spin=spin)
    assert sorted(e.request_id for e in ended) == sorted(f"r-{n}" for n in range(500))
    assert {e.failure for e in ended} == {""}
    assert sorted(b["n"] for b in server.bodies("/predict")) == list(range(500))
    assert server.most_open <= 8
    assert server.connections < 100  # kept alive, not one each


def test_requests_leave_although_no_answer_comes():
    held = asyncio.Event()

    async def answer_when_all_are_here(_seen: Seen) -> bytes:
        if len(server.seen) == 30:
            held.set()
        await held.wait()  # a closed loop would wait here for ever
        return reply(200)

    with Server(answer_when_all_are_here).running() as server:
        ended = drive(server.url, 30, connections=30)
    assert [e.failure for e in ended] == [""] * 30


def test_latency_counts_from_the_moment_a_request_was_due():
    async def slow(_seen: Seen) -> bytes:
        await asyncio.sleep(0.02)
        return reply(200)

    with Server(slow).running() as server:
        ended = drive(server.url, 10, rate=1000.0, connections=1)
    # Ten requests due within 9 ms share a connection that needs 20 ms for each: the last waited for nine.
    last = max(ended, key=lambda e: e.scheduled)
    assert last.latency >= 9 * 0.02
    assert last.finished - last.sent < last.latency


def test_failures_are_told_apart():
    async def fail(seen: Seen) -> bytes | None:
        match seen.body["n"]:
            case 0:
                return reply(503)
            case 1:
                return reply(429)
            case 2:
                return None
            case 3:
                return b"this is not HTTP\r\n\r\n"
            case 4:
                await asyncio.sleep(60)
        return reply(200)

    with Server(fail).running() as server:
        ended = drive(server.url, 6, timeout=0.5)
    assert {e.request_id: e.failure for e in ended} == {
        "r-0": "503", "r-1": "429", "r-2": "closed", "r-3": "protocol", "r-4": "timeout", "r-5": "",
    }  # fmt: skip


def test_an_answer_cut_short_is_not_an_answer():
    async def torn(_seen: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{"

    with Server(torn).running() as server:
        ended = drive(server.url, 1)
    assert [e.failure for e in ended] == ["closed"]


def test_nothing_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert {e.failure for e in drive(url, 20)} == {"connect"}
        with pytest.raises(UnavailableError, match="does not answer"):
            asyncio.run(Pool(url, print).check())


def test_the_line_of_waiting_requests_is_bounded():
    async def hang(_seen: Seen) -> bytes:
        await asyncio.sleep(60)
        return reply(200)

    with Server(hang).running() as server:
        ended = drive(server.url, 100, connections=2, max_waiting=10, timeout=1.0)
    assert len(ended) == 100
    assert sum(e.failure == "overflow" for e in ended) == 88


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(SettingsError, match="expected a URL"):
        Pool(url, print)


@given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 0.999, 1.0]))
def test_quantiles_are_within_one_percent(seconds, q):
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    true = float(np.quantile(seconds, q, method="inverted_cdf")) * 1e3
    assert latencies.quantile(q) == pytest.approx(true, rel=0.01)


def test_no_latencies_no_quantile():
    assert Latencies().quantile(0.5) is None
