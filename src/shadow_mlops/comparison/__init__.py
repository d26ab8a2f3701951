"""Champion and challengers on the same pairs: how often they agree, how good each is, what became of each event."""

from shadow_mlops.comparison.comparing import compare
from shadow_mlops.comparison.report import Account, Against, Challenger, Comparison, Figures, ScoreDifference, Side

__all__ = ["Account", "Against", "Challenger", "Comparison", "Figures", "ScoreDifference", "Side", "compare"]
