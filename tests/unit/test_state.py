"""The state database: its tables, its audit trail, and two processes that write at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from shadow_mlops.domain.errors import StateError
from shadow_mlops.state import audit, database, open_state, upgrade
from shadow_mlops.state.tables import AUDIT, METADATA, VERSION_TABLE


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "state.db"


@pytest.fixture
def engine(path):
    engine = open_state(f"sqlite:///{path}")
    upgrade(engine)
    return engine


def entry(engine, **changes):
    given = {"action": "promote", "who": "ada@host", "model": "churn", "to_version": "2.0.0", "reason": "better"}
    return audit.record(engine, **{**given, **changes})


def test_migrations_make_exactly_the_tables_that_the_code_uses(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "include_object": lambda _object, name, _type, reflected, _other: (
                    not (reflected and name.startswith("sqlite_"))
                ),
            },
        )
        assert compare_metadata(context, METADATA) == []


def test_a_database_shared_with_other_tables_of_alembic_is_left_to_them(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE alembic_version (version_num TEXT)")
        other.execute("INSERT INTO alembic_version VALUES ('theirs')")
    engine = open_state(f"sqlite:///{path}")
    upgrade(engine)
    entry(engine)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [("theirs",)]


def test_several_processes_may_upgrade_at_once(path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: upgrade(open_state(f"sqlite:///{path}")), range(8)))
    assert entry(open_state(f"sqlite:///{path}")) == 1


def test_a_database_of_a_newer_version_is_refused_and_untouched(engine):
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StateError, match="upgrade shadow-mlops"):
        upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one() == "9999"


def test_an_entry_says_who_when_what_why_and_what_came_of_it(engine):
    number = entry(engine, details={"via": "cli"})
    (begun,) = audit.entries(engine).entries
    assert (begun.outcome, begun.from_version, begun.to_version) == ("started", None, "2.0.0")
    audit.conclude(engine, number, outcome="refused", from_version="1.0.0", details={"problem": "it hangs"})
    (done,) = audit.entries(engine).entries
    assert (done.id, done.who, done.action, done.model, done.reason) == (
        number,
        "ada@host",
        "promote",
        "churn",
        "better",
    )
    assert (done.outcome, done.from_version, done.to_version) == ("refused", "1.0.0", "2.0.0")
    assert done.details == {"via": "cli", "problem": "it hangs"}
    assert done.at == begun.at


def test_pages_are_newest_first_and_miss_nothing(engine):
    numbers = [entry(engine) for _ in range(7)]
    found, after = [], None
    while True:
        page = audit.entries(engine, limit=3, after=after)
        found += [each.id for each in page.entries]
        if page.next is None:
            break
        after = page.next
    assert found == numbers[::-1]


def test_concluding_what_was_never_begun_is_an_error(engine):
    with pytest.raises(StateError, match="no entry 5"):
        audit.conclude(engine, 5, outcome="done")


def test_a_transaction_that_fails_leaves_nothing(engine):
    number = entry(engine)

    def fail_half_way():
        columns = ", ".join(column.name for column in AUDIT.columns)
        with database.transaction(engine) as connection:
            connection.execute(text("UPDATE shadow_audit SET who = 'eve'"))
            connection.execute(text(f"INSERT INTO shadow_audit SELECT {columns} FROM shadow_audit"))

    with pytest.raises(StateError, match="UNIQUE"):
        fail_half_way()
    assert [(each.id, each.who) for each in audit.entries(engine).entries] == [(number, "ada@host")]


def test_a_writer_waits_for_another_one(engine, path):
    holding, finished = threading.Event(), []

    def hold():
        with database.transaction(engine) as connection:
            connection.execute(select(1))
            holding.set()
            time.sleep(0.3)
            finished.append("first")

    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    entry(open_state(f"sqlite:///{path}"))
    finished.append("second")
    other.join()
    assert finished == ["first", "second"]


def test_many_writers_lose_nothing(engine, path):
    with ThreadPoolExecutor(6) as threads:
        numbers = list(threads.map(lambda _: entry(open_state(f"sqlite:///{path}")), range(60)))
    assert sorted(numbers) == list(range(1, 61))


def test_the_file_is_no_wal(engine, path):
    entry(engine)
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "STATE_URL is not understood"),
        ("oracle+absent://x", "STATE_URL is not understood|not installed"),
        ("sqlite:////proc/nowhere/state.db", "cannot be made"),
    ],
)
def test_a_wrong_url_is_told_in_one_line(url, said):
    with pytest.raises(StateError, match=said) as caught:
        open_state(url)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_told_and_a_password_is_not(tmp_path):
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StateError, match="not a database"):
        upgrade(open_state(f"sqlite:///{path}"))
    engine = open_state("sqlite:///file:nowhere?mode=ro&uri=true&password=hunter2")
    with pytest.raises(StateError) as caught:
        upgrade(engine)
    assert "hunter2" not in str(caught.value)
