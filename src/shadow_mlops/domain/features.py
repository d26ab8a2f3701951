"""What goes into a model: named, typed, ordered features."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["number", "integer", "boolean", "string"]
"""``integer`` and ``boolean`` travel as numbers; a missing number is NaN, a missing string None."""


class Feature(msgspec.Struct, frozen=True):
    """One input of a model."""

    name: str
    kind: Kind = "number"


class Signature(msgspec.Struct, frozen=True, dict=True):
    """The ordered features of a model.

    Arrays that belong to a signature come as a pair: ``numbers``, float64 of shape (rows, len(signature.numbers)),
    and ``strings``, object of shape (rows, len(signature.strings)) holding str or None.

    Examples
    --------
    >>> s = Signature((Feature("tenure"), Feature("gender", "string"), Feature("partner", "boolean")))
    >>> s.numbers, s.strings
    (('tenure', 'partner'), ('gender',))
    """

    features: tuple[Feature, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All feature names, in the model's order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Names that travel in the float matrix, in order."""
        return tuple(f.name for f in self.features if f.kind != "string")

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """Names that travel as strings, in order."""
        return tuple(f.name for f in self.features if f.kind == "string")
