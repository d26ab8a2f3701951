"""Champion and challengers on the same pairs: how often they agree, how good each is, what became of each event."""

from shadow_mlops.comparison.closer import LISTED, Look
from shadow_mlops.comparison.comparing import compare
from shadow_mlops.comparison.disagreements import Disagreements, Said
from shadow_mlops.comparison.html import page
from shadow_mlops.comparison.report import Account, Against, Challenger, Comparison, Figures, ScoreDifference, Side
from shadow_mlops.comparison.segments import Segments

__all__ = [
    "LISTED",
    "Account",
    "Against",
    "Challenger",
    "Comparison",
    "Disagreements",
    "Figures",
    "Look",
    "Said",
    "ScoreDifference",
    "Segments",
    "Side",
    "compare",
    "page",
]
