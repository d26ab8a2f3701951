"""A table of a warehouse as a source: it counts, and only counts, extremes and a few names leave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import ibis
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.sources import NAMED, Column, Schema, Tally
from shadow_mlops.drift.sqlcells import Cells, exact
from shadow_mlops.statistics.bins import (
    LARGEST_CATEGORIES,
    CategoryBins,
    FeatureBins,
    NumericBins,
    bins_of_order_statistics,
    quantile_ranks,
)


class TableSource:
    """A table expression of Ibis.

    Quantiles of a reference are found in the warehouse, too: by sorting, exactly.

    Parameters
    ----------
    table
        ``ibis.expr.types.Table``.
    name
        For messages.
    cells
        How its database counts in cells.
    asking
        Context in which queries run: turns a driver's errors into :class:`DriftError`.
    """

    def __init__(self, table: Any, name: str, cells: Cells, asking: Callable[[], AbstractContextManager[None]]) -> None:
        self.name = name
        self._table = table
        self._count = cells
        self._asking = asking

    def schema(self) -> Schema:
        """Names, kinds and the number of rows."""
        return self._overview[0]

    def bins(self, names: Sequence[str], count: int) -> Mapping[str, FeatureBins]:
        """Quantile bins, of values that the warehouse sorts; or the most frequent categories."""
        made: dict[str, FeatureBins] = {}
        for name in names:
            if self._overview[0].columns[name].kind == "category":
                made[name] = CategoryBins(tuple(value for value, _ in self._largest(name, LARGEST_CATEGORIES)))
            else:
                made[name] = self._quantile_bins(name, count)
        return made

    def tally(self, bins: Mapping[str, FeatureBins]) -> Mapping[str, Tally]:
        """Count columns in bins: one scan for all numbers, one group-by for each column of categories."""
        numeric = {name: each for name, each in bins.items() if isinstance(each, NumericBins)}
        counted = self._cells(numeric)
        tallies: dict[str, Tally] = {}
        for name, each in bins.items():
            if isinstance(each, NumericBins):
                low, high = self._overview[1].get(name, (None, None))
                tallies[name] = Tally(counts=counted[name], low=low, high=high)
            else:
                tallies[name] = self._categories(name, each)
        return tallies

    def occurrences(self, values: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, int]]:
        """Rows that have each of a few values."""
        found: dict[str, Mapping[str, int]] = {}
        for name, wanted in values.items():
            groups = self._groups(name)
            rows = dict(self._rows(groups.filter(groups["value"].isin(list(wanted)))))
            found[name] = {value: rows.get(value, 0) for value in wanted}
        return found

    @cached_property
    def _overview(self) -> tuple[Schema, dict[str, tuple[float, float]]]:
        """The schema, and the least and the greatest value of each numeric column: one scan."""
        kinds = {name: _kind(dtype) for name, dtype in self._table.schema().items()}
        asked = {"rows": self._table.count()}
        for place, (name, kind) in enumerate(kinds.items()):
            if isinstance(kind, Column) and kind.kind == "number":
                value = self._number(name)
                asked |= {f"n{place}": value.count(), f"low{place}": value.min(), f"high{place}": value.max()}
            elif isinstance(kind, Column):
                asked[f"n{place}"] = self._table[name].count()
        with self._asking():
            found = self._table.aggregate(**asked).to_pyarrow().to_pylist()[0]
        columns, left_out, ends = {}, {}, {}
        for place, (name, kind) in enumerate(kinds.items()):
            if not isinstance(kind, Column):
                left_out[name] = kind
                continue
            columns[name] = kind if found[f"n{place}"] else Column(None, "no value at all")
            if found.get(f"low{place}") is not None:
                ends[name] = float(found[f"low{place}"]), float(found[f"high{place}"])
        return Schema(found["rows"], columns, left_out), ends

    def _quantile_bins(self, name: str, count: int) -> NumericBins:
        given = self._table.select(value=self._number(name))
        given = given.filter(given["value"].notnull())
        finite = given.filter(~given["value"].isinf())
        with self._asking():
            rows = int(given.count().to_pyarrow().as_py())
            ends = finite.aggregate(least=finite["value"].min(), greatest=finite["value"].max()).to_pyarrow()
        least, greatest = (float("nan") if end is None else float(end) for end in ends.to_pylist()[0].values())
        ranks = quantile_ranks(rows, count)
        ranked = given.mutate(rank=ibis.row_number().over(order_by=given["value"]))
        with self._asking():
            found = ranked.filter(ranked["rank"].isin(ranks.tolist())).order_by("rank").to_pyarrow()
        values = found["value"].to_numpy()
        return bins_of_order_statistics(values, rows, count, least=least, greatest=greatest)

    def _number(self, name: str) -> Any:
        """A column as float64, null where it is missing."""
        column = self._table[name]
        if column.type().is_boolean():
            return ibis.cases((column, exact(1.0)), (~column, exact(0.0)))
        value = column.cast("float64")
        return value if column.type().is_integer() else ibis.cases((~value.isnan(), value))

    def _cells(self, bins: Mapping[str, NumericBins]) -> dict[str, NDArray[np.int64]]:
        """Rows per cell, missing last."""
        if not bins:
            return {}
        edges = {name: each.grid for name, each in bins.items()}
        with self._asking():
            given = self._count(self._table, {name: self._number(name) for name in bins}, edges)
        return {name: np.append(counts, self._overview[0].rows - counts.sum()) for name, counts in given.items()}

    def _groups(self, name: str) -> Any:
        """Value -> rows of a column of categories, in the warehouse."""
        given = self._table.filter(self._table[name].notnull()).select(value=self._table[name].cast("string"))
        return given.group_by("value").aggregate(rows=given.count())

    def _largest(self, name: str, count: int) -> list[tuple[str, int]]:
        return self._most(self._groups(name), count)

    def _most(self, groups: Any, count: int) -> list[tuple[str, int]]:
        ordered = groups.order_by([ibis.desc(groups["rows"]), groups["value"]]).limit(count)
        # the order of names is the database's; ours is by code point
        return sorted(self._rows(ordered), key=lambda each: (-each[1], each[0]))

    def _rows(self, groups: Any) -> list[tuple[str, int]]:
        with self._asking():
            found = groups.to_pyarrow()
        return list(zip(found["value"].to_pylist(), found["rows"].to_pylist(), strict=True))

    def _categories(self, name: str, bins: CategoryBins) -> Tally:
        groups = self._groups(name)
        known = groups["value"].isin(list(bins.categories))
        rows = dict(self._rows(groups.filter(known)))
        others = groups.filter(~known)
        with self._asking():
            summed = others.aggregate(different=others.count(), rows=others["rows"].sum()).to_pyarrow().to_pylist()[0]
        other = int(summed["rows"] or 0)
        given = sum(rows.values()) + other
        return Tally(
            counts=np.array(
                [*(rows.get(each, 0) for each in bins.categories), other, self._overview[0].rows - given],
                dtype=np.int64,
            ),
            others=dict(self._most(others, NAMED)) if other else {},
            distinct_others=summed["different"],
        )


def _kind(dtype: Any) -> Column | str:
    if dtype.is_boolean() or dtype.is_integer() or dtype.is_floating() or dtype.is_decimal():
        return Column("number", str(dtype))
    if dtype.is_string():
        return Column("category", str(dtype))
    if dtype.is_null():
        return Column(None, "no value at all")
    if dtype.is_unknown():
        return "of a type that is not known here"
    return f"a time ({dtype})" if dtype.is_temporal() else f"of type {dtype}"
