"""The part of the lake that a comparison looks at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_VIEWS = {
    "spanned_events": "CREATE OR REPLACE TEMP VIEW spanned_events AS SELECT * FROM events",
    "spanned_results": "CREATE OR REPLACE TEMP VIEW spanned_results AS SELECT * FROM results",
    "spanned_pairs": "CREATE OR REPLACE TEMP VIEW spanned_pairs AS SELECT * FROM pairs",
}


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
        for statement in _VIEWS.values():
            connection.execute(statement + where)


def rfc3339(moment: datetime | None) -> str | None:
    """A moment as JSON says it; None stays None."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment is not None else None


def _literal(moment: datetime) -> str:
    # DuckDB takes no parameters in the definition of a view.
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat()}'"
