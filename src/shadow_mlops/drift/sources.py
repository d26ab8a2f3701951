"""Where rows to compare come from: memory, files, a warehouse; the engine sees them through these two protocols only.

Whoever implements them counts; what the counts mean is decided elsewhere. Nothing but counts, extremes and a few names
has to leave a source; one that can hand out values cheaply has :class:`ExactSource`'s powers as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.drift.report import ColumnKind
from shadow_mlops.statistics.bins import FeatureBins

NAMED = 20
"""Categories that a tally names beyond those that have a bin of their own, at most."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that can be compared.

    Attributes
    ----------
    kind
        Numbers (booleans are 0 and 1) or categories; None: it has no value at all and goes with either.
    type
        What the source calls its type, for messages.
    """

    kind: ColumnKind | None
    type: str


@dataclass(frozen=True, slots=True)
class Schema:
    """What a source has.

    Attributes
    ----------
    rows
        All of them, also those with missing values.
    columns
        In the source's order.
    left_out
        Columns that cannot be compared -> why, in words that follow "it is" (``"a time (date32[day])"``).
    others
        Names of columns that were not asked for.
    """

    rows: int
    columns: Mapping[str, Column]
    left_out: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """One column, counted.

    Attributes
    ----------
    counts
        int64, as ``bins.count`` gives them: (G+1,) of a numeric column, (C+2,) of categories; they sum to the rows.
    low, high
        Least and greatest value, infinities included; None where there is none, or the column has categories.
    others
        Values without a bin of their own -> rows: the ``NAMED`` most frequent, by count and then name.
    distinct_others
        How many different values have no bin of their own.
    """

    counts: NDArray[np.int64]
    low: float | None = None
    high: float | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    distinct_others: int = 0


class Source(Protocol):
    """Rows, countable. A numeric null and NaN are both missing; an empty string is a category."""

    @property
    def name(self) -> str:
        """What it is, for people: a path, a table, ``current``."""

    def schema(self) -> Schema:
        """Names, kinds and the number of rows.

        Raises
        ------
        DriftError
            If it cannot be read; the message names the file and what is wrong.
        """

    def bins(self, names: Sequence[str], count: int) -> Mapping[str, FeatureBins]:
        """Bins of these columns' own values, of all of them: ``count`` quantile bins, or categories.

        A column without any value has bins nonetheless: all of its rows are missing.
        """

    def tally(self, bins: Mapping[str, FeatureBins]) -> Mapping[str, Tally]:
        """Count these columns in bins that this or another source made, in one pass if it can.

        A column without any value (its kind is None) can be counted in bins of either kind.
        """

    def occurrences(self, values: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, int]]:
        """Rows that have each of a few values (at most ``NAMED`` per column); 0 for those that none has."""


@runtime_checkable
class ExactSource(Source, Protocol):
    """A source that can hand out the values of a numeric column."""

    @property
    def affordable(self) -> bool:
        """Whether handing out values costs little beside counting; where not, it is done only when asked for."""

    def values(self, name: str) -> NDArray[np.float64]:
        """One numeric column, float64 (n,), in any order; NaN is missing, infinities are values.

        Called from several threads at once; what it gives is not written to.
        """
