"""The part of the lake that a comparison looks at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# In a canary step the challenger answers and the champion shadows: here both are put back into their places.
_SIDES = ("version", "score", "label", "scores", "latency_us")
_TURNED = ", ".join(
    f"CASE WHEN swapped THEN {other} ELSE {name} END AS {name}"
    for side in _SIDES
    for name, other in ((side, f"champion_{side}"), (f"champion_{side}", side))
)
_TURNED_PAIRS = f"""{_TURNED}, CASE WHEN swapped THEN champion_p_outcome ELSE p_outcome END AS p_outcome,
    CASE WHEN swapped THEN p_outcome ELSE champion_p_outcome END AS champion_p_outcome"""
_ANY_SWAPPED = "SELECT coalesce(bool_or(swapped), false) FROM results"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of event time.

    Attributes
    ----------
    since
        Inclusive; None: from the first event.
    until
        Exclusive; None: to the last event.
    """

    since: datetime | None = None
    until: datetime | None = None

    @property
    def bounded(self) -> bool:
        """Whether it leaves anything out."""
        return self.since is not None or self.until is not None

    def open(self, connection: Any) -> None:
        """Make the views ``spanned_events``, ``spanned_results`` and ``spanned_pairs``.

        Parameters
        ----------
        connection
            DuckDB connection with the lake's views.
        """
        conditions = []
        if self.since is not None:
            conditions.append(f"time >= {_literal(self.since)}")
        if self.until is not None:
            conditions.append(f"time < {_literal(self.until)}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        ((swapped,),) = connection.execute(_ANY_SWAPPED).fetchall()
        for table, turned in (("events", ""), ("results", _TURNED), ("pairs", _TURNED_PAIRS)):
            columns = f"* REPLACE ({turned})" if turned and swapped else "*"  # to turn none costs a sixth of a scan
            view = f"CREATE OR REPLACE TEMP VIEW spanned_{table} AS SELECT {columns} FROM {table}{where}"  # noqa: S608 - constants
            connection.execute(view)


def rfc3339(moment: datetime | None) -> str | None:
    """A moment as JSON says it; None stays None."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment is not None else None


def _literal(moment: datetime) -> str:
    # DuckDB takes no parameters in the definition of a view.
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat()}'"
