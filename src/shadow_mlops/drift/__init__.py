"""Has the data moved: windows to scores, scores to decisions, decisions to episodes and alerts.

>>> from shadow_mlops.drift import detect
>>> detect({"age": [20, 30, 40] * 50}, {"age": [60, 70, 80] * 50}).verdict
'retrain'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shadow_mlops.drift.detecting import detect

__all__ = ["detect"]


def __getattr__(name: str) -> Any:
    if name == "detect":
        from shadow_mlops.drift.detecting import detect  # noqa: PLC0415 - SciPy and Arrow, for whoever wants a report only

        return detect
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
