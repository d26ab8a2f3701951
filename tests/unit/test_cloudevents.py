"""CloudEvents of KServe's logger: two halves become one event, in any order, within bounds."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting import FEATURES, Console
from shadow_mlops.console.cloudevents import InferenceEvent, Pairing
from shadow_mlops.domain.errors import (
    AppendError,
    BodyTooLargeError,
    InvalidFieldsError,
    MalformedBodyError,
    UnavailableError,
)

ROW = [12, "gold", 70.5]


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path)
    yield made
    made.intake.close()


def binary(console: Console, half: str, key: str, data: object, **extensions: str) -> Any:
    headers = {f"ce-{name}": value for name, value in extensions.items()}
    return console.post(
        data,
        **{
            "ce-specversion": "1.0",
            "ce-id": key,
            "ce-source": "http://localhost:9081/",
            "ce-type": f"org.kubeflow.serving.inference.{half}",
            "ce-inferenceservicename": "churn",
            **headers,
        },
    )


def structured(half: str, key: str, data: object, **more: object) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": key,
        "source": "x",
        "type": f"org.kubeflow.serving.inference.{half}",
        "data": data,
        **more,
    }


def scores(console: Console) -> list[list[float]]:
    return [row for batch in console.batches() for row in batch.scores.tolist()]


@pytest.mark.parametrize("order", [("request", "response"), ("response", "request")])
def test_halves_in_binary_mode_become_an_event_whichever_comes_first(console: Console, order: tuple[str, str]) -> None:
    data = {"request": {"instances": [FEATURES]}, "response": {"predictions": [0.25]}}
    times = {"request": "2026-01-31T12:00:00Z", "response": "2026-01-31T12:00:00.02Z"}
    first, second = order
    assert binary(console, first, "a", data[first], time=times[first]) == {"accepted": 0, "waiting": 1}
    assert binary(console, second, "a", data[second], time=times[second]) == {"accepted": 1, "waiting": 0}
    (batch,) = console.batches()
    assert batch.request_ids == ["a"]
    assert batch.times.tolist() == [1769860800000000]
    assert batch.latencies.tolist() == [20_000]
    assert batch.schema.version == "2.1.0", "the champion's, since nothing else is said"
    np.testing.assert_array_equal(batch.numbers, [[12, 70.5]])
    np.testing.assert_array_equal(batch.scores, [[0.75, 0.25]])
    assert console.value("shadow_events_accepted_total", form="cloudevents") == 1


def test_structured_and_batched_mode(console: Console) -> None:
    request, response = {"instances": [FEATURES]}, {"predictions": [1]}
    kind = "application/cloudevents+json; charset=utf-8"
    encoded = base64.b64encode(msgspec.json.encode(request)).decode()
    console.post(structured("request", "a", None, data_base64=encoded), kind)
    assert console.post(structured("response", "a", response), kind)["accepted"] == 1
    several = [
        structured(half, f"b{i}", data)
        for i in range(3)
        for half, data in (("response", response), ("request", request))
    ]
    assert console.post(several, "application/cloudevents-batch+json") == {"accepted": 3, "waiting": 0}
    assert scores(console) == [[0.0, 1.0]] * 4


@pytest.mark.parametrize(
    ("request_data", "response_data", "expected"),
    [
        ({"instances": [ROW, ROW]}, {"predictions": [0.25, 0.5]}, [[0.75, 0.25], [0.5, 0.5]]),
        ({"instances": [FEATURES]}, {"predictions": [[0.9, 0.1]]}, [[0.9, 0.1]]),
        ({"instances": [ROW, ROW]}, {"predictions": [0, 1]}, [[1.0, 0.0], [0.0, 1.0]]),
        ({"instances": [ROW]}, {"predictions": ["1"]}, [[0.0, 1.0]]),
        ({"instances": [ROW]}, {"predictions": [True]}, [[0.0, 1.0]]),
        ({"instances": [ROW]}, {"predictions": [[0.25]]}, [[0.75, 0.25]]),
        ({"instances": [ROW]}, {"predictions": [{"0": 0.9, "1": 0.1}]}, [[0.9, 0.1]]),
        (
            {"inputs": [{"name": "input-0", "shape": [2, 3], "datatype": "BYTES", "data": [*ROW, *ROW]}]},
            {"outputs": [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 0]}]},
            [[0.0, 1.0], [1.0, 0.0]],
        ),
        (
            {"inputs": [{"name": "input-0", "shape": [2, 3], "datatype": "BYTES", "data": [ROW, ROW]}]},
            {
                "outputs": [
                    {"name": "label", "shape": [2], "datatype": "INT64", "data": [1, 0]},
                    {"name": "probabilities", "shape": [2, 2], "datatype": "FP32", "data": [0.9, 0.1, 0, 1]},
                ]
            },
            [[0.9, 0.1], [0.0, 1.0]],
        ),
        (
            {
                "inputs": [
                    {"name": "tenure", "shape": [2], "datatype": "INT64", "data": [12, 12]},
                    {"name": "plan", "shape": [2, 1], "datatype": "BYTES", "data": ["gold", "gold"]},
                    {"name": "charges", "shape": [2, 1], "datatype": "FP64", "data": [70.5, None]},
                ]
            },
            {"outputs": [{"name": "out", "shape": [2, 1], "datatype": "FP32", "data": [1, 0.5]}]},
            [[0.0, 1.0], [0.5, 0.5]],
        ),
    ],
)
def test_bodies_of_both_protocols(
    console: Console, request_data: object, response_data: object, expected: list[list[float]]
) -> None:
    binary(console, "request", "k", request_data)
    assert binary(console, "response", "k", response_data)["accepted"] == len(expected)
    np.testing.assert_allclose(scores(console), expected)
    (batch,) = console.batches()
    assert batch.request_ids == (["k"] if len(expected) == 1 else [f"k-{i}" for i in range(len(expected))])
    assert batch.numbers[0].tolist() == [12, 70.5]
    assert batch.strings[:, 0].tolist() == ["gold"] * len(expected)


def test_the_version_is_the_extensions_else_the_answers(console: Console) -> None:
    for key, extension, named in (("a", {"modelversion": "9.0"}, "8.0"), ("b", {}, "8.0")):
        binary(console, "request", key, {"instances": [ROW]})
        tensor = {"name": "predict", "shape": [1], "datatype": "INT64", "data": [1]}
        binary(console, "response", key, {"outputs": [tensor], "model_version": named}, **extension)
    assert [batch.schema.version for batch in console.batches()] == ["9.0", "8.0"]


@pytest.mark.parametrize(
    ("request_data", "response_data", "problem"),
    [
        ({"instances": [ROW, ROW]}, {"predictions": [1]}, "has 2 instances, its response 1"),
        ({"instances": [[1, "gold"]]}, {"predictions": [1]}, "has 2 values, the model has 3 features"),
        ({"instances": [{**FEATURES, "tenur": 3}]}, {"predictions": [1]}, "did you mean `tenure`?"),
        ({"instances": [3]}, {"predictions": [1]}, "an instance is an object, or a list"),
        ({"rows": []}, {"predictions": [1]}, "`instances` (V1) or `inputs` (V2)"),
        ({"instances": [ROW]}, {"error": "out of memory"}, "`predictions` (V1) or `outputs` (V2)"),
        ({"instances": [ROW]}, {"predictions": [None]}, "is required"),
        ({"instances": [ROW]}, {"predictions": [[0.1, "x"]]}, "Expected `float`"),
        ({"instances": [ROW]}, {"predictions": [1], "model_version": "v" * 201}, "length <= 200"),
        ({"inputs": [{"name": "a", "shape": [2], "data": [1]}]}, {"predictions": [1]}, "1 values of shape [2]"),
        (
            {"instances": [ROW]},
            {"outputs": [{"name": name, "shape": [1], "datatype": "INT64", "data": [1]} for name in "ab"]},
            "which of a, b holds the scores?",
        ),
    ],
)
def test_halves_that_do_not_fit_are_refused_and_forgotten(
    console: Console, request_data: object, response_data: object, problem: str
) -> None:
    binary(console, "request", "k", request_data)
    with pytest.raises(InvalidFieldsError) as caught:
        binary(console, "response", "k", response_data)
    assert any(problem in each.problem for each in caught.value.problems), caught.value.problems
    assert console.batches() == []
    assert len(console.intake._pairing) == 0


def test_what_is_no_cloudevent_is_refused(console: Console) -> None:
    with pytest.raises(InvalidFieldsError, match="not understood"):
        console.post({"instances": []}, **{"ce-id": "a", "ce-type": "org.kubeflow.serving.inference.feedback"})
    with pytest.raises(InvalidFieldsError):
        console.post({"instances": []}, **{"ce-id": "a"})
    with pytest.raises(MalformedBodyError):
        console.post(b"{", **{"ce-id": "a", "ce-type": "org.kubeflow.serving.inference.request"})
    with pytest.raises(InvalidFieldsError, match="JSON array"):
        console.post({}, "application/cloudevents-batch+json")
    with pytest.raises(InvalidFieldsError):
        console.post(structured("request", "", {}), "application/cloudevents+json")
    with pytest.raises(InvalidFieldsError):
        console.post(structured("request", "a", [1]), "application/cloudevents+json")
    for encoded in ("e30", "é"):
        with pytest.raises(InvalidFieldsError) as caught:
            console.post(structured("request", "a", None, data_base64=encoded), "application/cloudevents+json")
        assert caught.value.problems[0].field == "data_base64"
    binary(console, "request", "big", {"instances": [ROW] * 1001})
    with pytest.raises(BodyTooLargeError):
        binary(console, "response", "big", {"predictions": [1] * 1001})


def halves(*keys: str, rows: int = 1, answers: dict[str, object] | None = None) -> list[dict[str, object]]:
    """Both halves of each key, answered with a label for each row."""
    given = {key: {"predictions": [1] * rows} for key in keys} | (answers or {})
    return [
        structured(half, key, data)
        for key in keys
        for half, data in (("request", {"instances": [ROW] * rows}), ("response", given[key]))
    ]


def test_the_rows_of_a_body_are_bounded_in_sum_and_it_may_be_sent_in_parts(console: Console) -> None:
    kind = "application/cloudevents-batch+json"
    with pytest.raises(BodyTooLargeError, match="more than 1000 predictions: send fewer at once"):
        console.post(halves("a", "b", "c", rows=400), kind)
    assert console.batches() == []
    assert console.post(halves("a", "b", rows=400), kind) == {"accepted": 800, "waiting": 0}
    assert console.post(halves("c", rows=400), kind) == {"accepted": 400, "waiting": 0}


@pytest.mark.parametrize("wrong", [{"predictions": [1, 1]}, {"predictions": [7]}])
def test_a_wrong_pair_takes_no_other_of_its_body_with_it(console: Console, wrong: dict[str, object]) -> None:
    kind = "application/cloudevents-batch+json"
    body = halves("a", "b", "c", answers={"b": wrong})
    with pytest.raises(InvalidFieldsError):
        console.post(body, kind)
    assert console.batches() == []
    assert console.post(body, kind) == {"accepted": 2, "waiting": 0}, "the wrong one is forgotten"
    assert [batch.request_ids for batch in console.batches()] == [["a", "c"]]


def test_a_repeated_half_makes_no_second_event(console: Console) -> None:
    for _ in range(2):
        binary(console, "request", "a", {"instances": [ROW]})
    for _ in range(3):
        binary(console, "response", "a", {"predictions": [1]})
    binary(console, "request", "a", {"instances": [ROW]})
    assert len(scores(console)) == 1
    assert console.value("shadow_unpaired_halves_total", half="response", reason="repeated") == 2
    assert console.value("shadow_unpaired_halves_total", half="request", reason="repeated") == 2


def test_a_pair_that_the_log_does_not_take_is_complete_when_its_half_comes_again(console: Console) -> None:
    binary(console, "request", "a", {"instances": [ROW]})

    class Full:
        def append(self, _batch: object) -> None:
            raise AppendError("the disk is full")

        def close(self) -> None:
            """Nothing is open."""

    console.intake._writer._appender = Full()
    with pytest.raises(UnavailableError):
        binary(console, "response", "a", {"predictions": [1]})
    console.intake._writer._appender = None
    assert binary(console, "response", "a", {"predictions": [1]})["accepted"] == 1


def _half(key: str, half: Any, size: int = 10) -> InferenceEvent:
    return InferenceEvent(key, half, {}, size)


def test_halves_that_stay_alone_are_bounded_in_time_number_and_bytes() -> None:
    now = 0.0
    lost: Counter[tuple[str, str]] = Counter()
    pairing = Pairing(
        given_up=lambda half, reason, count: lost.update({(half, reason): count}),
        most_halves=5,
        most_bytes=100,
        wait_seconds=60,
        clock=lambda: now,
    )
    for i in range(8):
        pairing.settle(*pairing.match([_half(f"a{i}", "request")]))
    assert len(pairing) == 5
    assert lost == {("request", "crowded_out"): 3}
    pairing.settle(*pairing.match([_half("large", "response", 90)]))
    assert lost["request", "crowded_out"] == 7
    assert len(pairing) == 2
    now = 61.0
    pairing.sweep()
    assert len(pairing) == 0
    assert lost["request", "expired"] == lost["response", "expired"] == 1
    pairs, alone = pairing.match([_half("a7", "response")])
    assert (pairs, len(alone)) == ([], 1), "the other half is forgotten"


@given(st.lists(st.integers(0, 9), max_size=40), st.randoms(use_true_random=False), st.integers(1, 5))
def test_every_id_is_paired_once_whatever_the_order_and_the_cuts(
    keys: list[int], shuffler: random.Random, cut: int
) -> None:
    halves = [_half(str(key), half) for key in keys for half in ("request", "response")]
    shuffler.shuffle(halves)
    pairing = Pairing(given_up=lambda *_: None)
    found: Counter[str] = Counter()
    for start in range(0, len(halves), cut):
        pairs, alone = pairing.match(halves[start : start + cut])
        pairing.settle(pairs, alone)
        found.update(pair.request.id for pair in pairs)
        assert all((pair.request.half, pair.response.half) == ("request", "response") for pair in pairs)
    assert found == Counter({str(key): 1 for key in keys})
    assert len(pairing) == 0
