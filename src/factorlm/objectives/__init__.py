"""Objectives: scores of positives and of other candidates to a loss. B rows, C candidates."""
