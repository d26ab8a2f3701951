"""What a person would want to be told by name: categories, missing values, ranges, constants.

A finding never alerts by itself. Whatever chance brings about in any two samples is not one: each rule here has an
exact test on the counts of both sides beside it, at the level of the check, shared by all that it is applied to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shadow_mlops.drift.report import Finding, Method, Named
from shadow_mlops.drift.sources import NAMED, Tally
from shadow_mlops.statistics.bins import CategoryBins, FeatureBins, NumericBins
from shadow_mlops.statistics.significance import significant

MISSING_JUMP = 0.05
"""A change of the share of missing values that is worth a word, however significant."""

_EXPECTED = 30  # rows; as for PSI


@dataclass(frozen=True, slots=True)
class Counted:
    """One feature, counted on both sides.

    Attributes
    ----------
    bins
        Of the reference.
    exact
        Distances from all values, where there were values to take them from: ``ks``, ``wasserstein``.
    known
        Values without a bin that both sides have -> rows of the reference, of those that ``current.others`` names.
    """

    name: str
    bins: FeatureBins
    reference: Tally
    current: Tally
    exact: Mapping[Method, float] = field(default_factory=dict)
    known: Mapping[str, int] = field(default_factory=dict)


def find(counted: Sequence[Counted], level: float) -> dict[str, tuple[Finding, ...]]:
    """Findings of each feature, by its name; features without one are absent."""
    made: dict[str, list[Finding]] = {}
    for finding in _missing(counted, level):
        made.setdefault(finding.feature, []).append(finding)
    for each in counted:
        if isinstance(each.bins, CategoryBins):
            found = [*_new(each), *_vanished(each, each.bins, level / len(counted))]
        else:
            found = _out_of_range(each, each.bins, level / (2 * len(counted)))
        for finding in [*found, *_without_variety(each)]:
            made.setdefault(each.name, []).append(finding)
    return {name: tuple(found) for name, found in made.items()}


def _given(tally: Tally) -> NDArray[np.int64]:
    return tally.counts[:-1]


def _missing(counted: Sequence[Counted], level: float) -> list[Finding]:
    """Jumps of the missing rate: a least change, and significant by Benjamini and Hochberg over all features."""
    missing = np.array([(each.reference.counts[-1], each.current.counts[-1]) for each in counted])
    rows = np.array([(each.reference.counts.sum(), each.current.counts.sum()) for each in counted])
    shares = missing / rows
    jumps = np.abs(shares[:, 1] - shares[:, 0]) >= MISSING_JUMP
    p_values = np.ones(len(counted))  # of those that did not jump: it makes the others less significant, never more
    for i in np.flatnonzero(jumps).tolist():
        p_values[i] = _p_of_shares(np.stack([missing[i], rows[i] - missing[i]], axis=1))
    return [
        Finding(
            kind="missing_rate",
            feature=counted[i].name,
            words=(
                f"{counted[i].name}: {shares[i, 1]:.1%} of the current rows have no value, {shares[i, 0]:.1%} of the"
                " reference's"
            ),
            rows=int(missing[i, 1]),
            share=float(shares[i, 1]),
            p_value=float(p_values[i]),
        )
        for i in np.flatnonzero(jumps & significant(p_values, level)).tolist()
    ]


def _p_of_shares(table: NDArray[np.int64]) -> float:
    """P-value that two samples (rows of the 2 x 2 table) have the same share: exact where chi-square is not."""
    if stats.contingency.expected_freq(table).min() >= _EXPECTED:
        return float(stats.chi2_contingency(table, correction=False).pvalue)
    turned = (table, table[:, ::-1], table.T, table.T[:, ::-1])
    # Fisher's test takes time by the sum of its first column
    return float(stats.fisher_exact(min(turned, key=lambda each: int(each[:, 0].sum()))).pvalue)


def _new(each: Counted) -> list[Finding]:
    """Values that no reference row has: always named, for no model has learned anything of them."""
    tail = bool(each.reference.counts[-2])
    new = {value: rows for value, rows in each.current.others.items() if not each.known.get(value)}
    if not new and (tail or not each.current.counts[-2]):
        return []
    # behind a reference with a tail of its own, only those can be told apart that have been asked for by name
    more = 0 if tail else max(0, each.current.distinct_others - len(new))
    rows = sum(new.values()) if tail else int(each.current.counts[-2])
    shown = ", ".join(f"{value!r} ({count:,})" for value, count in list(new.items())[:3])
    rest = len(new) + more - min(3, len(new))
    total = int(each.current.counts.sum())
    return [
        Finding(
            kind="new_category",
            feature=each.name,
            words=(
                f"{each.name}: {rows:,} current rows ({rows / total:.2%}) have values that the reference never has"
                + (f": {shown}" if shown else "")
                + (f" and {'at least ' if tail else ''}{rest:,} more" if rest else "")
            ),
            rows=rows,
            share=rows / total,
            values=tuple(Named(value=value, rows=count) for value, count in new.items()),
            more=more,
        )
    ]


def _vanished(each: Counted, bins: CategoryBins, level: float) -> list[Finding]:
    """Categories that the current rows should have by chance alone, and have not."""
    reference, current = _given(each.reference)[:-1], _given(each.current)[:-1]
    n, m = int(each.reference.counts.sum()), int(each.current.counts.sum())
    none = np.flatnonzero((current == 0) & (reference > 0))
    if not none.size:
        return []
    by_chance = stats.hypergeom.pmf(0, n + m, reference[none], m)
    gone = none[by_chance <= level / np.count_nonzero(reference)]
    gone = gone[np.argsort(-reference[gone], kind="stable")]
    if not gone.size:
        return []
    rows = int(reference[gone].sum())
    values = tuple(Named(value=bins.categories[i], rows=int(reference[i])) for i in gone[:NAMED])
    shown = ", ".join(f"{named.value!r} ({named.rows:,})" for named in values[:3])
    rest = gone.size - min(3, gone.size)
    return [
        Finding(
            kind="vanished_category",
            feature=each.name,
            words=(
                f"{each.name}: no current row has values that {rows:,} reference rows ({rows / n:.2%}) have: {shown}"
                + (f" and {rest:,} more" if rest else "")
            ),
            rows=rows,
            share=rows / n,
            p_value=float(by_chance.min()),
            values=values,
            more=int(gone.size) - len(values),
        )
    ]


def _out_of_range(each: Counted, bins: NumericBins, level: float) -> list[Finding]:
    """Values below the reference's least or above its greatest: more than chance, or absurdly far."""
    reference, current = _given(each.reference), _given(each.current)
    n, m = int(reference.sum()), int(current.sum())
    if not n or not m or not bins.grid.size:
        return []
    least, greatest = float(np.nextafter(bins.grid[0], np.inf)), float(bins.grid[-1])
    sides = (
        ("below", least, current[0], reference[0], each.current.low, least - (greatest - least)),
        ("above", greatest, current[-1], reference[-1], each.current.high, greatest + (greatest - least)),
    )
    found = []
    for side, bound, count, unbounded, extreme, far in sides:
        if not count or unbounded:  # a reference with infinities has no bound on that side
            continue
        # the chance that the outermost `count` of all values are all current ones
        p_value = float(stats.hypergeom.pmf(0, n + m, n, count))
        is_far = extreme is not None and (extreme < far if side == "below" else extreme > far)
        if p_value > level and not is_far:
            continue
        least_or_most = "lowest" if side == "below" else "highest"
        found.append(
            Finding(
                kind="out_of_range",
                feature=each.name,
                words=(
                    f"{each.name}: {count:,} current rows ({count / m:.2%}) are {side} the reference's"
                    f" {'least' if side == 'below' else 'greatest'} value {bound:.6g}"
                    + (f", the {least_or_most} is {extreme:.6g}" if extreme is not None else "")
                ),
                rows=int(count),
                share=float(count / each.current.counts.sum()),
                p_value=p_value,
                values=() if extreme is None or not np.isfinite(extreme) else (Named(value=extreme, rows=1),),
            )
        )
    return found


def _without_variety(each: Counted) -> list[Finding]:
    """Columns that have no value, or one and the same value, on a side."""
    only = {"reference": _only_value(each.bins, each.reference), "current": _only_value(each.bins, each.current)}
    empty = [
        side for side, tally in (("reference", each.reference), ("current", each.current)) if not _given(tally).sum()
    ]
    if empty:
        where = "on either side" if len(empty) == 2 else f"in the {empty[0]} rows"
        return [Finding(kind="empty", feature=each.name, words=f"{each.name}: no value at all {where}")]
    constant = [side for side, value in only.items() if value is not None]
    if not constant:
        return []
    value = only[constant[0]]
    if len(constant) == 2 and only["current"] == value:
        words = f"{each.name}: constant, always {_shown(value)} on both sides"
    else:
        words = f"{each.name}: " + ", ".join(f"constant in the {side} rows, {_shown(only[side])}" for side in constant)
    return [Finding(kind="constant", feature=each.name, words=words)]


def _only_value(bins: FeatureBins, tally: Tally) -> str | float | None:
    """The one value that all of a side's rows have that have any; None where there are more, or it is not known."""
    if isinstance(bins, CategoryBins):
        there = np.flatnonzero(tally.counts[:-1])
        if there.size != 1 or (there[0] == len(bins.categories) and tally.distinct_others != 1):
            return None
        return bins.categories[there[0]] if there[0] < len(bins.categories) else next(iter(tally.others))
    if tally.low is not None:
        return tally.low if tally.low == tally.high else None
    if bins.grid.size == 2 and tally.counts[1] and not tally.counts[0] and not tally.counts[2]:
        return float(bins.grid[-1])  # from counts alone: the reference's range is one value, and all are in it
    return None


def _shown(value: str | float | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
