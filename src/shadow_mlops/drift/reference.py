"""A reference made of rows that anybody names: what a baseline is set to."""

from __future__ import annotations

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.sources import Source
from shadow_mlops.models.reference import ReferenceProfile
from shadow_mlops.statistics.profiles import Profile


def baseline_of(source: Source, *, bins: int = 10, model: str = "", version: str = "") -> ReferenceProfile:
    """The reference that the rows of a source make.

    Parameters
    ----------
    source
        Columns that cannot be compared are left out.
    bins
        Quantile bins of a numeric column.
    model, version
        Whose reference it is to be.

    Raises
    ------
    DriftError
        If it has no rows, or no column that can be compared.
    """
    schema = source.schema()
    if not schema.rows:
        raise DriftError(f"empty reference: {source.name} has no rows")
    names = [name for name, column in schema.columns.items() if column.kind is not None]
    if not names:
        raise DriftError(f"no column of {source.name} can be compared: it has no number and no category")
    made = source.bins(names, bins)
    tallies = source.tally(made)
    counts = tuple(tallies[name].counts for name in names)
    return ReferenceProfile(
        model, version, source.name, {name: made[name] for name in names}, Profile(tuple(names), counts, schema.rows)
    )
