"""A baseline that an operator sets: other rows than those kept with the version, as its reference."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.domain.features import Signature
from shadow_mlops.drift.livestate import Identity
from shadow_mlops.drift.reference import baseline_of
from shadow_mlops.drift.references import Baseline
from shadow_mlops.drift.sources import Source
from shadow_mlops.models.reference import SCORE, ReferenceProfile, encode_reference
from shadow_mlops.statistics.bins import CategoryBins
from shadow_mlops.statistics.profiles import Profile


def baseline_from(
    source: Source,
    identity: Identity,
    signature: Signature,
    own: ReferenceProfile | None,
    *,
    bins: int,
    words: str,
    who: str,
    reason: str,
) -> Baseline:
    """The baseline that rows make for a version.

    Parameters
    ----------
    source
        Columns by the names of features; ``__score__`` may be among them, others are left out.
    own
        The version's own reference: its score is kept where the rows have none. None: there is none.
    words
        Where the rows are from.

    Raises
    ------
    DriftError
        If the rows have no feature of the version, or one of another kind.
    """
    made = baseline_of(source, bins=bins, model=identity.model, version=identity.version)
    counts = dict(zip(made.profile.features, made.profile.counts, strict=True))
    wanted = [name for name in (*signature.names, SCORE) if name in counts]
    for name in wanted:
        if isinstance(made.bins[name], CategoryBins) != (name in signature.strings):
            kinds = ("a category", "a number") if name in signature.strings else ("a number", "a category")
            raise DriftError(f"{name} is {kinds[0]} for {identity.model} {identity.version}, {words} has {kinds[1]}")
    if wanted in ([], [SCORE]):
        raise DriftError(
            f"{words} has no feature of {identity.model} {identity.version}: its features are"
            f" {', '.join(signature.names[:10])}{', …' if len(signature.names) > 10 else ''}"
        )
    kept = {name: (made.bins[name], counts[name]) for name in wanted}
    if SCORE not in kept and own is not None and SCORE in own.bins:
        place = own.profile.features.index(SCORE)
        kept[SCORE] = (own.bins[SCORE], own.profile.counts[place])
        words += "; its score from the rows kept with the version"
    profile = Profile(tuple(kept), tuple(each for _, each in kept.values()), made.rows)
    reference = ReferenceProfile(
        identity.model, identity.version, words, {name: each for name, (each, _) in kept.items()}, profile
    )
    return Baseline(
        at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        who=who,
        reason=reason,
        source=words,
        model=identity.model,
        version=identity.version,
        registry_version=identity.registry_version,
        rows=made.rows,
        reference=msgspec.Raw(encode_reference(reference)),
    )
