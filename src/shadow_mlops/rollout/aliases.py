"""The alias moves of a promotion, in an order in which no half of them can serve nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shadow_mlops.models.resolver import CHALLENGER, CHALLENGER_PREFIX, CHAMPION

PREVIOUS = "previous"
OLD_CHAMPION = f"{CHALLENGER_PREFIX}previous"
"""Role of the old champion where ``challenger`` is another version's."""


@dataclass(frozen=True, slots=True)
class Move:
    """One write to the registry: the alias now names the registry number, or nothing (None)."""

    alias: str
    number: str | None


def challenger_roles(aliases: Mapping[str, str]) -> dict[str, str]:
    """The aliases that name challengers, ``challenger`` first."""
    return {a: n for a, n in sorted(aliases.items()) if a == CHALLENGER or a.startswith(CHALLENGER_PREFIX)}


def alias_moves(aliases: Mapping[str, str], number: str) -> list[Move]:
    """What must be written so that a version is champion, and the champion before it ``previous`` and a challenger.

    The old champion takes over the challenger role of the new one; where that has none, ``challenger`` if it is free,
    else ``challenger-previous``. All other challengers keep their roles.

    Parameters
    ----------
    aliases
        All aliases of the model: alias -> registry number.
    number
        The new champion, not the present one.

    Notes
    -----
    ``champion`` is written last, so whoever is killed before has promoted nothing. Right before it the old champion's
    challenger role is written: for that moment an alias beside ``champion`` names the champion's version, and
    that is the sign by which the resolver knows the middle of a swap and waits a step. No other write stands between
    the two.

    Examples
    --------
    >>> for move in alias_moves({"champion": "1", "challenger": "2"}, "2"):
    ...     print(move.alias, move.number)
    previous 1
    challenger 1
    champion 2
    """
    old = aliases.get(CHAMPION)
    roles = challenger_roles(aliases)
    held = [alias for alias, named in roles.items() if named == number]
    seat: str | None = None
    if old is not None and old not in roles.values():
        free = OLD_CHAMPION if CHALLENGER in aliases else CHALLENGER
        seat = held[0] if held else free
    moves = [Move(PREVIOUS, old)] if old is not None and aliases.get(PREVIOUS) != old else []
    moves += [Move(alias, None) for alias in held if alias != seat]
    moves += [Move(seat, old)] if seat is not None else []
    return [*moves, Move(CHAMPION, number)]


def after_moves(aliases: Mapping[str, str], moves: list[Move]) -> dict[str, str]:
    """The aliases when all has been written."""
    result = dict(aliases)
    for move in moves:
        if move.number is None:
            result.pop(move.alias, None)
        else:
            result[move.alias] = move.number
    return result
