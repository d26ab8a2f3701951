"""Has the data moved: two samples to a report, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.findings import Counted
from shadow_mlops.drift.inputs import as_source
from shadow_mlops.drift.measuring import Check, report_of
from shadow_mlops.drift.report import DriftReport, Finding, Method, Moment
from shadow_mlops.drift.rules import ALERTING, METHODS, Rules
from shadow_mlops.drift.sources import Column, ExactSource, Schema, Source, Tally
from shadow_mlops.statistics.bins import CategoryBins, FeatureBins, quantile_bins
from shadow_mlops.statistics.profiles import Profile
from shadow_mlops.statistics.samples import ks, wasserstein

_THREADS = 2
_SMALL = 100_000  # values of both sides in all columns; below, threads cost more than they save
_NAMED = 10  # columns named in a message


def detect(
    reference: Any,
    current: Any,
    *,
    rules: Rules | None = None,
    bins: int = 10,
    methods: Sequence[Method] = ALERTING,
    exact_ks: bool | None = None,
    features: Sequence[str] | None = None,
    reference_name: str = "reference",
    current_name: str = "current",
    created: datetime | None = None,
) -> DriftReport:
    """Compare two samples, feature by feature.

    Parameters
    ----------
    reference, current
        Each a pandas or Polars DataFrame, an Arrow table, an object with ``__arrow_c_stream__``, a mapping of names to
        arrays or lists, or a :class:`~shadow_mlops.drift.sources.Source` (files, SQL tables). Columns are matched by
        name.
    rules
        Thresholds and level; None: the documented ones.
    bins
        Quantile bins of a numeric feature, 2 to 1,000.
    methods
        Distances to show. The decision is the same whichever these are.
    exact_ks
        Whether KS is from all values; None: where that is cheap on both sides. From counts it is a lower bound, whose
        largest error is stated with it.
    features
        Only these; None: all columns that both have.
    reference_name, current_name
        For messages and for the report, where the sample is a table in memory.
    created
        Time of the report; None: now.

    Raises
    ------
    DriftError
        If a side has no rows, they have no column in common, a column is a number on one side and a category on the
        other, mixes types, or values are wanted that a source does not hand out.

    Examples
    --------
    >>> old = {"age": [20, 30, 40, 50] * 50, "plan": ["basic", "pro"] * 100}
    >>> new = {"age": [60, 70, 80, 90] * 50, "plan": ["basic", "pro"] * 100}
    >>> report = detect(old, new)
    >>> report.verdict, report.features[0].name
    ('retrain', 'age')
    """
    rules = rules or Rules()
    _known_methods(methods)
    sides = (
        as_source(reference, reference_name, features, without=rules.unchecked),
        as_source(current, current_name, features, without=rules.unchecked),
    )
    schemas = sides[0].schema(), sides[1].schema()
    for side, schema, what in zip(sides, schemas, ("empty reference", "empty window"), strict=True):
        if not schema.rows:
            raise DriftError(f"{what}: {side.name} has no rows")
    kinds, findings = _common(sides, schemas, features, rules)
    exact = _exact(sides, exact_ks)
    if exact is None:
        counted = _by_counts(sides, schemas[0], kinds, bins)
    else:
        small = (schemas[0].rows + schemas[1].rows) * len(kinds) < _SMALL
        counted = _by_values(exact, schemas[0], kinds, bins, methods, threads=1 if small else _THREADS)
    check = Check(
        reference=sides[0].name,
        current=sides[1].name,
        reference_rows=schemas[0].rows,
        current_rows=schemas[1].rows,
        methods=tuple(methods),
        bins=bins,
        exact_ks=exact is not None,
        findings=findings,
        created=created,
    )
    return report_of(counted, rules, check)


def profile_report(
    bins: Mapping[str, FeatureBins],
    reference: Profile,
    current: Profile,
    *,
    rules: Rules | None = None,
    methods: Sequence[Method] = ALERTING,
    bin_count: int = 10,
    reference_name: str = "reference",
    current_name: str = "current",
    created: datetime | None = None,
    timeline: Sequence[Moment] = (),
    limits: Sequence[str] = (),
    others: Mapping[str, Mapping[str, int]] | None = None,
) -> DriftReport:
    """Compare two samples of which only counts are left, as :func:`detect` compares their rows.

    PSI and Jensen-Shannon are those of the rows to the last bit, however the profiles were merged; KS is a lower bound,
    and its p-value that of the bound.

    Parameters
    ----------
    bins
        Of the reference, frozen; features without bins are left out.
    reference, current
        Counts in these bins. A feature may have fewer rows than its profile.
    bin_count
        Quantile bins that were asked for when the reference was made.
    timeline, limits
        Put into the report as they are.
    others
        Feature -> values without a bin -> rows of the current side, where they are known by name.

    Raises
    ------
    DriftError
        If no feature has rows on both sides.
    """
    rules = rules or Rules()
    _known_methods(methods)
    sides = [dict(zip(each.features, each.counts, strict=True)) for each in (reference, current)]
    checked = [name for name in bins if name not in rules.unchecked]
    counted = [
        Counted(
            name,
            bins[name],
            Tally(sides[0][name]),
            Tally(sides[1][name], others=(others or {}).get(name, {})),
        )
        for name in checked
        if all(name in side and side[name].any() for side in sides)
    ]
    if not counted:
        raise DriftError(f"empty window: no feature has rows both in {reference_name} and in {current_name}")
    there = {each.name for each in counted}
    check = Check(
        reference=reference_name,
        current=current_name,
        reference_rows=reference.rows,
        current_rows=current.rows,
        methods=tuple(methods),
        bins=bin_count,
        findings=tuple(
            Finding(kind="empty", feature=name, words=f"{name}: no row of this window has it")
            for name in checked
            if name not in there
        ),
        limits=tuple(limits),
        timeline=tuple(timeline),
        created=created,
    )
    return report_of(counted, rules, check)


def _known_methods(methods: Iterable[str]) -> None:
    for method in methods:
        if method not in METHODS:
            close = get_close_matches(method, METHODS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(METHODS)}"
            raise DriftError(f"there is no method {method!r}, {hint}")


def _common(
    sides: tuple[Source, Source], schemas: tuple[Schema, Schema], features: Sequence[str] | None, rules: Rules
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Columns to compare -> their kind, in the reference's order, and what is to be said of the others."""
    every = [dict.fromkeys([*schema.columns, *schema.left_out]) for schema in schemas]
    names = [name for name in {**every[0], **every[1]} if name not in rules.unchecked]
    if features is not None:
        for wanted in features:
            if wanted not in names:
                raise DriftError(
                    _unknown(wanted, sides, {*every[0], *every[1], *schemas[0].others, *schemas[1].others})
                )
        names = list(features)
    common: dict[str, str] = {}
    findings: list[Finding] = []
    clashes: list[str] = []
    for name in names:
        lacking = [side for side, there in zip(sides, every, strict=True) if name not in there]
        if lacking:
            is_new = lacking[0] is sides[0]
            findings.append(
                Finding(
                    kind="only_in_current" if is_new else "only_in_reference",
                    feature=name,
                    words=f"{name}: {lacking[0].name} has no such column, so it is not compared",
                )
            )
            continue
        why = [schema.left_out[name] for schema in schemas if name in schema.left_out]
        if why:
            findings.append(Finding(kind="left_out", feature=name, words=f"{name}: not compared, it is {why[0]}"))
            continue
        columns = schemas[0].columns[name], schemas[1].columns[name]
        kind = columns[0].kind or columns[1].kind or "number"
        if any(column.kind not in {None, kind} for column in columns):
            clashes.append(_clash(name, sides, columns))
        common[name] = kind
    if clashes:
        more = f"; and {len(clashes) - 3} columns more" if len(clashes) > 3 else ""
        raise DriftError(f"{'; '.join(clashes[:3])}{more}: make both sides one type")
    if not common:
        raise DriftError(_nothing_common(sides, every, findings))
    return common, tuple(findings)


def _unknown(wanted: str, sides: tuple[Source, Source], known: set[str]) -> str:
    close = get_close_matches(wanted, sorted(known - {wanted}), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"neither {sides[0].name} nor {sides[1].name} has a column {wanted!r} that is checked{hint}"


def _clash(name: str, sides: tuple[Source, Source], columns: tuple[Column, Column]) -> str:
    one, other = (
        f"a {column.kind} ({column.type}) in {side.name}" for side, column in zip(sides, columns, strict=True)
    )
    return f"column {name!r} is {one} but {other}"


def _nothing_common(
    sides: tuple[Source, Source], every: Sequence[Mapping[str, None]], findings: Sequence[Finding]
) -> str:
    left_out = [finding.words for finding in findings if finding.kind == "left_out"]
    if left_out:
        return f"no column can be compared: {'; '.join(left_out[:_NAMED])}"
    has = [
        f"{side.name} has {', '.join(list(names)[:_NAMED]) or 'none'}{', …' if len(names) > _NAMED else ''}"
        for side, names in zip(sides, every, strict=True)
    ]
    return f"no column in common: {has[0]}; {has[1]}"


def _exact(sides: tuple[Source, Source], wanted: bool | None) -> tuple[ExactSource, ExactSource] | None:
    """Both sides, if values are to be taken from them."""
    if wanted is False:
        return None
    first, second = sides
    if isinstance(first, ExactSource) and isinstance(second, ExactSource):
        return (first, second) if wanted or (first.affordable and second.affordable) else None
    if wanted:
        without = next(side for side in sides if not isinstance(side, ExactSource))
        raise DriftError(f"the exact KS needs all values, and {without.name} gives counts only: leave it out")
    return None


def _by_counts(sides: tuple[Source, Source], schema: Schema, kinds: Mapping[str, str], bins: int) -> list[Counted]:
    without = {name: kind for name, kind in kinds.items() if schema.columns[name].kind is None}  # any value at all
    made = dict(sides[0].bins([name for name in kinds if name not in without], bins))
    for name, kind in without.items():
        made[name] = CategoryBins(()) if kind == "category" else quantile_bins(np.zeros(0), bins)
    first, second = sides[0].tally(made), sides[1].tally(made)
    known = _known(sides[0], first, second)
    return [Counted(name, made[name], first[name], second[name], known=known.get(name, {})) for name in kinds]


def _known(
    reference: Source, first: Mapping[str, Tally], second: Mapping[str, Tally]
) -> Mapping[str, Mapping[str, int]]:
    """Which values without a bin the reference has in its own tail; asked only where it has one."""
    asked = {name: list(tally.others) for name, tally in second.items() if tally.others and first[name].others}
    return reference.occurrences(asked) if asked else {}


def _by_values(
    sides: tuple[ExactSource, ExactSource],
    schema: Schema,
    kinds: Mapping[str, str],
    bins: int,
    methods: Sequence[Method],
    *,
    threads: int,
) -> list[Counted]:
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    categories = {name: kind for name, kind in kinds.items() if kind == "category"}

    def one(name: str) -> Counted:
        return _values_of(name, sides[0].values(name), sides[1].values(name), bins, methods)

    with ThreadPoolExecutor(threads) as pool:
        counted = {each.name: each for each in pool.map(one, numbers)}
    if categories:
        counted |= {each.name: each for each in _by_counts(sides, schema, categories, bins)}
    return [counted[name] for name in kinds]


def _values_of(
    name: str,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    bins: int,
    methods: Sequence[Method],
) -> Counted:
    made = quantile_bins(first, bins)
    tallies = [Tally(made.count(values), *_ends(values)) for values in (first, second)]
    given = [
        values[~np.isnan(values)] if tally.counts[-1] else values
        for values, tally in zip((first, second), tallies, strict=True)
    ]
    exact: dict[Method, float] = {"ks": ks(given[0], given[1])}
    if "wasserstein" in methods:
        exact["wasserstein"] = wasserstein(given[0], given[1])
    return Counted(name, made, tallies[0], tallies[1], exact=exact)


def _ends(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    low, high = np.fmin.reduce(values, initial=np.nan), np.fmax.reduce(values, initial=np.nan)
    return (None, None) if np.isnan(low) else (float(low), float(high))
