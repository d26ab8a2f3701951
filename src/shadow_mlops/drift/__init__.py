"""Has the data moved: windows to scores, scores to decisions, decisions to episodes and alerts."""
