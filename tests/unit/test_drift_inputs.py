import sys
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.inputs import as_source, memory_source
from shadow_mlops.statistics.bins import category_bins, quantile_bins

DATA = {
    "age": [31.5, None, 44.0, float("inf"), 18.0],
    "visits": [1, 2, 3, 4, 5],
    "member": [True, False, True, True, None],
    "plan": ["pro", "basic", None, "pro", ""],
    "nothing": [None, None, None, None, None],
}
AGES = np.array([31.5, np.nan, 44.0, np.inf, 18.0])


class OnlyAStream:
    """What any Arrow-speaking library gives."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def arrow(data=DATA):
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in data.items()})


FORMS = {
    "lists": lambda: DATA,
    "arrays": lambda: {
        "age": AGES,
        "visits": np.arange(1, 6, dtype=np.int16),
        "member": np.array(DATA["member"], dtype=object),
        "plan": np.array(DATA["plan"], dtype=object),
        "nothing": np.array(DATA["nothing"], dtype=object),
    },
    "pandas": lambda: pd.DataFrame(DATA),
    "pandas with extension types": lambda: pd.DataFrame(DATA).astype(
        {"age": "Float64", "visits": "Int64", "member": "boolean", "plan": "category"}
    ),
    "pandas of Arrow": lambda: arrow().to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda: pl.DataFrame(DATA),
    "polars lazy": lambda: pl.LazyFrame(DATA),
    "polars categorical": lambda: pl.DataFrame(DATA).with_columns(pl.col("plan").cast(pl.Categorical)),
    "arrow": arrow,
    "arrow in chunks": lambda: pa.concat_tables([arrow().slice(0, 2), arrow().slice(2)]),
    "arrow record batch": lambda: arrow().combine_chunks().to_batches()[0],
    "arrow dictionaries in chunks": lambda: pa.concat_tables(
        [
            arrow().slice(0, 2).set_column(3, "plan", arrow()["plan"].slice(0, 2).dictionary_encode()),
            arrow().slice(2).set_column(3, "plan", arrow()["plan"].slice(2).dictionary_encode()),
        ]
    ),
    "a stream": lambda: OnlyAStream(arrow()),
    "columns of polars": lambda: pl.DataFrame(DATA).to_dict(as_series=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_the_same_whatever_library_holds_it(form):
    source = memory_source(FORMS[form](), "rows")
    schema = source.schema()
    assert schema.rows == 5
    assert {name: column.kind for name, column in schema.columns.items()} == {
        "age": "number", "visits": "number", "member": "number", "plan": "category", "nothing": None,
    }  # fmt: skip
    assert np.array_equal(source.values("age"), AGES, equal_nan=True)
    assert np.array_equal(source.values("member"), [1, 0, 1, 1, np.nan], equal_nan=True)
    bins = source.bins(["age", "visits", "plan"], 4)
    assert bins["plan"].categories == ("pro", "", "basic")
    tallies = source.tally({**bins, "nothing": bins["plan"]})
    assert tallies["plan"].counts.tolist() == [2, 1, 1, 0, 1]
    assert (tallies["age"].counts.sum(), tallies["age"].counts[-1]) == (5, 1)
    assert (tallies["age"].low, tallies["age"].high) == (18.0, np.inf)
    assert tallies["nothing"].counts.tolist() == [0, 0, 0, 0, 5]
    numbers = source.tally({"nothing": bins["age"]})["nothing"]
    assert (numbers.counts[-1], numbers.counts.sum(), numbers.low) == (5, 5, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 2], dtype=np.uint64), [1.0, 2.0]),
        (np.array([0.1, np.nan], dtype=np.float32), [np.float64(np.float32(0.1)), np.nan]),
        (np.array([0.5, 1], dtype=np.float16), [0.5, 1.0]),
        (np.array([True, False]), [1.0, 0.0]),
        (np.ma.array([1.0, 2.0], mask=[False, True]), [1.0, np.nan]),
        ([Decimal("1.25"), None], [1.25, np.nan]),
        (pa.array([Decimal("1.25"), None], pa.decimal256(50, 10)), [1.25, np.nan]),
        ([1, 2.5], [1.0, 2.5]),
        (pd.Series([1, None], dtype="Int8"), [1.0, np.nan]),
        (range(2), [0.0, 1.0]),
    ],
)
def test_numbers_of_any_type_are_numbers(values, expected):
    source = memory_source({"x": values})
    assert source.schema().columns["x"].kind == "number"
    assert np.array_equal(source.values("x"), expected, equal_nan=True)


def test_float64_is_not_copied():
    values = np.arange(4.0)
    for data in (
        {"x": values},
        pd.DataFrame({"x": values}, copy=False),
        pl.DataFrame({"x": values}),
        pa.table({"x": values}),
    ):
        found = memory_source(data).values("x")
        held = memory_source(data).values("x")
        assert np.shares_memory(found, held), type(data)


def test_strings_of_any_kind_are_categories():
    for values in (np.array(["a", "b"]), np.array([b"a", b"b"]), ["a", "b"], pa.array(["a", "b"], pa.string_view())):
        source = memory_source({"x": values})
        assert source.schema().columns["x"].kind == "category"
        assert source.bins(["x"], 10)["x"].categories == ("a", "b")


def test_nan_among_strings_is_missing():
    for values in (
        ["a", float("nan"), None],
        np.array(["a", np.nan, None], dtype=object),
        pd.Series(["a", np.nan, None]),
    ):
        source = memory_source({"x": values})
        assert source.schema().columns["x"].kind == "category"
        assert source.tally({"x": category_bins(["a"])})["x"].counts.tolist() == [1, 0, 2]


def test_numbers_that_are_declared_categories_are_categories():
    source = memory_source(pd.DataFrame({"x": pd.Categorical([3, 1, 3])}))
    assert source.schema().columns["x"].kind == "category"
    assert source.bins(["x"], 10)["x"].categories == ("3", "1")


def test_a_dictionary_may_have_a_value_twice():
    values = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["a", "b", "a"]))
    tally = memory_source({"x": values}).tally({"x": category_bins(["a", "b"])})["x"]
    assert tally.counts.tolist() == [2, 1, 0, 1]
    assert memory_source({"x": values}).bins(["x"], 10)["x"].categories == ("a", "b")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([datetime(2026, 1, 1)], "a time"),  # noqa: DTZ001 - a naive one
        ([date(2026, 1, 1)], "a time"),
        (np.array(["2026-01-01"], dtype="datetime64[s]"), "a time"),
        (np.array([1], dtype="timedelta64[s]"), "a time"),
        ([[1, 2]], "list"),
        ([{"a": 1}], "struct"),
        ([b"\x00"], "binary"),
        (np.array([1j]), "complex"),
    ],
)
def test_what_cannot_be_compared_is_left_out_with_a_reason(values, why):
    schema = memory_source({"x": values, "y": [1]}).schema()
    assert why in schema.left_out["x"]
    assert list(schema.columns) == ["y"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": [1, "a"]}, ["'x'", "here", "int and str"]),
        ({"x": pd.Series(["a", 2.5], dtype=object)}, ["'x'", "float and str"]),
        ({"x": np.array([1.5, "a", None], dtype=object)}, ["'x'", "float and str"]),
        (pd.DataFrame({"x": pd.Series([1, "a"], dtype=object)}), ["'x'", "int and str"]),
        ({"x": [2**70, 1]}, ["'x'", "int"]),
        ({"x": [1, 2], "y": [1]}, ["differ in length", "'y' has 1", "'x' 2"]),
        ({"x": np.zeros((2, 2))}, ["'x'", "2 dimensions"]),
        ({"x": "abc"}, ["'x'", "str"]),
        ({"x": 5}, ["'x'", "int"]),
        ({1: [1], "1": [2]}, ["two columns", "'1'"]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ["two columns", "'a'"]),
        ([1, 2, 3], ["list", "not a table"]),
        (np.zeros((3, 2)), ["ndarray", "not a table"]),
        (None, ["NoneType", "not a table"]),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(data, words):
    with pytest.raises(DriftError) as refused:
        memory_source(data, "here").schema()
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_structured_array_is_a_table():
    data = np.array([(1.5, "a"), (2.5, "b")], dtype=[("x", "f8"), ("y", "U1")])
    assert {k: c.kind for k, c in memory_source(data).schema().columns.items()} == {"x": "number", "y": "category"}


def test_only_the_columns_that_are_wanted_are_computed():
    lazy = pl.LazyFrame({"x": [1, 2], "y": [1, 2]}).with_columns(
        z=pl.col("y").map_batches(lambda _: sys.exit("computed"), return_dtype=pl.Int64)
    )
    assert list(memory_source(lazy, columns=["x"]).schema().columns) == ["x"]
    nothing = memory_source(lazy, columns=["absent"]).schema()
    assert (nothing.rows, nothing.columns, nothing.others) == (2, {}, ("x", "y", "z"))
    assert list(memory_source(lazy, without={"z"}).schema().columns) == ["x", "y"]
    for data in (arrow(), pl.DataFrame(DATA), DATA):
        assert list(memory_source(data, columns=["age", "absent"]).schema().columns) == ["age"]


def test_values_without_a_bin_are_named_by_rows_and_then_by_name():
    values = ["known"] * 3 + ["b"] * 2 + ["a"] * 2 + ["c"] * 5 + [f"rare{i:03}" for i in range(100)]
    tally = memory_source({"x": values}).tally({"x": category_bins(["known"])})["x"]
    assert tally.counts.tolist() == [3, 109, 0]
    assert list(tally.others.items())[:4] == [("c", 5), ("a", 2), ("b", 2), ("rare000", 1)]
    assert (len(tally.others), tally.distinct_others) == (20, 103)
    assert memory_source({"x": values}).occurrences({"x": ["c", "absent", "rare099"]}) == {
        "x": {"c": 5, "absent": 0, "rare099": 1}
    }


def test_counting_in_foreign_bins_agrees_with_the_bins_themselves():
    rng = np.random.default_rng(3)
    values = rng.choice([*rng.standard_normal(50), np.nan, np.inf, -np.inf], 5000)
    bins = quantile_bins(rng.standard_normal(1000))
    assert memory_source({"x": values}).tally({"x": bins})["x"].counts.tolist() == bins.count(values).tolist()
    words = rng.choice(np.array(["a", "b", "c", None], dtype=object), 5000)
    categories = category_bins(["a", "c"])
    counted = memory_source({"x": words}).tally({"x": categories})["x"].counts
    assert counted.tolist() == categories.count(words).tolist()


def test_a_source_is_taken_as_it_is():
    source = memory_source(DATA)
    assert as_source(source, "other") is source
    assert as_source(DATA, "other").name == "other"
