"""One suite over everything that rows can be compared from: the same rows are the same counts, and the same report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from postgresserver import PASSWORD, USER, postgres
from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.detecting import detect
from shadow_mlops.drift.files import file_source
from shadow_mlops.drift.inputs import memory_source
from shadow_mlops.drift.sources import NAMED, ExactSource, Source
from shadow_mlops.drift.sql import table_source
from shadow_mlops.statistics.bins import to_plain

ROWS = 3000
HARD_NAMES = ('a"b', "a.b", "a", "größe", "two words", "it's", "percent%s", "select")


def rows_of(seed: int, *, shift: float = 0.0) -> pa.Table:
    """Columns of all kinds, with everything in them that may stand in a feature."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(shift, 1, ROWS)

    def holed(values, kind=None):
        return pa.array(values, kind, mask=rng.random(ROWS) < 0.1)

    odd = rng.standard_cauchy(ROWS)
    odd[:7] = [np.inf, -np.inf, np.nan, 1e300, -0.0, 5e-324, 0.1]
    columns = {
        "normal": pa.array(normal),
        "odd": holed(odd),
        "count": holed(rng.poisson(3, ROWS), pa.int32()),
        "large": pa.array(rng.integers(-(2**53), 2**53, ROWS)),
        "single": pa.array(rng.normal(size=ROWS).astype(np.float32)),
        "flag": holed(rng.random(ROWS) < 0.3),
        "constant": pa.array(np.full(ROWS, 0.1)),
        "nothing": pa.nulls(ROWS),
        "plan": holed(rng.choice(["basic", "premium", 'quo"ted', "comma, too", "NA", "größer", "两"], ROWS)),
        "city": pa.array([f"city {int(place)}" for place in rng.gamma(2, 300 + 100 * shift, ROWS)]),
        "moment": pa.array(np.arange(ROWS) * 1_000_000, pa.timestamp("us")),
    }
    for place, name in enumerate(HARD_NAMES):
        columns[name] = pa.array(np.round(normal * (place + 1), 3))
    return pa.table(columns)


REFERENCE, CURRENT = rows_of(1), rows_of(2, shift=0.7)


def in_parquet(table: pa.Table, folder: Path, name: str) -> Source:
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=700)
    return file_source(folder / f"{name}.parquet")


def in_parquet_parts(table: pa.Table, folder: Path, name: str) -> Source:
    (folder / name).mkdir()
    for place, start in enumerate(range(0, ROWS, 800)):
        part = table.slice(start, 800)
        if place == 1:  # files need the same columns, in any order
            part = part.select(part.column_names[::-1])
        pq.write_table(part, folder / name / f"part-{place}.parquet")
    return file_source(str(folder / name / "part-*.parquet"))


def in_pieces(table: pa.Table, folder: Path, name: str) -> Source:
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=700)
    return file_source(folder / f"{name}.parquet", exact_rows=500)


def as_text(table: pa.Table, path: Path) -> None:
    # the text of a float32 is as short as tells it from its neighbours, and another number as a float64
    place = table.column_names.index("single")
    csv.write_csv(table.set_column(place, "single", table["single"].cast(pa.float64())), path)


def in_csv(table: pa.Table, folder: Path, name: str) -> Source:
    as_text(table, folder / f"{name}.csv")
    return file_source(folder / f"{name}.csv")


def in_csv_parts(table: pa.Table, folder: Path, name: str) -> Source:
    paths = [folder / f"{name}-{start}.csv" for start in range(0, ROWS, 1000)]
    for path, start in zip(paths, range(0, ROWS, 1000), strict=True):
        as_text(table.slice(start, 1000), path)
    return file_source(paths)


def in_duckdb(table: pa.Table, folder: Path, name: str) -> Source:
    with duckdb.connect(folder / f"{name}.db") as connection:
        connection.register("rows_in_arrow", table)
        connection.execute(
            'CREATE TABLE "my rows" AS SELECT * REPLACE (nothing::VARCHAR AS nothing) FROM rows_in_arrow'
        )
    return table_source(f"duckdb://{folder / name}.db#my rows")


_POSTGRES_TYPES = {
    pa.float64(): "double precision",
    pa.float32(): "real",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    pa.string(): "text",
    pa.null(): "text",
    pa.timestamp("us"): "timestamp",
}


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a PostgreSQL database, without a table."""
    with postgres() as port:
        yield f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"


def in_postgres(url: str) -> Callable[[pa.Table, Path, str], Source]:
    import psycopg

    def stored(table: pa.Table, folder: Path, name: str) -> Source:
        quoted = [name.replace('"', '""') for name in table.column_names]
        columns = ", ".join(
            f'"{column}" {_POSTGRES_TYPES[kind]}' for column, kind in zip(quoted, table.schema.types, strict=True)
        )
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "my schema"; DROP TABLE IF EXISTS "my schema"."{name}"')
            cursor.execute(f'CREATE TABLE "my schema"."{name}" ({columns})')
            with cursor.copy(f'COPY "my schema"."{name}" FROM STDIN') as copy:
                for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                    copy.write_row(row)
        return table_source(f"{url}#my schema.{name}")

    return stored


FILES = {each.__name__: each for each in (in_parquet, in_parquet_parts, in_pieces, in_csv, in_csv_parts)}
ALL = [*FILES, "in_duckdb", pytest.param("in_postgres", marks=pytest.mark.needs_postgres)]


@pytest.fixture(scope="session", params=ALL)
def sources(request, tmp_path_factory) -> tuple[str, Source, Source]:
    """Reference and current, from elsewhere."""
    kind = request.param
    stored = in_postgres(request.getfixturevalue("server")) if kind == "in_postgres" else FILES.get(kind, in_duckdb)
    folder = tmp_path_factory.mktemp(kind)
    return kind, stored(REFERENCE, folder, "reference"), stored(CURRENT, folder, "current")


@pytest.fixture(scope="session")
def memory() -> tuple[Source, Source]:
    return memory_source(REFERENCE, "reference"), memory_source(CURRENT, "current")


def names_of(source: Source) -> list[str]:
    return list(source.schema().columns)


def test_columns_and_rows(sources, memory):
    _, reference, _ = sources
    found, expected = reference.schema(), memory[0].schema()
    assert found.rows == expected.rows == ROWS
    assert list(found.columns) == list(expected.columns)
    assert {name: column.kind for name, column in found.columns.items()} == {
        name: column.kind for name, column in expected.columns.items()
    }
    assert set(found.left_out) == {"moment"}
    assert found.left_out["moment"].startswith("a time")


def test_bins_are_those_of_the_rows_in_memory(sources, memory):
    kind, reference, _ = sources
    names = names_of(reference)
    found, expected = reference.bins(names, 10), memory[0].bins(names, 10)
    assert list(found) == names
    for name in names:
        one, other = to_plain(found[name]), to_plain(expected[name])
        if kind == "in_pieces":  # the cells within a bin end where a sample of the rows says
            assert set(other.pop("edges", ())) == set(one.pop("edges", ()))
            one.pop("grid", None), other.pop("grid", None)
        assert one == other, name


@pytest.mark.parametrize("side", [0, 1])
def test_counts_are_those_of_the_rows_in_memory(sources, memory, side):
    places = sources[1:]
    bins = memory[0].bins(names_of(memory[0]), 10)
    found, expected = places[side].tally(bins), memory[side].tally(bins)
    assert list(found) == list(expected)
    for name, tally in found.items():
        np.testing.assert_array_equal(tally.counts, expected[name].counts, err_msg=name)
        assert tally.counts.sum() == ROWS
        assert tally.counts.dtype == np.int64
        assert dict(tally.others) == dict(expected[name].others)
        assert list(tally.others) == list(expected[name].others)
        assert (tally.low, tally.high, tally.distinct_others) == (
            expected[name].low,
            expected[name].high,
            expected[name].distinct_others,
        ), name
    assert len(expected["city"].others) == NAMED
    assert expected["odd"].high == np.inf


def test_counts_of_no_column(sources):
    assert dict(sources[1].tally({})) == {}


def test_rows_that_have_a_value(sources, memory):
    wanted = {"plan": ["basic", "gold", "两"], "city": ["city 400", "nowhere"]}
    found = sources[1].occurrences(wanted)
    assert found == memory[0].occurrences(wanted)
    assert found["plan"]["gold"] == 0 < found["plan"]["两"]


def test_values_are_those_of_the_rows_in_memory(sources, memory):
    kind, reference, _ = sources
    if kind in FILES:
        assert isinstance(reference, ExactSource)
        assert reference.affordable == (kind != "in_pieces")
        for name in ("odd", "count", "flag", "single", 'a"b', "a"):
            np.testing.assert_array_equal(reference.values(name), memory[0].values(name))
    else:
        assert not isinstance(reference, ExactSource), "rows would leave the warehouse"


def compared(reference, current, **named) -> dict:
    report = detect(reference, current, created=datetime(2026, 1, 1, tzinfo=UTC), **named)
    plain = msgspec.to_builtins(report)
    for key in ("reference", "current"):
        plain.pop(key)
    # messages and the words of limits name the sources
    return plain | {"findings": [{**each, "words": ""} for each in plain["findings"]], "limits": None}


def test_the_report_is_that_of_the_rows_in_memory(sources, memory):
    kind, reference, current = sources
    expected = compared(*memory, exact_ks=False)
    assert expected["verdict"] == "retrain"
    for sides in ((reference, current), (reference, memory[1]), (memory[0], current)):
        found = compared(*sides, exact_ks=False)
        if kind == "in_pieces" and sides[0] is reference:
            scores = {(each["feature"], each["method"]): each for each in found["scores"]}
            for each in expected["scores"]:
                other = scores.pop((each["feature"], each["method"]))
                if each["method"] == "ks":
                    bound = each["error_bound"] + other["error_bound"]
                    assert other["score"] == pytest.approx(each["score"], abs=bound)
                else:
                    assert (other["score"], other["alert"]) == (each["score"], each["alert"])
            assert not scores
            assert found["verdict"] == expected["verdict"]
        else:
            assert found == expected


def test_files_give_the_exact_ks_when_asked(sources, memory):
    kind, reference, current = sources
    if kind in FILES:
        found = compared(reference, current, exact_ks=True)
        expected = compared(*memory, exact_ks=True)
        assert found == expected
        assert {each["error_bound"] for each in found["scores"] if each["method"] == "ks"} == {0}
    else:
        with pytest.raises(DriftError, match="gives counts only"):
            detect(reference, current, exact_ks=True)
