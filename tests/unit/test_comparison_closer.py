"""A closer look: harm in a segment is found and named, disagreements are listed, canary answers stand on their side."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from lakerows import Rows, schema
from shadow_mlops.comparison.closer import Look
from shadow_mlops.comparison.comparing import compare_tables
from shadow_mlops.comparison.html import page
from shadow_mlops.comparison.report import Challenger


def looked(rows: Rows, look: Look) -> Challenger:
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas, look=look)
    return found.challengers[0]


def planted(n: int = 6000, *, harmed: float = 3.0, seed: int = 1) -> Rows:
    """Ten segments by feature ``a``; in one of them the challenger says the opposite of what is true too often."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    champion = np.where(rng.random(n) < 0.8, truth, 1 - truth) * 0.6 + 0.2
    challenger = np.where(rng.random(n) < 0.8, truth, 1 - truth) * 0.6 + 0.2
    segment = rng.integers(0, 10, n).astype(float)
    wrong = (segment == harmed) & (rng.random(n) < 0.5)
    challenger = np.where(wrong, (1 - truth) * 0.6 + 0.2, challenger)
    rows = Rows()
    rows.answer(champion)
    for event, value in zip(rows.events, segment, strict=True):
        event["n_a"] = float(value)
        event["s_s"] = "even" if value % 2 == 0 else "odd"
    rows.shadow(challenger, outcomes=[str(each) for each in truth])
    return rows


def test_harm_in_one_segment_is_named_and_nothing_else_is() -> None:
    found = looked(planted(), Look(segments=True, loss="accuracy")).segments
    assert found is not None
    assert found.pairs == 6000
    worst = found.segments[0]
    assert (worst.feature, worst.value, worst.verdict) == ("a", "3", "worse")
    assert worst.difference < -0.2
    assert "where a is 3 the challenger is worse" in worst.words
    named = [(each.feature, each.value) for each in found.segments if each.verdict == "worse"]
    assert set(named) <= {("a", "3"), ("s", "odd")}
    assert sum(each.pairs for each in found.segments if each.feature == "a") == 6000


def test_equal_models_have_no_named_segment() -> None:
    found = looked(planted(harmed=99.0), Look(segments=True)).segments
    assert found is not None
    assert found.loss == "log_loss"
    assert {each.verdict for each in found.segments} == {"undecided"}


def test_many_texts_are_left_out_by_name_and_numbers_are_cut_at_quartiles() -> None:
    rows = planted(2000)
    for number, event in enumerate(rows.events):
        event["s_s"] = f"text {number}"
        event["n_a"] = float(number) if number % 10 else None
    found = looked(rows, Look(segments=True)).segments
    assert found is not None
    assert found.left_out == ("s",)
    assert len({each.value for each in found.segments}) == 5  # four quarters, and missing


def test_an_entity_counts_once_in_each_segment() -> None:
    rows = planted(2000)
    for number, event in enumerate(rows.events):
        event["entity"] = f"e{number % 100}"
    found = looked(rows, Look(segments=True)).segments
    assert found is not None
    assert all(each.entities <= 100 for each in found.segments)


def test_disagreements_are_the_largest_and_the_most_frequent() -> None:
    rows = Rows()
    rows.answer([0.1, 0.9, 0.5, 0.6])
    rows.shadow([0.9, 0.2, 0.5, 0.61], outcomes=["1", "1", None, None])
    found = looked(rows, Look(disagreements=2)).disagreements
    assert found is not None
    assert [row.request_id for row in found.largest] == ["r0", "r1"]
    assert found.largest[0].features == {"a": 0.0, "s": "text 0"}
    assert (found.largest[0].champion.score, found.largest[0].challenger.score) == (0.1, 0.9)
    assert found.largest[0].outcome == "1"
    cells = {(cell.champion, cell.challenger): cell for cell in found.frequent}
    assert (cells["0", "1"].pairs, cells["0", "1"].challenger_right, cells["0", "1"].champion_right) == (1, 1, 0)
    assert (cells["1", "0"].champion_right, cells["1", "0"].challenger_right) == (1, 0)
    assert found.scores is not None
    assert found.scores.pairs == 4


def test_score_distributions_that_moved_are_said_to_be_apart() -> None:
    rng = np.random.default_rng(3)
    rows = Rows()
    rows.answer(rng.beta(2, 5, 3000))
    rows.shadow(rng.beta(5, 2, 3000))
    found = looked(rows, Look(disagreements=1)).disagreements
    assert found is not None
    assert found.scores is not None
    assert found.scores.psi > 1
    assert "far apart" in found.scores.words


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task: str) -> None:
    rng = np.random.default_rng(5)
    rows = Rows()
    if task == "multiclass":
        of = schema(task, ("x", "y", "z"))
        rows.answer(rng.dirichlet(np.ones(3), 200), of)
        rows.shadow(rng.dirichlet(np.ones(3), 200), outcomes=[("x", "y", "z")[i % 3] for i in range(200)])
    else:
        of = schema(task, ("value",))
        rows.answer(rng.normal(size=200), of)
        rows.shadow(rng.normal(size=200), outcomes=[str(i / 100) for i in range(200)])
    for event in rows.events:
        event["n_a"], event["s_s"] = event["row"] % 2, "same"
    found = looked(rows, Look(segments=True, disagreements=3, bound=9.0))
    assert found.segments is not None
    assert {each.value for each in found.segments.segments} == {"0", "1"}
    assert found.disagreements is not None
    assert len(found.disagreements.largest) == 3
    assert looked(rows, Look(segments=True)).segments is None if task == "regression" else True


def test_answers_of_a_canary_stand_on_the_challengers_side() -> None:
    rows = Rows()
    rows.answer([0.2, 0.3])
    rows.shadow([0.8, 0.7], outcomes=["1", "1"])
    canary = schema(version="v2", role="challenger", registry_version="2")
    rows.answer([0.9, 0.6], canary, first=2)
    rows.shadow([0.1, 0.4], version="champion-1", first=2, outcomes=["1", "0"])
    for row in (*rows.results[2:], *rows.pairs[2:]):
        row["swapped"] = True
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas, look=Look(disagreements=4))
    (challenger,) = found.challengers
    assert found.earlier == ()
    assert (challenger.version, challenger.pairs, challenger.labelled) == ("v2", 4, 4)
    assert challenger.accuracy == 0.75
    assert challenger.champion.accuracy == 0.25
    assert challenger.disagreements is not None
    largest = challenger.disagreements.largest[0]
    assert (largest.request_id, largest.champion.score, largest.challenger.score) == ("r2", 0.1, 0.9)


def test_a_plain_comparison_looks_no_closer() -> None:
    rows = planted(100)
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas)
    assert found.challengers[0].segments is None
    assert b"request_id" not in msgspec.json.encode(found)


def test_the_page_shows_what_names_hold_as_text_and_asks_for_nothing() -> None:
    rows = planted(2000)
    for event in rows.events:
        event["entity"], event["s_s"] = "<script>alert(1)</script>", "<b>" if event["row"] % 2 else "plain"
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas, look=Look(segments=True, disagreements=3))
    text = page(found)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    for word in ("log loss", "Segments", "Disagreements", "accuracy", "2,000 pairs"):
        assert word in text
