"""The reference of a version: its features' and its score's bins and counts, of the rows that are kept with it.

Made when the version is registered, as ``reference.json`` in its prepared directory, so that whoever serves it can tell
whether traffic has moved away from what it was trained on without having the rows. A version without it (prepared by
an earlier release, remote, or registered by another tool) has no reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.prepared import REFERENCE_PROFILE
from shadow_mlops.models.rows import Rows
from shadow_mlops.statistics.bins import CategoryBins, FeatureBins, category_bins, from_plain, quantile_bins, to_plain
from shadow_mlops.statistics.profiles import Profile

SCORE = "__score__"
"""The model's score, as a feature beside those that go into it."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """What a reference sample looks like, in bins of its own quantiles and categories.

    Attributes
    ----------
    model, version
        Whose reference it is; empty where it is nobody's.
    source
        Where the rows are from, in words.
    bins
        By feature.
    profile
        Counts in these bins, in the same order.
    """

    model: str
    version: str
    source: str
    bins: Mapping[str, FeatureBins]
    profile: Profile

    @property
    def rows(self) -> int:
        """Rows of the sample."""
        return self.profile.rows


class _Counted(msgspec.Struct, frozen=True):
    bins: dict[str, Any]
    counts: list[int]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``reference.json``."""

    format: int
    model: str
    version: str
    source: str
    rows: int
    features: dict[str, _Counted]


def score_of(task: Task, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one number of each answer whose distribution is watched.

    Parameters
    ----------
    scores
        float64 (n, k), as a runtime gives them.

    Returns
    -------
    float64 (n,)
        Binary: probability of the second class. Multiclass: of the class that is predicted. Regression: the value. NaN
        where a row has no answer.

    Examples
    --------
    >>> score_of("multiclass", np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])).tolist()
    [0.5, 0.6]
    """
    if task == "multiclass":
        return np.asarray(scores.max(axis=1))
    return scores[:, -1]


def reference_of(
    rows: Rows, scores: NDArray[np.float64], card: ModelCard, *, source: str, bins: int = 10
) -> ReferenceProfile:
    """The reference that rows and a model's scores on them make.

    Parameters
    ----------
    rows
        Of the card's signature.
    scores
        float64 (n, len(card.outputs)), the served model's on these rows.
    source
        Where the rows are from, in words.
    bins
        Quantile bins of a numeric feature, and of the score.
    """
    signature = card.signature
    columns: dict[str, NDArray[Any]] = {}
    for name in signature.names:
        if name in signature.numbers:
            columns[name] = rows.numbers[:, signature.numbers.index(name)]
        else:
            columns[name] = rows.strings[:, signature.strings.index(name)]
    columns[SCORE] = score_of(card.task, scores)
    made: dict[str, FeatureBins] = {
        name: category_bins(values) if name in signature.strings else quantile_bins(values, bins)
        for name, values in columns.items()
    }
    counts = tuple(made[name].count(values) for name, values in columns.items())
    return ReferenceProfile(card.name, card.version, source, made, Profile(tuple(made), counts, len(rows)))


def encode_reference(reference: ReferenceProfile) -> bytes:
    """A reference as JSON; every float is exact."""
    features = {
        name: _Counted(to_plain(reference.bins[name]), counts.tolist())
        for name, counts in zip(reference.profile.features, reference.profile.counts, strict=True)
    }
    return msgspec.json.encode(
        _File(
            format=_FORMAT,
            model=reference.model,
            version=reference.version,
            source=reference.source,
            rows=reference.rows,
            features=features,
        )
    )


def decode_reference(content: bytes) -> ReferenceProfile:
    """Read what :func:`encode_reference` wrote.

    Raises
    ------
    DriftError
        If it is no reference, or damaged.
    """
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.DecodeError as error:
        raise DriftError(f"this is no reference ({error}): make it anew") from error
    if file.format != _FORMAT:
        raise DriftError(f"the reference has format {file.format}, this release reads {_FORMAT}: make it anew")
    bins = {name: from_plain(feature.bins) for name, feature in file.features.items()}
    counts = tuple(np.array(feature.counts, dtype=np.int64) for feature in file.features.values())
    for name, each in zip(bins, counts, strict=True):
        if len(each) != _places(bins[name]) or (each < 0).any():
            raise DriftError(f"the reference's counts of {name} do not fit its bins: make it anew")
    return ReferenceProfile(file.model, file.version, file.source, bins, Profile(tuple(bins), counts, file.rows))


def write_reference_profile(directory: Path, reference: ReferenceProfile) -> None:
    """Put a reference into a prepared directory."""
    (directory / REFERENCE_PROFILE).write_bytes(encode_reference(reference))


def read_reference_profile(directory: Path) -> ReferenceProfile | None:
    """The reference in a prepared directory; None where there is none.

    Raises
    ------
    DriftError
        If it is damaged, or cannot be read.
    """
    path = directory / REFERENCE_PROFILE
    try:
        return decode_reference(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DriftError(f"{path} cannot be read: {error}") from error
    except DriftError as error:
        raise DriftError(f"{path}: {error}") from error


def _places(bins: FeatureBins) -> int:
    return len(bins.categories) + 2 if isinstance(bins, CategoryBins) else len(bins.grid) + 2
