"""Tracking: Weights & Biases as a mirror of the run folder."""
