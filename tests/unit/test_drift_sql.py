"""SQL tables as a source of a drift check: what a URL may say, what leaves the warehouse, what is said of bad ones."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import duckdb
import numpy as np
import psycopg
import pyarrow as pa
import pytest

from postgresserver import PASSWORD, USER, postgres
from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.sql import table_source

QUOTED = quote(PASSWORD, safe="")


@pytest.fixture
def warehouse(tmp_path) -> Path:
    path = tmp_path / "ware house.db"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE t AS SELECT range::DOUBLE / 7 AS x, 'k' || range % 3 AS s FROM range(5000)")
        connection.execute('CREATE SCHEMA "Other"; CREATE TABLE "Other"."T.2" AS FROM t LIMIT 10')
        connection.execute("CREATE VIEW late AS FROM t WHERE x > 700")
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as port:
        url = f"postgresql://{USER}:{QUOTED}@127.0.0.1:{port}/postgres"
        with psycopg.connect(url) as connection:
            connection.execute(
                "CREATE TABLE t AS SELECT i / 7::float8 AS x, 'k' || i % 3 AS s FROM generate_series(1, 5000) i"
            )
            connection.execute(
                "CREATE TABLE odd (n numeric, d double precision, u uuid, j jsonb, a int[], e text, day date);"
                "INSERT INTO odd VALUES ('NaN', 'Infinity', gen_random_uuid(), '{}', '{1}', '', now()),"
                "(1.5, '-Infinity', NULL, NULL, NULL, NULL, NULL), (NULL, 'NaN', NULL, NULL, NULL, 'x', NULL)"
            )
        yield url


def refused(url, **named) -> str:
    with pytest.raises(DriftError) as caught:
        table_source(url, **named).schema()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_table_a_view_another_schema_and_a_query(warehouse):
    url = f"duckdb://{warehouse}"
    assert table_source(f"{url}#t").schema().rows == 5000
    assert (
        table_source(url, table="late").schema().rows
        == table_source(f"{url}#SELECT * FROM t WHERE x > 700").schema().rows
        == 99
    )
    assert table_source(f"{url}#Other.T.2".replace("T.2", quote("T.2"))).schema().rows == 10
    query = table_source(url, query="WITH few AS (FROM t LIMIT 7) SELECT x AS y FROM few;")
    assert list(query.schema().columns) == ["y"]
    assert query.name == f"{url}#query"
    bins = query.bins(["y"], 3)
    assert query.tally(bins)["y"].counts.sum() == 7


def test_what_a_duckdb_url_gets_wrong_is_one_line(warehouse, tmp_path):
    url = f"duckdb://{warehouse}"
    (tmp_path / "no.db").write_text("this is no database, though it is long enough to be taken for one" * 99)
    assert refused(f"{url}#none") == f"{url}#none: there is no such table"
    assert refused(f"duckdb://{tmp_path}/x.db#t") == f"duckdb://{tmp_path}/x.db: there is no such file"
    assert refused(f"duckdb://{tmp_path}/no.db#t").startswith(f"duckdb://{tmp_path}/no.db#t: ")
    assert "name one table or query" in refused(url)
    assert "name one table or query" in refused(url, table="t", query="FROM t")
    assert "#query: " in refused(url, query="SELECT nothing FROM t")
    assert refused("mysql://user:secret@host/db#t").startswith("mysql: is no kind of database that is read here")


def test_a_warehouse_is_not_written_to(warehouse):
    before = warehouse.read_bytes()
    source = table_source(f"duckdb://{warehouse}#SELECT * FROM t")
    source.tally(source.bins(["x", "s"], 10))
    assert "read-only" in refused(f"duckdb://{warehouse}", query="SELECT 1; CREATE TABLE mine (a INT)").lower()
    del source
    gc.collect()
    assert warehouse.read_bytes() == before
    assert list(warehouse.parent.iterdir()) == [warehouse]


def test_two_tables_of_one_file_are_compared(warehouse):
    late, all_ = table_source(f"duckdb://{warehouse}#late"), table_source(f"duckdb://{warehouse}#t")
    assert late.tally(all_.bins(["x"], 10))["x"].counts.sum() == 99


def test_without_the_extra_its_name_is_told(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ibis" else real(name, *rest))
    assert refused("duckdb:///x.db#t") == "SQL tables are read through Ibis: pip install 'shadow-mlops[sql]'"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@127.0.0.1:1/db#t",
        "postgresql://me:{}@host.invalid/db?connect_timeout=1#t",
        "postgresql://127.0.0.1:1/db?user=me&password={}#t",
    ],
)
def test_a_server_that_does_not_answer_is_one_line_without_the_password(url):
    message = refused(url.format(QUOTED))
    assert "127.0.0.1:1/db#t: connection failed" in message or "host.invalid/db#t: " in message
    assert not {PASSWORD, QUOTED, PASSWORD[:4]} & {part for part in (PASSWORD, QUOTED, PASSWORD[:4]) if part in message}


@pytest.mark.parametrize(
    "password", ["se/cret", "se#cret", "se?cret", "12/cret", "12#cret", "12?cret", "se[cret", "1?a=2"]
)
def test_a_password_that_was_not_quoted_is_not_told(password, caplog):
    message = refused(f"postgresql://me:{password}@127.0.0.1/db#t")
    assert message.startswith("the postgresql URL cannot be taken apart: quote")
    assert "cret" not in message
    assert "cret" not in caplog.text


@pytest.mark.needs_postgres
def test_a_server_refuses_without_telling_the_password(server):
    wrong = refused(server.replace(QUOTED, "wrong-secret") + "#t")
    assert "password authentication failed" in wrong
    assert "wrong-secret" not in wrong
    assert refused(f"{server}#none") == f"{server.replace(':' + QUOTED, '')}#none: there is no such table"
    assert "column" in refused(server, query=f"SELECT '{PASSWORD}' || none FROM t")
    assert PASSWORD not in refused(server, query=f"SELECT '{PASSWORD}' || none FROM t")
    assert table_source(f"{server}#t").name == f"{server.replace(':' + QUOTED, '')}#t"


@pytest.mark.needs_postgres
def test_the_server_is_not_written_to(server):
    source = table_source(server, query="SELECT x FROM t WHERE x > 10")
    source.tally(source.bins(["x"], 10))
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source._table.get_backend().raw_sql("CREATE TABLE mine (a int)")
    with psycopg.connect(server) as connection:
        found = connection.execute("SELECT count(*) FROM pg_class WHERE relname IN ('mine', 'shadow_drift_query')")
        assert found.fetchone() == (1,)  # the view of the session that is still open, in its own temporary schema


@pytest.mark.needs_postgres
def test_odd_values_of_postgresql(server):
    source = table_source(f"{server}#odd")
    schema = source.schema()
    assert {name: column.kind for name, column in schema.columns.items()} == {
        "n": "number",
        "d": "number",
        "e": "category",
    }
    assert set(schema.left_out) == {"u", "j", "a", "day"}
    bins = source.bins(["n", "d", "e"], 2)
    tally = source.tally(bins)
    assert tally["n"].counts[-1] == 2, "a numeric NaN is missing"
    assert (tally["d"].low, tally["d"].high) == (-np.inf, np.inf)
    assert tally["d"].counts[[0, -2, -1]].tolist() == [1, 1, 1]
    assert bins["e"].categories == ("", "x")
    assert tally["e"].counts.tolist() == [1, 1, 0, 1]


@pytest.mark.needs_postgres
@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_only_counts_extremes_and_a_few_names_leave_the_warehouse(kind, warehouse, server, monkeypatch):
    import ibis

    left = []
    real = ibis.expr.types.core.Expr.to_pyarrow

    def watched(self, *rest, **named):
        found = real(self, *rest, **named)
        if isinstance(found, pa.Table):
            left.append(found.num_rows)
        return found

    for each in (ibis.expr.types.core.Expr, ibis.expr.types.Table):
        monkeypatch.setattr(each, "to_pyarrow", watched)
    source = table_source({"duckdb": f"duckdb://{warehouse}#t", "postgresql": f"{server}#t"}[kind])
    bins = source.bins(["x", "s"], 10)
    counts = source.tally(bins)["x"].counts
    assert counts.sum() == 5000
    assert left
    assert max(left) <= len(counts) + 20  # the cells' ends, and neighbours of the bins' ends
