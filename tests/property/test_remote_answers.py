"""Whatever a remote model sends, it is scores of the right shape, or an error of the one kind that callers expect."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.outputs import OutputsError
from shadow_mlops.models.runtimes.inference import scores_in

ROWS = 2
CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400)
JSON = st.recursive(
    CELLS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["0", "1", "x"]), inner)
)
LIKELY = st.lists(st.lists(CELLS, min_size=2, max_size=2) | CELLS, min_size=ROWS, max_size=ROWS) | JSON
SHAPES = st.sampled_from([[2], [2, 2], [-1, -2]]) | JSON
OUTPUT = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from(["0", "1", "prob", "score"]), "shape": SHAPES, "data": LIKELY}
)
V2 = st.fixed_dictionaries({"outputs": st.lists(OUTPUT, max_size=3) | JSON}) | JSON
MLFLOW = st.fixed_dictionaries({"predictions": LIKELY}) | JSON
CARDS = st.sampled_from(
    [
        ModelCard(
            name="m", version="1", registry_version="1", task=task, runtime="http", file="", sha256="",
            signature=Signature(()), classes=classes, provenance=notes,
        )
        for task, classes, notes in (
            ("binary", ("0", "1"), {}), ("regression", (), {}), ("binary", ("0", "1"), {"outputs": "labels"}),
            ("multiclass", ("0", "1", "x"), {}),
        )
    ]
)  # fmt: skip


def check(protocol, body, card):
    try:
        scores = scores_in(protocol, body, ROWS, card)
    except OutputsError:
        return
    assert scores.shape == (ROWS, len(card.outputs))
    assert scores.dtype == np.float64
    whole = np.isfinite(scores).all(axis=1)
    assert np.isnan(scores[~whole]).all()
    if card.classes:
        assert np.all((scores[whole] >= -1e-6) & (scores[whole] <= 1 + 1e-6))


@given(V2, CARDS)
def test_any_json_of_a_v2_server(answer, card):
    check("v2", json.dumps(answer).encode(), card)


@given(MLFLOW, CARDS)
def test_any_json_of_an_mlflow_server(answer, card):
    check("mlflow", json.dumps(answer).encode(), card)


@given(st.sampled_from(["v2", "mlflow"]), st.binary(max_size=60), CARDS)
def test_any_bytes(protocol, body, card):
    check(protocol, body, card)
