"""Pages of recorded pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.lakerows import START_US, Rows, schema

from shadow_mlops.domain.errors import InvalidFieldsError
from shadow_mlops.lake.changes import Change
from shadow_mlops.lake.logs import LoggedPair, page
from shadow_mlops.lake.manifest import read_manifest


def numbers(pairs: tuple[LoggedPair, ...]) -> list[int]:
    return [int(pair.event_id[16:], 16) for pair in pairs]


def test_a_pair_has_its_features_both_sides_and_its_outcome(tmp_path: Path):
    rows = Rows()
    rows.answer([0.8, 0.25])
    rows.shadow([0.4, 0.5], outcomes=["1", None])
    rows.label(0, "1")
    rows.write(tmp_path)
    second, first = page(tmp_path).pairs
    assert first.event_id == "000000000000000100000000"
    assert (first.request_id, first.entity, first.time) == ("r0", "e0", "2026-05-28T20:26:40.000000Z")
    assert first.features == {"a": 0.0, "s": "text 0"}
    assert (first.champion.version, first.champion.score, first.champion.label) == ("champion-1", 0.8, "1")
    shadow = first.challengers["challenger"]
    assert (shadow.version, shadow.score, shadow.label, shadow.status) == ("v2", 0.4, "0", "paired")
    assert (first.outcome, second.outcome) == ("1", None)


def test_pages_go_from_the_newest_to_the_oldest_once_each(tmp_path: Path):
    rows = Rows()
    rows.answer(np.full(25, 0.5))
    rows.shadow(np.full(25, 0.5))
    rows.write(tmp_path, pieces=3)
    seen, after = [], ""
    for size in (10, 10, 5):
        found = page(tmp_path, limit=10, after=after)
        assert len(found.pairs) == size
        seen += numbers(found.pairs)
        after = found.next
    assert after is None
    assert seen == list(range(24, -1, -1))


def test_events_that_arrive_between_two_pages_move_nothing(tmp_path: Path):
    rows = Rows()
    rows.answer(np.full(4, 0.5))
    rows.write(tmp_path)
    first = page(tmp_path, limit=2)
    later = Rows()
    later.answer(np.full(3, 0.5), first=4)
    change = Change(tmp_path, read_manifest(tmp_path))
    change.add("events", later.tables()["events"])
    change.commit()
    second = page(tmp_path, limit=2, after=first.next)
    assert (numbers(first.pairs), numbers(second.pairs), second.next) == ([3, 2], [1, 0], None)


def test_events_of_one_moment_are_told_apart(tmp_path: Path):
    rows = Rows()
    rows.answer(np.full(7, 0.5))
    for event in rows.events:
        event["monotonic_ns"] = 5
    rows.write(tmp_path)
    seen, after = [], ""
    while after is not None:
        found = page(tmp_path, limit=2, after=after)
        seen += numbers(found.pairs)
        after = found.next
    assert seen == list(range(6, -1, -1))


def test_a_later_boot_is_newer_whatever_its_clock_says(tmp_path: Path):
    rows = Rows()
    rows.answer([0.1, 0.2])
    rows.events[0]["boot"] = 2
    rows.write(tmp_path)
    assert numbers(page(tmp_path).pairs) == [0, 1]


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path):
    rows = Rows()
    rows.answer(np.full(30, 0.5))
    day = 86_400_000_000
    for event in rows.events[10:20]:
        event["time"] -= 3 * day
    for event in rows.events[25:]:
        event["time"] -= 40 * day
        event["boot"] = 2
    rows.write(tmp_path, pieces=5)
    seen, after = [], ""
    while after is not None:
        found = page(tmp_path, limit=4, after=after)
        seen += numbers(found.pairs)
        after = found.next
    assert seen == list(range(29, -1, -1))


def test_a_feature_is_shown_for_the_events_that_had_it(tmp_path: Path):
    rows = Rows()
    rows.answer([0.1])
    rows.answer([0.1], schema(numbers=(), strings=("s",)), first=1)
    rows.events[0]["n_a"] = None
    rows.write(tmp_path)
    newer, older = page(tmp_path).pairs
    assert (newer.features, older.features) == ({"s": "text 1"}, {"a": None, "s": "text 0"})


def test_multiclass_has_the_probability_of_each_class(tmp_path: Path):
    rows = Rows()
    rows.answer([[0.1, 0.2, 0.7]], schema("multiclass", ["a", "b", "c"]))
    rows.shadow([[0.6, 0.4]], outputs=["b", "a"])
    rows.shadow([[0.0, 0.0, 0.0]], name="challenger-b", version="v3", status="errored")
    rows.write(tmp_path)
    (pair,) = page(tmp_path).pairs
    assert (pair.champion.score, pair.champion.label) == (None, "c")
    assert pair.champion.scores == {"a": 0.1, "b": 0.2, "c": 0.7}
    assert pair.challengers["challenger"].scores == {"b": 0.6, "a": 0.4}
    failed = pair.challengers["challenger-b"]
    assert (failed.status, failed.scores, failed.label) == ("errored", None, None)


def test_versions_under_one_name_do_not_hide_each_other(tmp_path: Path):
    rows = Rows()
    rows.answer([0.1])
    for number, version in enumerate(("v2", "v3")):
        rows.shadow([0.2], name="replay", version=version, replayed=True)
        rows.results[-1]["monotonic_ns"] = number
    rows.write(tmp_path)
    (pair,) = page(tmp_path).pairs
    assert {name: side.version for name, side in pair.challengers.items()} == {"replay": "v3", "replay@v2": "v2"}


def test_a_label_that_may_still_change_is_no_outcome(tmp_path: Path):
    rows = Rows()
    rows.answer([0.1, 0.2])
    rows.shadow([0.3], first=1, outcomes=["0"])
    rows.label(0, "1", matures_us=START_US + 10**12)
    rows.label(1, "1", matures_us=START_US)
    rows.write(tmp_path)
    newer, older = page(tmp_path).pairs
    assert (newer.outcome, older.outcome) == ("0", None)


def test_nothing_archived_is_an_empty_page(tmp_path: Path):
    found = page(tmp_path / "lake")
    assert (found.pairs, found.next) == ((), None)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range_is_refused(tmp_path: Path, limit: int):
    with pytest.raises(InvalidFieldsError, match="limit must be 1 to 1000"):
        page(tmp_path, limit=limit)


@pytest.mark.parametrize("after", ["x", "é", "AAAA", "!!!!", "a" * 300, "lAECAw", "kwECAw", "lMBAAQ"])
def test_a_cursor_that_no_page_gave_is_refused(tmp_path: Path, after: str):
    with pytest.raises(InvalidFieldsError, match="after is not the `next` of a page"):
        page(tmp_path, after=after)
