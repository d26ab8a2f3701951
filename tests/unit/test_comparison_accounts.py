"""The conservation line: counted from the lake, or taken from the monitor's books."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.lakerows import START_US, Rows

from shadow_mlops.comparison import Account, compare
from shadow_mlops.comparison.accounts import FATES, Book
from shadow_mlops.comparison.comparing import compare_tables
from shadow_mlops.comparison.window import Window
from shadow_mlops.domain.errors import LakeError

START = datetime.fromtimestamp(START_US / 1e6, UTC)


def lines(rows: Rows, **options) -> dict[str | None, Account]:
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas, **options)
    return {challenger.version: challenger.accounting for challenger in found.challengers}


def balanced(account: Account) -> bool:
    return account.sampled == sum(getattr(account, fate) for fate in (*FATES, "pending"))


def mixed() -> Rows:
    rows = Rows()
    rows.answer(np.full(10, 0.5))
    rows.answer(np.full(5, 0.5), first=10, sampled=False)
    rows.answer(np.full(5, 0.5), first=15)
    rows.shadow(np.full(6, 0.5))
    rows.shadow([0.0], first=6, status="timed_out")
    rows.shadow([0.0] * 2, first=7, status="shed")
    rows.shadow([0.0], first=9, status="errored")
    rows.shadow([0.5], first=15)
    return rows


def test_each_sampled_event_has_one_fate():
    (account,) = lines(mixed()).values()
    assert account == Account(sampled=15, paired=7, timed_out=1, shed=2, errored=1, pending=4)
    assert balanced(account)


def test_a_span_is_counted_from_its_own_events():
    window = Window(START + timedelta(seconds=5), START + timedelta(seconds=17))
    assert lines(mixed(), window=window) == {
        "v2": Account(sampled=7, paired=2, timed_out=1, shed=2, errored=1, pending=1)
    }


def test_a_challenger_that_hangs_is_told_in_a_span_where_it_did_nothing():
    window = Window(START + timedelta(seconds=16), None)
    assert lines(mixed(), window=window) == {
        "v2": Account(sampled=4, paired=0, timed_out=0, shed=0, errored=0, pending=4)
    }


def test_events_before_a_challengers_first_are_none_of_its():
    rows = Rows()
    rows.answer(np.full(10, 0.5))
    rows.shadow(np.full(3, 0.5), first=6)
    assert lines(rows) == {"v2": Account(sampled=4, paired=3, timed_out=0, shed=0, errored=0, pending=1)}


def test_events_without_result_are_pending_at_the_newest_version_of_a_challenger():
    rows = Rows()
    rows.answer(np.full(10, 0.5))
    rows.shadow(np.full(4, 0.5), version="v2")
    rows.shadow(np.full(3, 0.5), version="v3", first=4)
    found = lines(rows)
    assert found["v2"] == Account(sampled=4, paired=4, timed_out=0, shed=0, errored=0, pending=0)
    assert found["v3"] == Account(sampled=6, paired=3, timed_out=0, shed=0, errored=0, pending=3)


def test_what_a_replay_did_first_is_not_pending_at_the_live_challenger():
    rows = Rows()
    rows.answer(np.full(10, 0.5))
    rows.shadow(np.full(2, 0.5), version="v2", name="replay", replayed=True, first=1)
    rows.shadow(np.full(2, 0.5), version="v2", first=5)
    rows.shadow(np.full(1, 0.5), version="v2", name="replay", replayed=True, first=7)
    rows.shadow(np.full(2, 0.5), version="v2", first=8)
    assert lines(rows) == {"v2": Account(sampled=7, paired=7, timed_out=0, shed=0, errored=0, pending=0)}


def test_a_challenger_that_no_longer_runs_owes_nothing_after_its_last():
    rows = Rows()
    rows.answer(np.full(10, 0.5))
    rows.shadow(np.full(10, 0.5))
    rows.shadow(np.full(3, 0.5), name="challenger-b", version="v3")
    running = Book(version="v2", sampled=10, paired=10, timed_out=0, shed=0, errored=0, pending=0)
    assert lines(rows, books={"challenger": running})["v3"].pending == 0
    assert lines(rows)["v3"].pending == 7


def named(rows: Rows, **options) -> dict[tuple[str, str | None], Account]:
    with rows.connection() as connection:
        found = compare_tables(connection, rows.schemas, **options)
    return {(challenger.name, challenger.version): challenger.accounting for challenger in found.challengers}


def renamed() -> Rows:
    """v2 runs as ``b`` beside v1 as ``a``; then v2 becomes ``a``, and ``b`` ends."""
    rows = Rows()
    rows.answer(np.full(12, 0.5))
    rows.shadow(np.full(3, 0.5), version="v2", name="replay", replayed=True)
    rows.shadow(np.full(5, 0.5), version="v1", name="a", first=1)
    rows.shadow(np.full(2, 0.5), version="v2", name="b", first=3)
    rows.shadow([0.0], version="v2", name="b", first=5, status="timed_out")
    rows.shadow(np.full(4, 0.5), version="v2", name="a", first=6)
    return rows


def test_a_version_that_changes_its_name_has_an_account_under_each():
    running = Book(version="v2", sampled=12, paired=9, timed_out=0, shed=0, errored=0, pending=3)
    found = named(renamed(), books={"a": running})
    assert found == {
        ("a", "v1"): Account(sampled=5, paired=5, timed_out=0, shed=0, errored=0, pending=0),
        ("a", "v2"): Account(sampled=9, paired=7, timed_out=0, shed=0, errored=0, pending=2),
        ("b", "v2"): Account(sampled=3, paired=2, timed_out=1, shed=0, errored=0, pending=0),
    }


def test_a_version_under_two_names_at_once_is_accounted_for_by_each_and_counted_once():
    rows = Rows()
    rows.answer(np.full(9, 0.5))
    for number in range(7):  # the lake keeps the result of whoever was first
        rows.shadow([0.5], name="a" if number % 3 else "b", first=number)
    found = named(rows)
    assert found == {
        ("a", "v2"): Account(sampled=6, paired=4, timed_out=0, shed=0, errored=0, pending=2),
        ("b", "v2"): Account(sampled=5, paired=3, timed_out=0, shed=0, errored=0, pending=2),
    }
    with rows.connection() as connection:
        whole = compare_tables(connection, rows.schemas)
    assert (whole.pairs, whole.agreement) == (7, 1.0)
    assert [(each.name, each.pairs) for each in whole.challengers] == [("a", 7), ("b", 7)]


def test_a_name_whose_every_result_came_second_is_told_with_its_own_account():
    rows = Rows()
    rows.answer(np.full(4, 0.5))
    rows.shadow(np.full(4, 0.5), name="a")
    first = Book(version="v2", sampled=4, paired=4, timed_out=0, shed=0, errored=0, pending=0)
    second = Book(version="v2", sampled=4, paired=1, timed_out=0, shed=1, errored=0, pending=2)
    found = named(rows, books={"a": first, "b": second})
    assert {name: account.pending for (name, _), account in found.items()} == {"a": 0, "b": 2}


def test_a_result_that_no_sampled_event_has_asked_for_does_not_add_up():
    rows = Rows()
    rows.answer(np.full(5, 0.5))
    rows.shadow(np.full(5, 0.5))
    rows.events[2]["sampled"] = False
    (account,) = lines(rows).values()
    assert (account.sampled, account.paired, account.pending) == (4, 5, 0)
    assert not balanced(account)


def test_segments_are_told_apart():
    rows = Rows()
    rows.answer(np.full(6, 0.5))
    rows.shadow(np.full(6, 0.5))
    for row in (*rows.events[3:], *rows.results[3:]):
        row["segment"] = 2
    rows.results[3]["segment"] = 1  # as many results as events, but not of the same rows
    rows.results[3]["row"] = 0
    (account,) = lines(rows).values()
    assert (account.sampled, account.pending, account.paired) == (6, 1, 6)
    assert not balanced(account)


def test_two_results_of_one_event_do_not_hide_an_event_without():
    rows = Rows()
    rows.answer(np.full(3, 0.5))
    rows.shadow(np.full(3, 0.5))
    rows.results[2]["row"] = 1
    (account,) = lines(rows).values()
    assert (account.sampled, account.paired, account.pending) == (3, 3, 1)
    assert not balanced(account)


def test_the_monitors_books_are_taken_for_a_whole_life(tmp_path: Path):
    rows = mixed()
    rows.write(tmp_path / "lake")
    books = {"sampled": 99, "paired": 90, "timed_out": 1, "shed": 2, "errored": 3, "pending": 3}
    told = {"at": "now", "events": 20, "challengers": {"challenger": {"version": "v2", "lag_events": 3, **books}}}
    path = tmp_path / "accounting.json"
    path.write_text(json.dumps(told))
    found = compare(tmp_path / "lake", accounting=path)
    assert found.challengers[0].accounting == Account(**books, source="monitor")
    spanned = compare(tmp_path / "lake", accounting=path, since=START)
    assert spanned.challengers[0].accounting.source == "lake"
    assert balanced(spanned.challengers[0].accounting)


def test_a_challenger_without_any_result_is_told_by_the_monitors_books():
    rows = Rows()
    rows.answer([0.5])
    book = Book(version=None, sampled=1, paired=0, timed_out=0, shed=0, errored=0, pending=1)
    (account,) = lines(rows, books={"challenger": book}).values()
    assert (account.pending, account.source) == (1, "monitor")


def test_the_books_do_not_tell_versions_apart_so_that_these_are_counted():
    rows = Rows()
    rows.answer(np.full(3, 0.5))
    rows.shadow([0.5], version="v2")
    rows.shadow([0.5], version="v3", first=1)
    book = Book(version="v3", sampled=3, paired=2, timed_out=0, shed=0, errored=0, pending=1)
    found = lines(rows, books={"challenger": book})
    assert (found["v2"].sampled, found["v3"].sampled, found["v3"].pending) == (1, 2, 1)


def test_damaged_books_are_an_error_that_names_the_file(tmp_path: Path):
    path = tmp_path / "accounting.json"
    path.write_text('{"challengers": {"challenger": {}}}')
    with pytest.raises(LakeError, match=r"accounting\.json cannot be read"):
        compare(tmp_path / "lake", accounting=path)
