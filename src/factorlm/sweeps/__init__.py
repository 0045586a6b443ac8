"""Sweeps: which points of a search space to try, and what came of each."""
