"""One suite for every event log: what gateway, challengers and monitor may rely on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logrows import events, ids_of, read_all, schema
from shadow_mlops.domain.errors import AppendError, ConflictError
from shadow_mlops.domain.events import (
    EVENTS,
    OUTCOMES,
    OutcomeSchema,
    ResultSchema,
    Span,
    results_stream,
)
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.eventlog.records import NO_TIME, OutcomeBatch, ResultBatch
from shadow_mlops.eventlog.retention import Retention
from shadow_mlops.eventlog.seam import Frame, Gone, Skipped
from shadow_mlops.eventlog.segments import SegmentLog


@dataclass
class Bench:
    log: Any
    retire: Callable[[int], object]
    forget: Callable[[int], object]


def _files(tmp_path: Path) -> Bench:
    retention = Retention(tmp_path / "log")

    def find(segment: int):
        return next(info for info in retention.segments() if info.segment == segment)

    return Bench(
        SegmentLog(tmp_path / "log"),
        lambda segment: retention.retire(find(segment)),
        lambda segment: retention.forget(find(segment)),
    )


def _memory(tmp_path: Path) -> Bench:
    log = MemoryLog()
    return Bench(log, log.retire, log.forget)


@pytest.fixture(params=[_files, _memory], ids=["segments", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return request.param(tmp_path)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    for name in a.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            assert right.dtype == left.dtype
            assert right.shape == left.shape
            if left.dtype == np.float64:
                assert left.tobytes() == right.tobytes()  # NaN equals NaN, -0.0 differs from 0.0
            else:
                assert left.tolist() == right.tolist()
        else:
            assert left == right


def test_events_come_back_as_they_went_in(bench: Bench) -> None:
    of = schema(3, 2, positive="1", threshold=0.25, role="challenger")
    batch = events(
        ["a", "", "ünï-😀"],
        of=of,
        entities=[None, "", "客戶"],
        times=np.array([-(2**62), 0, 2**62]),
        latencies=np.array([0, 1, 2**32 - 1], dtype=np.uint32),
        numbers=np.array([[np.nan, np.inf, -0.0], [5e-324, -np.inf, 1e308], [0.1, 2, 3]]),
        strings=np.array([[None, "x"], ["", None], ["zero \0 byte", "lone \ud800 half"]], dtype=object),
        scores=np.array([[np.nan, 1.0], [0.1, 0.9], [0.5, 0.5]]),
        origins=np.arange(15, dtype=np.uint8).reshape(3, 5),
        sampled=np.array([True, False, True]),
    )
    bench.log.appender(EVENTS, writer="w").append(batch)
    (frame,) = bench.log.tail(EVENTS).poll(100)
    assert_same(batch, frame.batch)
    assert (frame.first, frame.count, frame.sampled) == (0, 3, 2)


def test_optional_columns_stay_absent_and_matrices_may_have_no_columns(bench: Bench) -> None:
    batch = events(["a", "b"], of=schema(0, 0), entities=[None, None])
    bench.log.appender(EVENTS, writer="w").append(batch)
    (frame,) = bench.log.tail(EVENTS).poll(100)
    assert_same(batch, frame.batch)
    assert frame.batch.numbers.shape == (2, 0)
    assert frame.batch.strings.shape == (2, 0)
    assert frame.sampled == 2


def test_results_come_back_as_they_went_in(bench: Bench) -> None:
    of = ResultSchema(
        deployment="churn",
        challenger="c",
        model="churn",
        version="3",
        registry_version="2",
        outputs=("0", "1"),
    )
    batch = ResultBatch(
        schema=of,
        spans=[Span(2**62, 0, 2, 2), Span(5, 7, 100, 99, shed=True), Span(5, 107, 1, 0)],
        statuses=np.array([0, 1, 3], dtype=np.uint8),
        scores=np.array([[0.1, 0.9], [np.nan, np.nan], [np.nan, np.nan]]),
        latencies=np.array([1, 2, 3], dtype=np.uint32),
    )
    bench.log.appender(results_stream("c"), writer="c").append(batch)
    (frame,) = bench.log.tail(results_stream("c")).poll(100)
    assert_same(batch, frame.batch)
    assert (frame.count, frame.sampled) == (3, 3)


def test_outcomes_come_back_as_they_went_in(bench: Bench) -> None:
    batch = OutcomeBatch(
        schema=OutcomeSchema(deployment="churn"),
        received=np.array([1, 2]),
        times=np.array([NO_TIME, 5]),
        labels=["1", "grün"],
        request_ids=["a", None],
        entities=[None, "CUST-1"],
    )
    short = OutcomeBatch(
        schema=batch.schema, received=np.array([3]), times=np.array([4]), labels=["0"], request_ids=["b"]
    )
    appender = bench.log.appender(OUTCOMES, writer="w")
    appender.append(batch)
    appender.append(short)
    first, second = bench.log.tail(OUTCOMES).poll(100)
    assert_same(batch, first.batch)
    assert_same(short, second.batch)


def test_a_frame_that_only_sheds_is_read_once(bench: Bench) -> None:
    of = ResultSchema(deployment="d", challenger="c", model="m", version="3", registry_version="2", outputs=("value",))

    def shed(first: int) -> ResultBatch:
        return ResultBatch(
            schema=of,
            spans=[Span(5, first, 10, 10, shed=True)],
            statuses=np.empty(0, np.uint8),
            scores=np.empty((0, 1)),
            latencies=np.empty(0, np.uint32),
        )

    appender = bench.log.appender("results/c", writer="c")
    appender.append(shed(0))
    tail = bench.log.tail("results/c")
    (frame,) = tail.poll(10)
    assert frame.count == 1
    assert len(frame.batch) == 0
    appender.append(shed(10))
    again = bench.log.tail("results/c", tail.position())
    assert [frame.batch.spans[0].first for frame in again.poll(10)] == [10]


def test_ids_name_segment_and_row(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    segment, first = appender.append(events(["a", "b"]))
    assert first == 0
    assert 0 < segment < 2**63
    assert appender.append(events(["c"])) == (segment, 2)
    assert [(f.segment, f.first, f.count) for f in bench.log.tail(EVENTS).poll(9)] == [
        (segment, 0, 2),
        (segment, 2, 1),
    ]


def test_the_writer_may_reuse_its_arrays(bench: Bench) -> None:
    batch = events(["a"])
    bench.log.appender(EVENTS, writer="w").append(batch)
    batch.numbers[:] = -1
    batch.request_ids[0] = "changed"
    (frame,) = bench.log.tail(EVENTS).poll(9)
    assert frame.batch.numbers.tolist() == [[0.0, 1.0]]
    assert frame.batch.request_ids == ["a"]


def test_schemas_may_alternate(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    old, new = schema(1, 0), schema(2, 1, version="3.0.0")
    for number in range(6):
        appender.append(events([str(number)], of=(old, new)[number % 2]))
    frames = bench.log.tail(EVENTS).poll(99)
    assert [f.batch.schema.version for f in frames] == ["2.1.0", "3.0.0"] * 3
    assert ids_of(frames) == list("012345")


@pytest.mark.parametrize(
    "wrong",
    [
        {"numbers": np.zeros((1, 2), dtype=np.float32)},
        {"numbers": np.zeros((1, 3))},
        {"scores": np.zeros((2, 2))},
        {"entities": []},
        {"strings": np.empty((1, 2), dtype=object)},
        {"origins": np.zeros((1, 2), dtype=np.uint8)},
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(bench: Bench, wrong: dict[str, Any]) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    with pytest.raises(ValueError):
        appender.append(events(["a"], **wrong))
    appender.append(events(["b"]))
    assert ids_of(bench.log.tail(EVENTS).poll(9)) == ["b"]


def test_an_empty_batch_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError):
        bench.log.appender(EVENTS, writer="w").append(events([]))


def test_a_closed_appender_refuses(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    appender.append(events(["a"]))
    appender.sync()
    appender.close()
    appender.close()
    with pytest.raises(AppendError):
        appender.append(events(["b"]))
    assert ids_of(bench.log.tail(EVENTS).poll(9)) == ["a"]


def test_polls_are_bounded_and_return_at_least_one_frame(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    for number in range(5):
        appender.append(events([f"{number}-{i}" for i in range(10)]))
    tail = bench.log.tail(EVENTS)
    assert len(tail.poll(1)) == 1
    assert len(tail.poll(25)) == 2
    assert len(tail.poll(1000)) == 2
    assert tail.poll(1000) == []


def test_a_tail_resumes_where_another_stopped(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    for number in range(10):
        appender.append(events([str(number)], of=schema(number % 3 + 1)))
    seen = []
    position: Any = {}
    for _ in range(12):
        tail = bench.log.tail(EVENTS, position)
        seen += ids_of(tail.poll(1))
        position = dict(tail.position())
        tail.close()
    assert seen == [str(number) for number in range(10)]


def test_a_tail_sees_what_comes_later_also_from_new_writers(bench: Bench) -> None:
    tail = bench.log.tail(EVENTS)
    assert tail.poll(9) == []
    assert tail.position() == {}
    for writer in range(3):
        appender = bench.log.appender(EVENTS, writer=f"w{writer}")
        assert tail.poll(9) == []
        for number in range(3):
            appender.append(events([f"{writer}-{number}"]))
            assert ids_of(tail.poll(9)) == [f"{writer}-{number}"]
        if writer == 1:
            appender.close()
    assert tail.poll(9) == []


def test_writers_are_merged_in_order_of_time(bench: Bench) -> None:
    writers = [bench.log.appender(EVENTS, writer=f"w{i}") for i in range(3)]
    expected = []
    for number in range(30):
        expected.append(str(number))
        writers[(number * number) % 3].append(events([str(number)]))
    tail = bench.log.tail(EVENTS)
    assert ids_of(read_all(tail, 4)) == expected


def test_two_tails_are_independent(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    for number in range(4):
        appender.append(events([str(number)]))
    one, two = bench.log.tail(EVENTS), bench.log.tail(EVENTS)
    assert ids_of(one.poll(3)) == ["0", "1", "2"]
    assert ids_of(two.poll(1)) == ["0"]
    assert (one.backlog(), two.backlog()) == (1, 3)
    one.close()
    assert ids_of(two.poll(9)) == ["1", "2", "3"]


def test_backlog_counts_what_is_left(bench: Bench) -> None:
    one, two = (bench.log.appender(EVENTS, writer=f"w{i}") for i in range(2))
    tail = bench.log.tail(EVENTS)
    assert tail.backlog() == 0
    one.append(events(["a", "b"]))
    two.append(events(["c"]))
    assert tail.backlog() == 3
    tail.poll(1)
    assert tail.backlog() == 1
    one.close()
    two.append(events(["d", "e"]))
    assert tail.backlog() == 3
    assert bench.log.tail(EVENTS, tail.position()).backlog() == 3
    tail.poll(9)
    assert tail.backlog() == 0


def test_skip_passes_whole_frames_oldest_first(bench: Bench) -> None:
    appender = bench.log.appender(EVENTS, writer="w")
    for number in range(5):
        segment, _ = appender.append(
            events([f"{number}a", f"{number}b", f"{number}c"], sampled=np.array([True, number > 0, False]))
        )
    tail = bench.log.tail(EVENTS)
    assert tail.skip(0) == []
    assert tail.skip(4) == [Skipped(segment, 0, 6, 3)]
    assert ids_of(tail.poll(1)) == ["2a", "2b", "2c"]
    assert tail.position() == {segment: 9}
    assert tail.skip(100) == [Skipped(segment, 9, 6, 4)]
    assert tail.skip(100) == []
    assert tail.backlog() == 0


def test_skip_goes_over_segments_in_order_of_time(bench: Bench) -> None:
    one, two = (bench.log.appender(EVENTS, writer=f"w{i}") for i in range(2))
    a, _ = one.append(events(["1", "2"]))
    b, _ = two.append(events(["3"]))
    one.append(events(["4"]))
    tail = bench.log.tail(EVENTS)
    assert tail.skip(3) == [Skipped(a, 0, 2, 2), Skipped(b, 0, 1, 1)]
    assert ids_of(tail.poll(9)) == ["4"]


def test_streams_that_have_segments_are_named(bench: Bench) -> None:
    assert bench.log.streams() == []
    bench.log.tail("results/none")
    for stream in (EVENTS, OUTCOMES, "results/challenger-x"):
        bench.log.appender(stream, writer="w")
    assert sorted(bench.log.streams()) == [EVENTS, OUTCOMES, "results/challenger-x"]


def _retired(bench: Bench) -> tuple[int, Any]:
    appender = bench.log.appender(EVENTS, writer="w")
    for number in range(6):
        sampled = None if number % 2 else np.array([True, False, True])
        segment, _ = appender.append(events([f"{number}a", f"{number}b", f"{number}c"], sampled=sampled))
    appender.close()
    return segment, bench.log.tail(EVENTS)


def test_a_reader_learns_how_many_rows_are_gone(bench: Bench) -> None:
    segment, _ = _retired(bench)
    positions = [{}]
    tail = bench.log.tail(EVENTS, {})
    while tail.poll(1):
        positions.append(dict(tail.position()))
    bench.retire(segment)
    for done, position in enumerate(positions):
        left = range(done, 6)
        expected = [Gone(segment, 3 * done, 3 * len(left), sum(3 if i % 2 else 2 for i in left))]
        late = bench.log.tail(EVENTS, position)
        assert late.backlog() == expected[0].count
        assert late.poll(5) == (expected if left else [])
        assert late.position() == {segment: 18}
        assert late.backlog() == 0
        assert late.poll(5) == []
    assert bench.log.tail(EVENTS, {}).skip(100) == [Gone(segment, 0, 18, 15)]


def test_a_new_reader_is_not_told_of_rows_gone_before_it_came(bench: Bench) -> None:
    segment, early = _retired(bench)
    bench.retire(segment)
    tail = bench.log.tail(EVENTS)
    assert tail.poll(9) == []
    assert bench.log.tail(EVENTS, tail.position()).poll(9) == []
    assert early.poll(9) == [Gone(segment, 0, 18, 15)]


def test_a_forgotten_segment_leaves_the_position(bench: Bench) -> None:
    segment, tail = _retired(bench)
    read_all(tail)
    assert tail.position() == {segment: 18}
    bench.retire(segment)
    assert tail.poll(9) == []
    assert tail.position() == {segment: 18}
    bench.forget(segment)
    assert tail.poll(9) == []
    assert tail.position() == {}
    assert bench.log.tail(EVENTS, {segment: 18}).poll(9) == []


def test_a_segment_in_use_is_not_retired(bench: Bench) -> None:
    segment, _ = bench.log.appender(EVENTS, writer="w").append(events(["a"]))
    with pytest.raises(ConflictError):
        bench.retire(segment)
    assert ids_of(bench.log.tail(EVENTS).poll(9)) == ["a"]


def test_an_ordered_tail_waits_for_the_slowest_writer(bench: Bench) -> None:
    one, two = (bench.log.appender(EVENTS, writer=f"w{i}") for i in range(2))
    tail = bench.log.tail(EVENTS)
    one.append(events(["1"]))
    assert tail.poll_ordered(9) == []  # the second could still be earlier
    two.append(events(["2"]))
    assert ids_of(tail.poll_ordered(9)) == ["1"]
    one.beat()
    assert ids_of(tail.poll_ordered(9)) == ["2"]
    one.append(events(["3"]))
    assert tail.poll_ordered(9) == []
    two.close()
    assert ids_of(tail.poll_ordered(9)) == ["3"]


def test_the_horizon_of_an_ordered_tail_lies_before_all_that_is_still_to_come(bench: Bench) -> None:
    one, two = (bench.log.appender(EVENTS, writer=f"w{i}") for i in range(2))
    tail = bench.log.tail(EVENTS)
    for writer in (one, two, two, one, two):
        writer.append(events(["x"]))
        while tail.poll_ordered(9):
            pass
        horizon = tail.horizon()
        one.append(events(["y"]))
        two.beat()
        coming = [item for item in tail.poll_ordered(9) if isinstance(item, Frame)]
        assert coming
        assert all((frame.boot, frame.monotonic_ns) > horizon for frame in coming)
    one.close()
    two.append(events(["z"]))
    two.close()
    last = [(frame.boot, frame.monotonic_ns) for frame in tail.poll_ordered(9) if isinstance(frame, Frame)][-1]
    assert tail.poll_ordered(9) == []
    assert tail.horizon() > last


def test_an_ordered_tail_counts_on_writers_that_come_later(bench: Bench) -> None:
    one = bench.log.appender(EVENTS, writer="w1")
    tail = bench.log.tail(EVENTS)
    one.append(events(["1"]))
    two = bench.log.appender(EVENTS, writer="w2")
    assert ids_of(tail.poll_ordered(9)) == ["1"]
    one.append(events(["2"]))
    assert tail.poll_ordered(9) == []
    two.beat()
    one.beat()
    assert ids_of(tail.poll_ordered(9)) == ["2"]
