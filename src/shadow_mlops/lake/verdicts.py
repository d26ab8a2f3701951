"""What became of reported outcomes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from shadow_mlops.lake.matching import VERDICTS
from shadow_mlops.lake.queries import connect, reading

_QUERY = """
SELECT verdict, count(*) FROM labels WHERE outcome_segment IN (SELECT unnest($segments)) GROUP BY verdict
"""


def verdicts(lake: Path, segments: Collection[int]) -> dict[str, int]:
    """Verdict -> how many outcomes of these segments have it.

    Parameters
    ----------
    segments
        Segments of the stream ``outcomes``.

    Raises
    ------
    LakeError
        If the lake cannot be read.
    """
    with reading(lake), closing(connect(lake)) as connection:
        found = dict(connection.execute(_QUERY, {"segments": list(segments)}).fetchall())
    return dict.fromkeys(VERDICTS, 0) | found
