"""Whether labels came for all: a decision that keeps its own outcome from being seen must not judge itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from scipy.stats import fisher_exact

LEAST = 0.9
MOST_APART = 0.05
SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class Covered:
    """Pairs of one cell, and how many of them have a label."""

    name: str
    pairs: int
    labelled: int

    @property
    def share(self) -> float:
        """Labelled part; 1 of an empty cell."""
        return self.labelled / self.pairs if self.pairs else 1.0


def objections(groups: tuple[tuple[Covered, ...], ...]) -> tuple[str, ...]:
    """Why the labels are no fair sample of the pairs; empty if nothing speaks against it.

    Parameters
    ----------
    groups
        Groups of cells that must be alike: by the champion's decision, and by who disagreed how. A cell below 90 % is
        an objection, and so are two cells of a group that differ by more than 5 points with p < 0.01 (Fisher's exact
        test).
    """
    thin = [
        f"only {cell.share:.1%} of {cell.pairs:,} pairs with {cell.name} have a label, {LEAST:.0%} are needed"
        for group in groups
        for cell in group
        if cell.share < LEAST
    ]
    uneven = [
        f"labels came for {one.share:.1%} of the pairs with {one.name} but {other.share:.1%} of those with {other.name}"
        for group in groups
        for one, other in combinations(group, 2)
        if one.pairs and other.pairs and _apart(one, other)
    ]
    return (*thin, *uneven)


def _apart(one: Covered, other: Covered) -> bool:
    if abs(one.share - other.share) <= MOST_APART:
        return False
    table = [[c.labelled, c.pairs - c.labelled] for c in (one, other)]
    return bool(fisher_exact(table).pvalue < SIGNIFICANT)
