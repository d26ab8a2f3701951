"""How each database counts values in cells, in one scan of all columns: by what it has built in for that.

A tree of ``CASE``, which all databases have, takes 16 times as long in PostgreSQL as ``width_bucket`` and 7 times as
long in DuckDB as ``histogram``, and Ibis some seconds to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ibis
import ibis.expr.datatypes as dt
import numpy as np
from ibis.expr.types import Table, Value
from numpy.typing import NDArray

Counts: TypeAlias = dict[str, NDArray[np.int64]]
Cells: TypeAlias = Callable[[Table, Mapping[str, Value], Mapping[str, NDArray[np.float64]]], Counts]
"""Table, float64 expressions of its columns (null: missing), their edges -> int64 (G + 1,) each, without missing."""


@ibis.udf.agg.builtin(name="histogram")  # type: ignore[untyped-decorator]
def _histogram(value: float, bounds: dt.Array[dt.float64]) -> dt.Map[dt.float64, dt.int64]:
    """DuckDB's: upper bound -> values up to it and above the one before; those above all at +inf."""


@ibis.udf.scalar.builtin(name="width_bucket")  # type: ignore[untyped-decorator]
def _width_bucket(value: float, bounds: dt.Array[dt.float64]) -> dt.int32:
    """PostgreSQL's: how many of the ascending bounds are at most the value."""


def by_histogram(table: Table, values: Mapping[str, Value], edges: Mapping[str, NDArray[np.float64]]) -> Counts:
    """In DuckDB."""
    names = list(values)
    asked = {
        f"c{place}": _histogram(values[name], _array(edges[name], "[]")) if len(edges[name]) else values[name].count()
        for place, name in enumerate(names)
    }
    found = table.aggregate(**asked).to_pyarrow().to_pylist()[0]
    counts: Counts = {}
    for place, name in enumerate(names):
        counts[name] = np.zeros(len(edges[name]) + 1, dtype=np.int64)
        held = found[f"c{place}"]
        if not len(edges[name]):
            counts[name][0] = held
        elif held is not None:  # no value at all
            bounds, rows = (np.array(each) for each in zip(*dict(held).items(), strict=True))
            counts[name][np.searchsorted(edges[name], bounds)] = rows
    return counts


def by_width_bucket(table: Table, values: Mapping[str, Value], edges: Mapping[str, NDArray[np.float64]]) -> Counts:
    """In PostgreSQL: each row becomes an array with one number per column, column and cell in one, to be unnested."""
    starts, codes, start = {}, [], 0
    for name, value in values.items():
        starts[name] = start
        # as many edges are below a value as numbers just above them are at most that value
        above = np.nextafter(edges[name], np.inf)
        cell = _width_bucket(value, _array(above, "{}")) if len(above) else ibis.literal(0, "int32")
        codes.append(ibis.ifelse(value.isnull(), -1, cell.cast("int64") + start))
        start += len(edges[name]) + 1
    totals = np.zeros(start, dtype=np.int64)
    if codes:
        each = table.select(code=ibis.array(codes).unnest())
        given = each.filter(each["code"] >= 0)
        found = given.group_by("code").aggregate(rows=given.count()).to_pyarrow()
        totals[found["code"].to_numpy()] = found["rows"].to_numpy()
    return {name: totals[starts[name] :][: len(edges[name]) + 1] for name in values}


CELLS: Mapping[str, Cells] = {"duckdb": by_histogram, "postgres": by_width_bucket}


def exact(value: float) -> Value:
    """A float64 as it is: a bare 0.1 is a decimal to some databases, and not always the same float64 again."""
    return ibis.literal(repr(float(value))).cast("float64")


def _array(values: NDArray[np.float64], brackets: str) -> Any:
    # as one text, for a thousand literals take Ibis a second
    text = ", ".join(map(repr, values.tolist()))
    return ibis.literal(brackets[0] + text + brackets[1]).cast("array<float64>")
